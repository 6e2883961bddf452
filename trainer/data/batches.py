"""Batches as a pure function of (configuration, position).

No iterator is ever saved: a pipeline is opened at a position, and the position alone is in the state tree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from trainer.command_line import command_line
from trainer.config.schema import Config
from trainer.config.schema.sources import SyntheticConfig
from trainer.data.bad_records import BadRecords
from trainer.data.images.decoding import EncodedImage
from trainer.data.images.draw import Draw
from trainer.data.images.mixing import mixing_of
from trainer.data.images.transforms import network_input
from trainer.data.order.sampling import Sampling, times_skipped
from trainer.data.pipeline import Batches, Choice, Example, Numbers, Plan
from trainer.data.sources.source import Source
from trainer.data.sources.synthetic import ready_input

LAST_POSITION = 2**62


@dataclasses.dataclass(frozen=True)
class Part:
    """Which rows of every global batch a worker reads: part ``index`` of ``count`` equal ones, in order."""

    index: int
    count: int

    def rows(self, batch_size: int, blocks: int = 1) -> Numbers:
        """The rows of each of ``blocks`` equal blocks of a batch. ``blocks x count`` divides ``batch_size``.

        All workers together compute one block at a time.
        """
        assert batch_size % (blocks * self.count) == 0, "the caller chooses a count that divides the batch"
        return np.arange(batch_size).reshape(blocks, self.count, -1)[:, self.index].ravel()


WHOLE = Part(0, 1)


def training_batches(
    source: Source,
    config: Config,
    position: int,
    dropout_features: int,
    part: Part = WHOLE,
    warn: Callable[[str], None] = print,
    device: str | None = None,
) -> Batches:
    """Endless batches that begin at the global example number ``position``.

    Each element is a dict with B examples, the part's share of ``train.global_batch_size``: ``image`` float32
    ``[B, S, S, 3]``, ``label`` int64 ``[B]``, ``dropout`` float32 ``[B, dropout_features]`` uniform in [0, 1),
    ``ledger`` int64 ``[B]``, their entries in the ledger, ``substituted`` int64 ``[B]``, 1 for examples in the place
    of one that cannot be used or that ``train.skip_examples`` has, and where neighbours are mixed ``mixing`` float32
    ``[B, 5]``, see ``trainer.data.images.mixing``. The parts together are the whole batch, in each of the
    ``train.accumulate_steps`` blocks row for row. ``warn`` is called once for every bad record. The batches lie on
    ``device``, copied there ahead of time, or in the host's memory.
    """
    sampling = Sampling(source, config)

    def choose(positions: Numbers, bad: BadRecords) -> Choice:
        planned = sampling.records_at(positions)
        passed_over = times_skipped(positions, config.train.skip_examples)
        records = bad.substituted(positions, planned, passed_over, sampling.substitute, lambda: _check_command(config))
        return Choice(positions, records, substituted=records != planned, usable=np.ones(len(records), bool))

    def prepare(example: Example) -> Example:
        draw = Draw(config.seed, example["position"])
        return {
            "image": _image(example, config.preprocess.train, config, draw),
            "label": example["label"],
            "dropout": draw.uniform("dropout", dropout_features),
            "ledger": example["ledger"],
            "substituted": example["substituted"],
            **mixing_of(example["position"], config),
        }

    batch_size = config.train.global_batch_size
    starts = range(position, LAST_POSITION, batch_size)
    rows = part.rows(batch_size, config.train.accumulate_steps)
    plan = Plan(
        source, starts, rows, choose, prepare, is_ready(config), config.preprocess, config.runtime.threads, device
    )
    return Batches(plan, warn)


def evaluation_batches(
    source: Source,
    config: Config,
    part: Part = WHOLE,
    warn: Callable[[str], None] = print,
    device: str | None = None,
) -> Batches:
    """Every record once, in order. The last batch is filled up with copies of weight 0, so that all have one shape.

    Each element is a dict with B examples, the part's share of ``evaluation.batch_size``: ``image`` float32
    ``[B, S, S, 3]``, ``label`` int64 ``[B]``, ``weight`` float32 ``[B]``, and ``skipped`` int64 ``[B]``, 1 for records
    that cannot be used: their weight is 0, and the image is a blank one. ``warn`` is called once for each. ``device``
    is as for ``training_batches``.
    """

    def choose(positions: Numbers, bad: BadRecords) -> Choice:
        records = np.minimum(positions, source.count - 1)
        substituted = np.zeros(len(records), bool)
        return Choice(positions, records, substituted, usable=bad.usable(positions, records))

    def prepare(example: Example) -> Example:
        draw = Draw(config.seed, example["record"])
        there = example["position"] < source.count
        return {
            "image": _image(example, config.preprocess.eval, config, draw),
            "label": example["label"],
            "weight": tf.cast(there & example["usable"], tf.float32),
            "skipped": tf.cast(there & ~example["usable"], tf.int64),
        }

    batch_size = config.evaluation.batch_size
    starts = range(0, source.count, batch_size)
    rows = part.rows(batch_size)
    plan = Plan(
        source, starts, rows, choose, prepare, is_ready(config), config.preprocess, config.runtime.threads, device
    )
    return Batches(plan, warn)


def _check_command(config: Config) -> str:
    """The command that reads every record of the data once."""
    from trainer.config import reproduction  # imports Hydra, which only a failure needs

    return command_line("check-data", *reproduction.overrides(config))


def is_ready(config: Config) -> bool:
    """Whether the records of the data are the network's input itself, and not encoded images."""
    return isinstance(config.data, SyntheticConfig) and not config.data.decode


def _image(example: Example, transforms: Sequence[str], config: Config, draw: Draw) -> tf.Tensor:
    if isinstance(config.data, SyntheticConfig) and is_ready(config):
        return ready_input(example["data"], config.data)
    return network_input(EncodedImage(example["data"], example["layout"]), transforms, config.preprocess, draw)
