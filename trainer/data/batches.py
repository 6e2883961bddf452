"""Batches as a pure function of (configuration, position).

No iterator is ever saved: a pipeline is opened at a position, and the position alone is in the state tree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.config.schema import Config
from trainer.data.order import records_at
from trainer.data.source import Source
from trainer.data.transforms import Draw, apply_transforms
from trainer.errors import TrainerError, UsageError

Numbers = npt.NDArray[np.int64]

PREFETCHED_BATCHES = 2
CONCURRENT_READS = 2
LAST_POSITION = 2**62


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


def training_batches(source: Source, config: Config, position: int, dropout_features: int) -> Batches:
    """Endless batches that begin at the global example number ``position``.

    Each element is a dict with B = ``train.global_batch_size`` examples: ``image`` float32 ``[B, S, S, 3]``,
    ``label`` int64 ``[B]``, ``dropout`` float32 ``[B, dropout_features]`` uniform in [0, 1), and ``digest`` int64
    ``[]``, a digest of the (position, record) pairs in the batch.
    """
    batch_size = config.train.global_batch_size

    def records_of(positions: Numbers) -> Numbers:
        return records_at(positions, source.count, config.seed)

    def prepare(position: tf.Tensor, record: tf.Tensor, encoded: tf.Tensor, label: tf.Tensor) -> dict[str, tf.Tensor]:
        draw = Draw(config.seed, position)
        return {
            "image": apply_transforms(encoded, config.preprocess.train, config.preprocess, draw),
            "label": label,
            "dropout": draw.uniform("dropout", dropout_features),
            "pair": tf.stack([position, record]),
        }

    def sign(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        pairs = batch.pop("pair")
        digest = tf.numpy_function(_digest, [pairs], tf.int64, stateful=False)
        return {**batch, "digest": tf.ensure_shape(digest, [])}

    starts = tf.data.Dataset.range(position, LAST_POSITION, batch_size)
    failures: dict[int, TrainerError] = {}
    examples = _read_examples(starts, records_of, source, batch_size, failures)
    prepared = examples.map(prepare, num_parallel_calls=config.runtime.threads)
    batches = prepared.batch(batch_size, drop_remainder=True).map(sign)

    def undecodable(number: int) -> TrainerError | None:
        first = position + number * batch_size
        return _undecodable(source, records_of(np.arange(first, first + batch_size, dtype=np.int64)))

    return Batches(_prefetched(batches, config), failures, undecodable)


def evaluation_batches(source: Source, config: Config) -> Batches:
    """Every record once, in order. The last batch is filled up with copies of weight 0, so that all have one shape.

    Each element is a dict with B = ``evaluation.batch_size`` examples: ``image`` float32 ``[B, S, S, 3]``,
    ``label`` int64 ``[B]``, ``weight`` float32 ``[B]``.
    """
    batch_size = config.evaluation.batch_size

    def records_of(positions: Numbers) -> Numbers:
        return np.minimum(positions, source.count - 1)

    def prepare(position: tf.Tensor, record: tf.Tensor, encoded: tf.Tensor, label: tf.Tensor) -> dict[str, tf.Tensor]:
        draw = Draw(config.seed, record)
        return {
            "image": apply_transforms(encoded, config.preprocess.eval, config.preprocess, draw),
            "label": label,
            "weight": tf.cast(position < source.count, tf.float32),
        }

    starts = tf.data.Dataset.range(0, source.count, batch_size)
    failures: dict[int, TrainerError] = {}
    examples = _read_examples(starts, records_of, source, batch_size, failures)
    prepared = examples.map(prepare, num_parallel_calls=config.runtime.threads)

    def undecodable(number: int) -> TrainerError | None:
        first = number * batch_size
        return _undecodable(source, records_of(np.arange(first, first + batch_size, dtype=np.int64)))

    return Batches(_prefetched(prepared.batch(batch_size, drop_remainder=True), config), failures, undecodable)


def _read_examples(
    starts: tf.data.Dataset,
    records_of: Callable[[Numbers], Numbers],
    source: Source,
    batch_size: int,
    failures: dict[int, TrainerError],
) -> tf.data.Dataset:
    """``(position, record, encoded, label)`` one by one, read from the source a whole batch at a time."""

    def read(first: np.int64) -> tuple[Numbers, Numbers, object, Numbers]:
        positions = np.arange(first, first + batch_size, dtype=np.int64)
        records = records_of(positions)
        try:
            images, labels = source.read(records)
        except TrainerError as error:
            failures[int(first)] = error
            raise
        return positions, records, np.array(images, object), labels

    def read_batch(first: tf.Tensor) -> tuple[tf.Tensor, ...]:
        types = [tf.int64, tf.int64, tf.string, tf.int64]
        tensors = tf.numpy_function(read, [first], types, stateful=False)
        for tensor in tensors:
            tensor.set_shape([batch_size])
        return tuple(tensors)

    return starts.map(read_batch, num_parallel_calls=CONCURRENT_READS).unbatch()


def _undecodable(source: Source, records: Numbers) -> TrainerError | None:
    """The first of the records whose image cannot be decoded, as an error that names it."""
    images, _ = source.read(records)
    for record, image in zip(records, images, strict=True):
        try:
            tf.io.decode_image(image, channels=3, expand_animations=False)
        except tf.errors.InvalidArgumentError as error:
            reason = str(error.message).splitlines()[0]
            return UsageError(f"{source.place(int(record))} cannot be decoded: {reason}\nreplace or remove it")
    return None


def _prefetched(batches: tf.data.Dataset, config: Config) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # Decoding must not share the single inter-op thread that deterministic execution leaves.
    options.threading.private_threadpool_size = config.runtime.threads
    options.autotune.enabled = False
    return batches.prefetch(PREFETCHED_BATCHES).with_options(options)


def _digest(pairs: Numbers) -> np.int64:
    return np.frombuffer(hashlib.sha256(pairs.astype("<i8").tobytes()).digest()[:8], "<i8")[0]
