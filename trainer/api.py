"""The commands as functions, for notebooks and programs: the same runs, the same directories, the same errors.

Errors are those of ``trainer.errors``; nothing here ends the process. When a run was started in the main thread,
Ctrl-C, SIGTERM, SIGUSR1 and SIGUSR2 end it after a checkpoint, as in the commands. Afterwards the previous handlers are
restored.

TensorFlow sets its threads, devices and determinism once in a process. A second run in the same process works when its
``runtime.{threads,device,virtual_devices,deterministic,xla}`` are those of the first, and is refused otherwise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.command_line import resume_command
from trainer.config.arguments import parse_arguments
from trainer.config.compose import compose_run
from trainer.config.contracts import Split
from trainer.config.override import strategy_asked
from trainer.config.schema.training import WeightsName
from trainer.config.spelling import is_given
from trainer.config.urls import is_url
from trainer.errors import TrainerError, UsageError
from trainer.inference.classification_report import ClassificationReport
from trainer.run_directory.occupancy import is_stamp, own_place
from trainer.runtime import streams
from trainer.runtime.importing import importing_quietly
from trainer.runtime.signals import StopRequest

if TYPE_CHECKING:
    from trainer.inference.predictor import Predictor
    from trainer.run.session import Ending

TRAINING_VALUES = ("loss", "accuracy", "learning_rate", "images_per_second")


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The result of a run.

    ``status`` is ``finished`` when the run has reached its length, ``stopped_early`` when validation no longer
    improved, ``complete`` when nothing was left to do. ``training`` has the values of the last training record (loss:
    the whole objective in nats; accuracy: a share; learning_rate; images_per_second, unless it covers only the step
    that the process traced). ``validation`` has those of the last validation (loss: cross-entropy in nats; accuracy: a
    share; skipped: examples; macro_f1, balanced_accuracy and auroc: shares, NaN where undefined). Each is None without
    a record.
    """

    run_dir: Path
    step: int
    status: Ending
    training: Mapping[str, float] | None
    validation: Mapping[str, float] | None


def train(overrides: Sequence[str] = ()) -> RunResult:
    """``python -m trainer train``: start a run. With ``on_existing=resume``, continue the existing run; with
    ``on_existing=restart``, set it aside and begin again.

    ``overrides`` are the command's arguments in Hydra's grammar: ``["optimizer=sgd", "train.epochs=3"]``; ``run_dir``,
    ``init_from``, ``allow`` and ``on_existing`` are among them. One run, no ``--multirun``.

    Raises:
        UsageError: an override or the data is wrong, the directory has a run already or somebody else's files, places
            overlap, or this process cannot run it.
        NoValidCheckpoint: the existing run has lost its checkpoints.
        RestoreRefused: the existing run, or the weights that ``init_from`` names, do not match.
        TrainingFailed, NotSaved, RunDirectoryInUse: as their names say.
        Stopped: a signal ended the run after a checkpoint; ``resume`` continues from it.
    """
    flags = [override for override in overrides if override.startswith("-")]
    if flags:
        raise UsageError(f"{flags[0]} is a flag of the command line; train() takes key=value only")
    invocation, config = compose_run(overrides)
    run_dir = Path(invocation.run_dir).absolute()
    with _running(config.runtime.strategy) as stop, contextlib.ExitStack() as stack:
        from trainer.run import session

        chosen = is_given("run_dir", overrides) or not is_stamp(run_dir)
        if not chosen and not config.train.fast_dev_run:
            run_dir = stack.enter_context(own_place(run_dir))
        ending = session.train(dataclasses.replace(invocation, run_dir=str(run_dir)), config, stop)
    assert ending is not None, "this process is the only one"
    if config.train.fast_dev_run:
        return RunResult(run_dir, 0, ending, training=None, validation=None)  # nothing is kept
    return _result(run_dir, ending)


def resume(
    run_dir: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    checkpoint: str | os.PathLike[str] = "latest",
    allow: Sequence[str] = (),
) -> RunResult:
    """``python -m trainer resume``: rebuild a run from its stored configuration and continue it.

    ``checkpoint`` is ``latest``, ``best``, ``step-N`` or a path. ``overrides`` are configuration keys to change, such
    as ``["train.steps=500"]``. ``allow`` names those of them, or their sections, that may change the result.

    Raises:
        UsageError: a directory or key does not exist, or this process cannot run it.
        NoValidCheckpoint: there is no checkpoint to continue from, or it is damaged.
        Unreadable: a file of it cannot be read now.
        RestoreRefused: configuration, code or data are not those of the checkpoint.
        TrainingFailed, NotSaved, RunDirectoryInUse, Stopped: as in ``train``.
    """
    if is_url(os.fspath(run_dir)):
        raise UsageError(f"resume() takes a directory; this fetches it first:\n  {resume_command(str(run_dir))}")
    values = parse_arguments(overrides)
    place = _place(run_dir)
    with _running(strategy_asked(values)) as stop:
        from trainer.run import session

        ending = session.resume(place, os.fspath(checkpoint), values, allow, stop)
    assert ending is not None, "this process is the only one"
    return _result(place, ending)


def evaluate(
    run_dir: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    checkpoint: str | os.PathLike[str] = "latest",
    split: Split | None = None,
    weights: WeightsName | None = None,
    flip: bool = False,
    allow: Sequence[str] = (),
) -> ClassificationReport:
    """``python -m trainer evaluate``: the results of a checkpoint over every example of a split, each once.

    ``overrides`` are keys of ``data`` and ``evaluation.batch_size``. ``split`` is None for validation, or for all of
    an image folder that has no splits and that the run was not trained on. ``weights`` is ``raw`` or ``ema``, or None
    for the weights that the run's validations use. With ``flip``, the probabilities are the mean over each image and
    its mirror image. Nothing is written.

    Raises:
        UsageError: an override is wrong or the data cannot be read.
        NoValidCheckpoint: the checkpoint does not exist or is damaged.
        RestoreRefused: program and checkpoint do not match, or the data has classes that the checkpoint does not know.
    """
    with _without_leftovers():
        with importing_quietly():
            from trainer.inference.evaluate import Request, evaluate_checkpoint

        place = _place(run_dir)
        return evaluate_checkpoint(Request(place, os.fspath(checkpoint), overrides, split, weights, flip, allow)).report


def load(
    run_dir: str | os.PathLike[str],
    *,
    checkpoint: str | os.PathLike[str] = "latest",
    weights: WeightsName | None = None,
    allow: Sequence[str] = (),
) -> Predictor:
    """The network of a run, verified and ready for prediction: ``load("outputs/mine").predict(["a.jpg"])``.

    ``checkpoint`` is ``latest``, ``best``, ``step-N`` or a path. ``weights`` is ``raw`` or ``ema``, or None for the
    weights that the run's validations use. Nothing is written, and the run may be training meanwhile.

    Raises:
        UsageError: the directory does not exist, or the run keeps no averages.
        NoValidCheckpoint: the checkpoint does not exist or is damaged.
        RestoreRefused: this program builds another network, or preprocesses images or evaluates differently;
            ``allow=["behaviour", "step"]`` accepts the latter two.
    """
    with _without_leftovers():
        with importing_quietly():
            from trainer.inference.predictor import predictor

        return predictor(_place(run_dir), os.fspath(checkpoint), weights, allow)


def _place(run_dir: str | os.PathLike[str]) -> Path:
    """
    Raises:
        UsageError: it is empty. As a path that would be the current directory.
    """
    if not os.fspath(run_dir).strip():
        raise UsageError("run_dir is empty; name the directory of the run")
    return Path(run_dir).absolute()


@contextlib.contextmanager
def _running(strategy: str) -> Iterator[StopRequest]:
    """While the block runs, a signal asks the run to commit a checkpoint and end.

    Raises:
        UsageError: this is one of several processes that were started to share a run.
    """
    with _without_leftovers():
        with importing_quietly():
            from trainer.distributed.membership import cluster_of

        if cluster_of(strategy, os.environ) is not None:
            raise UsageError(
                "this process is one of several that were started to share a run (TF_CONFIG, TRAINER_WORKERS, "
                "SkyPilot or srun); such processes end together\n"
                "start them with python -m trainer, or set runtime.strategy=one"
            )
        stop = StopRequest()
        with stop.installed(), streams.spelling():
            yield stop


@contextlib.contextmanager
def _without_leftovers() -> Iterator[None]:
    """Free the objects in the frames of an error. A notebook keeps the last traceback, and with it an input pipeline,
    whose threads would keep the process from ending. The frames of a bug are left for a debugger.
    """
    try:
        yield
    except TrainerError as error:
        reason: BaseException | None = error
        while reason is not None:
            traceback.clear_frames(reason.__traceback__)
            reason = reason.__cause__ or reason.__context__
        raise


def _result(run_dir: Path, ending: Ending) -> RunResult:
    from trainer.checkpoint import directory
    from trainer.run_directory.layout import CHECKPOINTS
    from trainer.run_directory.metrics import last_training, read_validations

    validations = read_validations(run_dir)
    training = last_training(run_dir)
    return RunResult(
        run_dir=run_dir,
        step=directory.step_of(directory.committed(run_dir / CHECKPOINTS)[-1]),
        status=ending,
        training={name: training[name] for name in TRAINING_VALUES if name in training} if training else None,
        validation=validations[max(validations)] if validations else None,
    )
