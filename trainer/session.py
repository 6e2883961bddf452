"""One process working on one run: wiring configuration, data, state, checkpoints and reports around the loop."""

from __future__ import annotations

import dataclasses
import shlex
import socket
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from trainer import environment, predictions, run_directory, selection, warm_start
from trainer.beginning import Beginning, begin
from trainer.checkpoint import directory
from trainer.checkpoint.files import replace
from trainer.checkpoint.manifest import Manifest, Start
from trainer.checkpoint.retention import Retention
from trainer.checkpoint.verification import Depth, Found, newest_valid, verify
from trainer.committer import Committer, Description
from trainer.company import company
from trainer.config import override, plugins, stored
from trainer.config.complete import complete, total_steps
from trainer.config.schema import Config, Invocation
from trainer.errors import NoValidCheckpoint, TrainerError, UsageError, warn
from trainer.fingerprint import facts
from trainer.following import follow
from trainer.history import History, keep_readable
from trainer.lease import Fence
from trainer.loop import train as run_loop
from trainer.metrics import best_step, read_validations
from trainer.mirror import Mirror, Place
from trainer.peers import Message, Peers
from trainer.rebuilding import Origin, Rebuilt, rebuild
from trainer.signals import StopRequest
from trainer.sources import open_sources
from trainer.state import TrainingState
from trainer.tensorboard import TensorBoard
from trainer.terminal import Terminal
from trainer.warm_start import WarmStart

# how a run ended: at its length, because validation no longer improved, or nothing was left to do
Ending = Literal["finished", "stopped_early", "complete"]


@dataclasses.dataclass(frozen=True)
class Process:
    """This process: what asks it to stop, and the others of the run, whose chief it is; None when there are none."""

    stop: StopRequest
    peers: Peers | None

    def tell(self, message: Message) -> None:
        if self.peers is not None:
            self.peers.tell(message)


def train(invocation: Invocation, config: Config, stop: StopRequest) -> Ending | None:
    """Start a run in ``run_dir``; with ``on_existing="resume"``, continue the one that is there.

    None is returned where another process is the chief, which knows how the run ended.

    Raises:
        UsageError: there are checkpoints already, or the configuration does not fit the data.
        RestoreRefused: ``config`` differs from the run that is there in a key that changes the result.
    """
    with company(config.runtime.strategy, stop) as peers:
        if peers is None or peers.is_chief:
            return _train(invocation, config, Process(stop, peers))
        follow(peers, stop)
        return None


def _train(invocation: Invocation, config: Config, process: Process) -> Ending:
    run_dir = Path(invocation.run_dir)
    with run_directory.writing(run_dir):
        checkpoints = run_dir / run_directory.CHECKPOINTS
        if not directory.committed(checkpoints) and not directory.put_away(checkpoints):
            start = None
            if invocation.init_from is not None:
                warm_start.check_model(config)
                contents = warm_start.find(Path(invocation.init_from))
                start = WarmStart(contents, invocation.allow, classes_follow_data=config.model.num_classes is None)
            return _run(run_dir, config, None, process, start)
        if invocation.on_existing == "resume":
            found = newest_valid(checkpoints, config.checkpoint.verify, warn)
            return _continue(run_dir, found, lambda there: config, invocation.allow, process)
        raise UsageError(
            f"{run_dir} has checkpoints already; to continue that run:\n"
            f"  {_resume_command(run_dir)}\n"
            "or add on_existing=resume to this command, or choose another run_dir"
        )


def resume(
    run_dir: Path, checkpoint: str, values: Mapping[str, object], allow: Sequence[str], stop: StopRequest
) -> Ending | None:
    """Continue the run in ``run_dir`` from a checkpoint: ``latest``, ``best``, ``step-N`` or a path.

    ``values`` are configuration keys to change, ``allow`` the changes that may change the result. None is returned as
    by ``train``.

    Raises:
        UsageError: a directory or key does not exist.
        NoValidCheckpoint: what was asked for does not exist or is damaged.
        RestoreRefused: a change is not one that a resume may make, or code or data are not those of the checkpoint.
    """
    with company(override.strategy_asked(values), stop) as peers:
        if peers is None or peers.is_chief:
            return _resume(run_dir, checkpoint, values, allow, Process(stop, peers))
        follow(peers, stop)
        return None


def _resume(
    run_dir: Path, checkpoint: str, values: Mapping[str, object], allow: Sequence[str], process: Process
) -> Ending:
    if not run_dir.is_dir() and not Path(checkpoint).is_dir():
        raise UsageError(f"run_dir={run_dir} does not exist")
    with run_directory.writing(run_dir):
        found = selection.find(run_dir, checkpoint, _depth(run_dir, values), warn)
        return _continue(run_dir, found, lambda there: override.override(there, values), allow, process)


def replay(checkpoint: Path, config: Config, allow: Sequence[str], run_dir: Path) -> Path:
    """Train from ``checkpoint`` to ``config.train.steps`` in another run directory; returns what is committed there.

    Raises:
        RestoreRefused: code, data or ``config`` are not those of the checkpoint.
    """
    with run_directory.writing(run_dir):
        found = Found(checkpoint, verify(checkpoint, "full"), ())
        _continue(run_dir, found, lambda there: config, allow, Process(StopRequest(), None))
    return directory.committed(run_dir / run_directory.CHECKPOINTS)[-1]


def _depth(run_dir: Path, values: Mapping[str, object]) -> Depth:
    """How thoroughly to verify: as asked for now, else as the run was last told, and fully where that is unreadable."""
    asked = values.get("checkpoint.verify")
    for depth in typing.get_args(Depth):
        if asked == depth:
            return depth
    try:
        return stored.read(run_dir / stored.FILE_NAME).checkpoint.verify
    except NoValidCheckpoint:
        return "full"


def _continue(
    run_dir: Path,
    found: Found,
    want: Callable[[Config], Config],
    allow: Sequence[str],
    process: Process,
) -> Ending:
    others = plugins.refuse_others(found.manifest.versions, allow, found.path)
    there = stored.read(found.path / stored.FILE_NAME)
    wanted = want(there)
    changes = override.changes(there, wanted)
    config = override.adopt(there, wanted, changes)
    origin = Origin(found.path, found.manifest, found.damaged, changes, allow, others)
    return _run(run_dir, config, origin, process, None)


def _run(run_dir: Path, config: Config, origin: Origin | None, process: Process, start: WarmStart | None) -> Ending:
    sources = open_sources(config)
    config = complete(config, sources.sampling.examples_per_epoch, len(sources.training.class_names))
    total = total_steps(config, sources.sampling.examples_per_epoch)
    if origin is not None and _is_complete(run_dir, origin, total):
        process.tell({"config": None})
        print(f"{run_dir} is complete at step {origin.manifest.step} of {total}")
        print(f"to train on: {_resume_command(run_dir, f'train.steps={2 * total}')}")
        return "complete"
    process.tell({"config": stored.to_text(config)})
    rebuilt = rebuild(config, total, sources, origin, start, process.peers, process.stop)
    # Nothing in the directory has been touched so far; from here on this process is its writer.
    Fence(run_dir / run_directory.LOCK).look_now()
    checkpoints = run_dir / run_directory.CHECKPOINTS
    directory.remove_leftovers(checkpoints)
    replace(run_dir / stored.FILE_NAME, stored.to_text(config).encode())
    keep_readable(run_dir, None if origin is None else origin.metrics(checkpoints), warn)
    history = History(run_dir, rebuilt.step)
    terminal = Terminal(run_dir / run_directory.LOG, rebuilt.step, total)
    try:
        for line in [*_opening(run_dir, rebuilt, origin), *rebuilt.notes]:
            terminal.line(line)
        if origin is not None:
            _make_way(checkpoints, origin, terminal)
        predictions.forget_later(run_dir, rebuilt.step)
        lineage = _lineage(rebuilt.step, origin, rebuilt.accepted, start)
        views = TensorBoard(run_dir, history.events, config, rebuilt.state, sources.validation, lineage)
        committer = _committer(run_dir, rebuilt, origin, lineage, history, terminal, process)
        try:
            _loop(rebuilt, checkpoints, committer, history, terminal, views, process)
        finally:
            views.close()
            committer.close()
        _summarize(run_dir, config, rebuilt.state, history, terminal)
    except TrainerError as error:
        terminal.log(f"{type(error).__name__}: {error}")
        raise
    finally:
        history.close()
        terminal.close()
    return "finished" if rebuilt.step >= total else "stopped_early"


def _committer(
    run_dir: Path,
    rebuilt: Rebuilt,
    origin: Origin | None,
    lineage: tuple[Start, ...],
    history: History,
    terminal: Terminal,
    process: Process,
) -> Committer:
    config, progress = rebuilt.config, rebuilt.state.progress
    retention = _retention(config)
    mirror = None
    if config.checkpoint.mirror is not None:
        mirror = Mirror(Place(config.checkpoint.mirror), run_dir, retention, lineage[0], rebuilt.step)
    description = Description(
        config=config,
        fingerprint=rebuilt.fingerprint,
        class_names=rebuilt.sources.training.class_names,
        examples_per_epoch=rebuilt.sources.sampling.examples_per_epoch,
        versions=rebuilt.versions,
        lineage=lineage,
    )
    return Committer(
        checkpoints=run_dir / run_directory.CHECKPOINTS,
        description=description,
        progress=progress,
        state_file=rebuilt.state_file,
        history=history,
        terminal=terminal,
        retention=retention,
        mirror=mirror,
        last_good=None if origin is None else origin.path,
        when_finished=lambda: process.tell({"committed": int(progress.step.numpy())}),
    )


def _loop(
    rebuilt: Rebuilt,
    checkpoints: Path,
    committer: Committer,
    history: History,
    terminal: Terminal,
    views: TensorBoard,
    process: Process,
) -> None:
    config, state, sources = rebuilt.config, rebuilt.state, rebuilt.sources
    # a checkpoint that was taken from elsewhere is not in this directory yet
    committed_step = rebuilt.step if (checkpoints / directory.name_of(rebuilt.step)).is_dir() else None
    fingerprint = facts.to_text(rebuilt.fingerprint)
    beginning = Beginning(rebuilt.total_steps, committed_step, history.validations, fingerprint)
    process.tell(beginning.message())
    run_loop(begin(beginning, config, state, sources, process.stop, committer, history, terminal, views))


def _retention(config: Config) -> Retention:
    policy = config.checkpoint
    return Retention(policy.keep_last, policy.keep_best, policy.keep_every_steps, policy.best_metric)


def _make_way(checkpoints: Path, origin: Origin, terminal: Terminal) -> None:
    """Put away what the run that continues from ``origin`` has no use for. Nothing is deleted."""
    for damage in origin.damaged:
        place = directory.quarantine(damage.path, damage.reason)
        terminal.line(f"moved the damaged {damage.path.name} to {place}")
    step = origin.manifest.step
    later = [path for path in directory.committed(checkpoints) if directory.step_of(path) > step]
    here = checkpoints / directory.name_of(step)
    if here.is_dir() and here.resolve() != origin.path.resolve() and not _is_same(here, origin.manifest):
        later.insert(0, here)  # another state of the same step
    directory.set_aside(later)
    for path in later:
        terminal.line(f"set aside {path.name}, which this run will make again")


def _is_same(here: Path, other: Manifest) -> bool:
    """Whether a checkpoint of this run holds what one from elsewhere holds."""
    try:
        return verify(here, "full").files == other.files
    except NoValidCheckpoint:
        return False


def _opening(run_dir: Path, rebuilt: Rebuilt, origin: Origin | None) -> list[str]:
    step, total = rebuilt.step, rebuilt.total_steps
    replicas = rebuilt.state.replicas
    shared = [f"{replicas.count} replicas in {replicas.processes} processes"] if replicas.count > 1 else []
    if origin is None:
        count = rebuilt.sources.training.count
        return [f"training in {run_dir}: {total} steps, {count} training images", *shared]
    changed = [f"changed on resume: {change}" for change in rebuilt.accepted]
    return [f"resuming {run_dir} at step {step} of {total} from {origin.path}", *shared, *changed]


def _is_complete(run_dir: Path, origin: Origin, total: int) -> bool:
    """Whether nothing is left to do. With changes other than of free keys the answer is a judgement, not "complete"."""
    step, validation = origin.manifest.step, origin.manifest.validation
    evaluated = validation is not None or step in read_validations(run_dir) or step == 0
    return step >= total and evaluated and all(change.policy == "free" for change in origin.changes)


def _lineage(step: int, origin: Origin | None, accepted: Sequence[str], warm: WarmStart | None) -> tuple[Start, ...]:
    came_from = origin.path if origin is not None else warm.contents.path if warm is not None else None
    start = Start(
        started=environment.now(),
        host=socket.gethostname(),
        from_step=step,
        checkpoint=None if came_from is None else str(came_from),
        changes=tuple(accepted),
    )
    return (start,) if origin is None else (*origin.manifest.lineage, start)


def _summarize(run_dir: Path, config: Config, state: TrainingState, history: History, terminal: Terminal) -> None:
    progress = state.progress
    step = int(progress.step.numpy())
    rows: list[tuple[str, str]] = []
    best = best_step(history.validations, config.checkpoint.best_metric)
    if best is not None:
        for name, at in (("last", max(history.validations)), ("best", best)):
            values = history.validations[at]
            scores = f"validation accuracy {values['accuracy']:.4f}  loss {values['loss']:.4f}"
            rows.append((name, f"{scores}  checkpoints/{directory.name_of(at)}"))
    place = f"run_dir={run_dir}"
    rows += [
        ("run", str(run_dir)),
        ("report", shlex.join(["python", "-m", "trainer", "report", place])),
        ("look", shlex.join(["tensorboard", "--logdir", str(run_dir / run_directory.TENSORBOARD)])),
        ("more", _resume_command(run_dir, f"train.steps={2 * step}")),
    ]
    terminal.closing(f"done at step {step}", rows)


def _resume_command(run_dir: Path, *arguments: str) -> str:
    return run_directory.resume_command(run_dir, *arguments)
