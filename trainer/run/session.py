"""One process working on one run: wiring configuration, data, state, checkpoints and reports around the loop."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from trainer.checkpoint import directory
from trainer.checkpoint.manifest import Start
from trainer.checkpoint.retention import Retention
from trainer.checkpoint.verification import Depth, Found, newest_valid, verify
from trainer.command_line import resume_command
from trainer.config import override, plugins, stored
from trainer.config.complete import complete, total_steps
from trainer.config.schema import Config, Invocation
from trainer.data.opened import open_sources
from trainer.distributed.membership import company
from trainer.distributed.peers import Message, Peers
from trainer.errors import NoValidCheckpoint, TrainerError, UsageError, warn
from trainer.fingerprint import facts
from trainer.monitoring.tensorboard import TensorBoard
from trainer.monitoring.terminal import Terminal
from trainer.run import overlaps, warm_start
from trainer.run.assembly import Rebuilt, rebuild
from trainer.run.checkpointer import Committer, Description
from trainer.run.continuation import Origin, is_complete, lineage_of, make_way
from trainer.run.summary import opening, summarize
from trainer.run.warm_start import WarmStart
from trainer.run.wiring import Beginning, begin
from trainer.run.worker import follow
from trainer.run_directory import layout, lock, occupancy, validation_predictions, which_checkpoint
from trainer.run_directory.history import History, keep_readable
from trainer.run_directory.mirror import Mirror
from trainer.run_directory.mirror_place import Place
from trainer.runtime.signals import StopRequest
from trainer.storage import holding
from trainer.storage.durable import replace
from trainer.storage.unreadable import is_directory
from trainer.training.loop import train as run_loop

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
    """Start a run in ``run_dir``; with ``on_existing="resume"``, continue the one that is there, with ``"restart"``
    keep it aside and begin again.

    None is returned where another process is the chief, which knows how the run ended.

    Raises:
        UsageError: there are checkpoints already, or somebody else's files, places overlap, or the configuration does
            not fit the data.
        NoValidCheckpoint: a run was there and its checkpoints are gone.
        RestoreRefused: ``config`` differs from the run that is there in a key that changes the result.
    """
    with company(config.runtime.strategy, stop) as peers:
        if peers is None or peers.is_chief:
            return _train(invocation, config, Process(stop, peers))
        follow(peers, stop)
        return None


def _train(invocation: Invocation, config: Config, process: Process) -> Ending:
    run_dir, restart = Path(invocation.run_dir), invocation.on_existing == "restart"
    overlaps.refuse(run_dir, config, invocation.init_from)
    with lock.writing(run_dir):
        checkpoints = run_dir / layout.CHECKPOINTS
        if restart or occupancy.is_vacant(run_dir, occupancy.ADVICE):
            start = None
            if invocation.init_from is not None:
                warm_start.check_model(config)
                contents = warm_start.find(Path(invocation.init_from))
                start = WarmStart(contents, invocation.allow, classes_follow_data=config.model.num_classes is None)
            return _run(run_dir, config, None, process, start, restart=restart)
        if invocation.on_existing == "resume":
            found = newest_valid(checkpoints, config.checkpoint.verify, warn)
            return _continue(run_dir, found, lambda there: config, invocation.allow, process)
        raise UsageError(
            f"{run_dir} has checkpoints already; to continue that run:\n"
            f"  {resume_command(run_dir)}\n"
            "or add on_existing=resume to this command, or choose another run_dir; on_existing=restart keeps that run "
            "aside and begins again"
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
    if not is_directory(run_dir) and not is_directory(Path(checkpoint)):
        raise UsageError(f"run_dir={run_dir} does not exist")
    occupancy.refuse_foreign(run_dir)
    with lock.writing(run_dir):
        if not Path(checkpoint).is_dir() and not occupancy.has_checkpoints(run_dir):
            occupancy.is_vacant(run_dir, occupancy.begin_again(run_dir))
        found = which_checkpoint.find(run_dir, checkpoint, _depth(run_dir, values), warn)
        return _continue(run_dir, found, lambda there: override.override(there, values), allow, process)


def replay(checkpoint: Path, config: Config, allow: Sequence[str], run_dir: Path) -> Path:
    """Train from ``checkpoint`` to ``config.train.steps`` in another run directory; returns what is committed there.

    Raises:
        RestoreRefused: code, data or ``config`` are not those of the checkpoint.
    """
    with lock.writing(run_dir):
        found = Found(checkpoint, verify(checkpoint, "full"), ())
        _continue(run_dir, found, lambda there: config, allow, Process(StopRequest(), None))
    return directory.committed(run_dir / layout.CHECKPOINTS)[-1]


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
    overlaps.refuse(run_dir, config, None)
    origin = Origin(found.path, found.manifest, found.damaged, changes, allow, others)
    return _run(run_dir, config, origin, process, None, restart=False)


def _run(
    run_dir: Path,
    config: Config,
    origin: Origin | None,
    process: Process,
    start: WarmStart | None,
    *,
    restart: bool,
) -> Ending:
    sources = open_sources(config)
    config = complete(config, sources.sampling.examples_per_epoch, len(sources.training.class_names))
    total = total_steps(config, sources.sampling.examples_per_epoch)
    if origin is not None and is_complete(run_dir, origin, total):
        process.tell({"config": None})
        print(f"{run_dir} is complete at step {origin.manifest.step} of {total}")
        print(f"to train on: {resume_command(run_dir, f'train.steps={2 * total}')}")
        return "complete"
    process.tell({"config": stored.to_text(config)})
    rebuilt = rebuild(config, total, sources, origin, start, process.peers, process.stop)
    lineage = lineage_of(rebuilt.step, origin, rebuilt.accepted, start)
    mirror = _mirror(holding.path_of(run_dir), rebuilt, lineage)
    # Nothing in the directory has been touched so far; from here on this process is its writer.
    place = layout.as_writer(run_dir)
    said = occupancy.begin(place, continues=origin is not None, restart=restart)
    checkpoints = layout.hold_checkpoints(run_dir)  # not before: a restart has moved the earlier ones away
    directory.remove_leftovers(checkpoints)
    replace(place / stored.FILE_NAME, stored.to_text(config).encode())
    metrics = None if origin is None else origin.metrics(run_dir / layout.CHECKPOINTS)
    keep_readable(place, metrics, lambda text: warn(holding.named(text)))
    history = History(place, rebuilt.step)
    terminal = Terminal(place / layout.LOG, rebuilt.step, total)
    try:
        for line in [*said, *opening(run_dir, rebuilt, origin), *rebuilt.notes]:
            terminal.line(line)
        if origin is not None:
            make_way(checkpoints, origin, terminal)
        validation_predictions.forget_later(place, rebuilt.step)
        views = TensorBoard(place, history.events, config, rebuilt.state, sources.validation, lineage)
        committer = _committer(place, rebuilt, origin, lineage, mirror, history, terminal, process)
        try:
            _loop(rebuilt, checkpoints, committer, history, terminal, views, process)
        finally:
            views.close()
            committer.close()
        summarize(run_dir, config, rebuilt.state, history, terminal)
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
    mirror: Mirror | None,
    history: History,
    terminal: Terminal,
    process: Process,
) -> Committer:
    config, progress = rebuilt.config, rebuilt.state.progress
    description = Description(
        config=config,
        fingerprint=rebuilt.fingerprint,
        class_names=rebuilt.sources.training.class_names,
        examples_per_epoch=rebuilt.sources.sampling.examples_per_epoch,
        versions=rebuilt.versions,
        lineage=lineage,
    )
    return Committer(
        checkpoints=run_dir / layout.CHECKPOINTS,
        description=description,
        progress=progress,
        state_file=rebuilt.state_file,
        history=history,
        terminal=terminal,
        retention=_retention(config),
        mirror=mirror,
        last_good=None if origin is None else origin.path,
        when_finished=lambda: process.tell({"committed": int(progress.step.numpy())}),
    )


def _mirror(run_dir: Path, rebuilt: Rebuilt, lineage: tuple[Start, ...]) -> Mirror | None:
    url = rebuilt.config.checkpoint.mirror
    return None if url is None else Mirror(Place(url), run_dir, _retention(rebuilt.config), lineage[0], rebuilt.step)


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
    beginning = Beginning(rebuilt.total_steps, committed_step, history.validations, fingerprint, rebuilt.versions)
    process.tell(beginning.message())
    run_loop(begin(beginning, config, state, sources, process.stop, committer, history, terminal, views))


def _retention(config: Config) -> Retention:
    policy = config.checkpoint
    return Retention(policy.keep_last, policy.keep_best, policy.keep_every_steps, policy.best_metric)
