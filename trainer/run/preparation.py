"""The steps of a run before its directory is touched: configuration, data, network, values."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.checkpoint.manifest import Start
from trainer.config import stored
from trainer.config.complete import complete, total_steps, with_initial_updates
from trainer.config.schema import Config
from trainer.data.batches import is_ready
from trainer.data.opened import Sources, open_sources
from trainer.data.sixteen_bits import check_range
from trainer.distributed.membership import Process, shares
from trainer.errors import UsageError
from trainer.fingerprint import program, versions
from trainer.fingerprint.collect import fingerprint_of
from trainer.fingerprint.facts import Fact
from trainer.models.layers import slowest_momentum
from trainer.run import fast_dev_run, short_run, suitability, train_on
from trainer.run.assembly import Assembly, assemble
from trainer.run.start_cache import start_cache_of
from trainer.run.starting_point import StartingPoint
from trainer.runtime.start_cache import StartCache


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that is ready to train."""

    config: Config
    total_steps: int
    data: Sources
    assembly: Assembly
    start: StartingPoint
    start_cache: StartCache | None
    fingerprint: list[Fact]
    versions: Mapping[str, str]  # for manifests
    accepted: tuple[str, ...]  # differences from the checkpoint that it continues
    lineage: tuple[Start, ...]
    notes: Sequence[str]
    warnings: Sequence[str]


def prepare(run_dir: Path, config: Config, start: StartingPoint, process: Process) -> Prepared | None:
    """Open the data, complete the configuration, build, compare with the checkpoint, restore. Nothing is written.

    The other processes of the run receive the configuration and do the same. Returns None when nothing is left to do.

    Raises:
        UsageError: the configuration does not fit the machine or the data.
        NoValidCheckpoint: the checkpoint is damaged.
        RestoreRefused: code or data differ from those of the checkpoint, or the steps ahead have no learning rate.
        PeerLost, Stopped: raised while the processes of the run met.
    """
    _stage("reading the data")
    data = open_sources(config)
    class_names = data.training.class_names
    new = start.checkpoint is None
    config = with_initial_updates(config, start.initial_updates)
    config = complete(config, data.sampling.examples_per_epoch, len(class_names))
    whole = total = total_steps(config, data.sampling.examples_per_epoch)
    if config.train.fast_dev_run:
        config, data, total = fast_dev_run.shortened(config, data, whole)
    if new:
        suitability.refuse_short_epochs(config, data.sampling.examples_per_epoch)
    done = start.complete_at(run_dir, total)
    if done is not None:
        process.tell({"config": None})
        beyond = f", beyond the {total} that were asked for" if done > total else f" of {total}"
        print(f"{run_dir} is complete at step {done}{beyond}")
        examples, waited = data.sampling.examples_per_epoch, start.patience_used()
        print(f"to train on: {train_on.longer(run_dir, config, done, total, examples, waited)}")
        return None
    process.tell({"config": stored.to_text(config), "code": dict(program.plugin_code(config))})
    shared = shares(config, process)
    _stage(f"building {config.model.name}")
    assembly = assemble(config, process, shared, drawn=start.draws_weights)
    cache = start_cache_of(config, assembly.state.replicas, assembly.state.model)
    fingerprint = fingerprint_of(config, assembly.state, data, cache)
    current = versions.of_run(config, assembly.state.replicas)
    accepted = start.judge(run_dir, fingerprint, current)
    ahead = start.look_ahead(run_dir, config, whole)
    _refuse_fewer_classes(config, class_names)
    suitability.refuse_too_many_scores(config, data.validation.count)
    warnings = [
        *ahead,
        # images can be decoded only now: TensorFlow's threads are set
        *([] if is_ready(config) else check_range(data.training, config.preprocess, new=new)),
        *suitability.warnings(config, data, new=new),
        *short_run.warnings(config, whole, slowest_momentum(assembly.state.model), None if new else run_dir),
    ]
    notes = start.fill(assembly, class_names)
    lineage = start.lineage(assembly.step, accepted)
    return Prepared(
        config, total, data, assembly, start, cache, fingerprint, current, accepted, lineage, notes, warnings
    )


def _stage(text: str) -> None:
    """Say what takes the next seconds, to a person who watches a terminal."""
    if sys.stdout.isatty():
        print(f"{text} …", flush=True)


def _refuse_fewer_classes(config: Config, class_names: tuple[str, ...]) -> None:
    assert config.model.num_classes is not None
    if config.model.num_classes < len(class_names):
        raise UsageError(
            f"model.num_classes is {config.model.num_classes}, but the data has {len(class_names)} classes; "
            "leave it null to follow the data"
        )
