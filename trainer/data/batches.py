"""Batches as a pure function of (configuration, position).

No iterator is ever saved: a pipeline is opened at a position, and the position alone is in the state tree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.config.schema import Config
from trainer.data.decoding import LAYOUT_FIELDS, EncodedImage, fault, readable
from trainer.data.draw import Draw
from trainer.data.headers import ImageFault
from trainer.data.ledger import entries
from trainer.data.mixing import mixing_of
from trainer.data.order import records_at
from trainer.data.source import Source
from trainer.data.transforms import network_input
from trainer.errors import TrainerError, UsageError

Numbers = npt.NDArray[np.int64]
Example = dict[str, tf.Tensor]

PREFETCHED_BATCHES = 2
CONCURRENT_READS = 2
LAST_POSITION = 2**62


@dataclasses.dataclass(frozen=True)
class Part:
    """Which rows of every global batch a worker reads: part ``index`` of ``count`` equal ones, in order."""

    index: int
    count: int

    def rows(self, batch_size: int) -> slice:
        """The rows of a batch of ``batch_size``, which ``count`` divides."""
        assert batch_size % self.count == 0, "whoever splits a batch chooses a count that divides it"
        size = batch_size // self.count
        return slice(self.index * size, (self.index + 1) * size)


WHOLE = Part(0, 1)


class Batches:
    """A pipeline that can be iterated any number of times.

    TensorFlow turns whatever a source raises into an error of its own, with a traceback in its text; here the
    source's error comes out as it went in, and an image that cannot be decoded is named.
    """

    def __init__(
        self,
        dataset: tf.data.Dataset,
        failures: dict[int, TrainerError],
        undecodable: Callable[[int], TrainerError | None],
    ) -> None:
        """``failures`` are what the source raised, by the first position of the batch that was read;
        ``undecodable`` looks through the batch of a number, 0 for the first, for an image that cannot be decoded.
        """
        self._dataset = dataset
        self._failures = failures
        self._undecodable = undecodable

    def __iter__(self) -> Iterator[dict[str, tf.Tensor]]:
        number = 0
        try:
            for batch in self._dataset:
                yield batch
                number += 1
        except tf.errors.OpError as error:
            if self._failures:
                # reads run ahead of each other, but batches come out in order: the first failure is the one met
                raise self._failures[min(self._failures)] from error
            culprit = self._undecodable(number)
            if culprit is not None:
                raise culprit from error
            raise


def training_batches(
    source: Source, config: Config, position: int, dropout_features: int, part: Part = WHOLE
) -> Batches:
    """Endless batches that begin at the global example number ``position``.

    Each element is a dict with B examples, the part's share of ``train.global_batch_size``: ``image`` float32
    ``[B, S, S, 3]``, ``label`` int64 ``[B]``, ``dropout`` float32 ``[B, dropout_features]`` uniform in [0, 1), and
    ``ledger`` int64 ``[B]``, their entries in the ledger, and where neighbours are mixed ``mixing`` float32 ``[B, 5]``,
    see ``trainer.data.mixing``. The parts together are the whole batch, row for row.
    """

    def records_of(positions: Numbers) -> Numbers:
        return records_at(positions, source.count, config.seed)

    def prepare(example: Example) -> Example:
        draw = Draw(config.seed, example["position"])
        return {
            "image": network_input(example["encoded"], config.preprocess.train, config.preprocess, draw),
            "label": example["label"],
            "dropout": draw.uniform("dropout", dropout_features),
            "ledger": example["ledger"],
            **mixing_of(example["position"], config),
        }

    batch_size = config.train.global_batch_size
    starts = range(position, LAST_POSITION, batch_size)
    return _open(source, config, starts, part.rows(batch_size), records_of, prepare)


def evaluation_batches(source: Source, config: Config, part: Part = WHOLE) -> Batches:
    """Every record once, in order. The last batch is filled up with copies of weight 0, so that all have one shape.

    Each element is a dict with B examples, the part's share of ``evaluation.batch_size``: ``image`` float32
    ``[B, S, S, 3]``, ``label`` int64 ``[B]``, ``weight`` float32 ``[B]``.
    """

    def records_of(positions: Numbers) -> Numbers:
        return np.minimum(positions, source.count - 1)

    def prepare(example: Example) -> Example:
        draw = Draw(config.seed, example["record"])
        return {
            "image": network_input(example["encoded"], config.preprocess.eval, config.preprocess, draw),
            "label": example["label"],
            "weight": tf.cast(example["position"] < source.count, tf.float32),
        }

    batch_size = config.evaluation.batch_size
    starts = range(0, source.count, batch_size)
    return _open(source, config, starts, part.rows(batch_size), records_of, prepare)


def _open(
    source: Source,
    config: Config,
    starts: range,
    rows: slice,
    records_of: Callable[[Numbers], Numbers],
    prepare: Callable[[Example], Example],
) -> Batches:
    """The pipeline over the batches that begin at ``starts``, of which it reads ``rows``, a whole batch at a time."""
    failures: dict[int, TrainerError] = {}

    def positions_of(first: int) -> Numbers:
        return np.arange(first + rows.start, first + rows.stop, dtype=np.int64)

    def read(first: np.int64) -> tuple[Numbers, Numbers, object, npt.NDArray[np.int32], Numbers, Numbers]:
        positions = positions_of(int(first))
        records = records_of(positions)
        try:
            images, labels = source.read(records)
            data, layouts = _readable(source, records, images)
        except TrainerError as error:
            failures[int(first)] = error
            raise
        return positions, records, np.array(data, object), layouts, labels, entries(positions, records)

    def read_batch(first: tf.Tensor) -> Example:
        types = [tf.int64, tf.int64, tf.string, tf.int32, tf.int64, tf.int64]
        position, record, data, layout, label, ledger = tf.numpy_function(read, [first], types, stateful=False)
        size = rows.stop - rows.start
        for tensor in (position, record, data, label, ledger):
            tensor.set_shape([size])
        layout.set_shape([size, LAYOUT_FIELDS])
        encoded = EncodedImage(data, layout)
        return {"position": position, "record": record, "encoded": encoded, "label": label, "ledger": ledger}

    def undecodable(number: int) -> TrainerError | None:
        return _undecodable(source, records_of(positions_of(starts[number])))

    options = tf.data.Options()
    options.deterministic = True
    # Decoding must not share the single inter-op thread that deterministic execution leaves.
    options.threading.private_threadpool_size = config.runtime.threads
    options.autotune.enabled = False
    dataset = (
        tf.data.Dataset.range(starts.start, starts.stop, starts.step)
        .map(read_batch, num_parallel_calls=CONCURRENT_READS)
        .unbatch()
        .map(prepare, num_parallel_calls=config.runtime.threads)
        .batch(rows.stop - rows.start, drop_remainder=True)
        .prefetch(PREFETCHED_BATCHES)
        .with_options(options)
    )
    return Batches(dataset, failures, undecodable)


def _readable(source: Source, records: Numbers, images: Sequence[bytes]) -> tuple[list[bytes], npt.NDArray[np.int32]]:
    """``data`` and ``layout`` of the EncodedImage of every record."""
    data, layouts = [], []
    for record, image in zip(records, images, strict=True):
        try:
            content, layout = readable(image)
        except ImageFault as error:
            raise _cannot_be_decoded(source, record, str(error)) from error
        data.append(content)
        layouts.append(layout)
    return data, np.array(layouts, np.int32)


def _undecodable(source: Source, records: Numbers) -> TrainerError | None:
    """The first of the records whose image cannot be decoded, as an error that names it."""
    images, _ = source.read(records)
    for record, image in zip(records, images, strict=True):
        reason = fault(image)
        if reason is not None:
            return _cannot_be_decoded(source, record, reason)
    return None


def _cannot_be_decoded(source: Source, record: np.int64, reason: str) -> UsageError:
    return UsageError(f"{source.place(int(record))} cannot be decoded: {reason}\nreplace or remove it")
