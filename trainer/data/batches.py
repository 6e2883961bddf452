"""Batches as a pure function of (configuration, position).

No iterator is ever saved: a pipeline is opened at a position, and the position alone is in the state tree.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.config.schema import Config
from trainer.config.schema.sources import SyntheticConfig
from trainer.data.bad_records import BadRecords
from trainer.data.decoding import LAYOUT_FIELDS, EncodedImage, fault, readable
from trainer.data.draw import Draw
from trainer.data.headers import ImageFault
from trainer.data.ledger import entries
from trainer.data.mixing import mixing_of
from trainer.data.sampling import Sampling
from trainer.data.source import Source
from trainer.data.synthetic import ready_input
from trainer.data.transforms import network_input
from trainer.errors import BadRecord, UsageError

Numbers = npt.NDArray[np.int64]
Example = dict[str, tf.Tensor]

PREFETCHED_BATCHES = 2
CONCURRENT_READS = 2
LAST_POSITION = 2**62

# what stands for a record that cannot be used, where nothing may be read in its place: one black pixel
BLANK = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC")

COLUMNS = {
    "position": tf.int64,
    "record": tf.int64,
    "data": tf.string,
    "layout": tf.int32,
    "label": tf.int64,
    "ledger": tf.int64,
    "substituted": tf.int64,
    "usable": tf.bool,
}


@dataclasses.dataclass(frozen=True)
class Part:
    """Which rows of every global batch a worker reads: part ``index`` of ``count`` equal ones, in order."""

    index: int
    count: int

    def rows(self, batch_size: int, blocks: int = 1) -> Numbers:
        """The rows, of each of ``blocks`` equal blocks of a batch of ``batch_size``, which ``blocks x count`` divides.

        A block is what is computed at once, by all workers together.
        """
        assert batch_size % (blocks * self.count) == 0, "whoever splits a batch chooses a count that divides it"
        return np.arange(batch_size).reshape(blocks, self.count, -1)[:, self.index].ravel()


WHOLE = Part(0, 1)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The records to read at ``positions`` (int64 ``[n]`` both), and what is known of them (bool ``[n]``)."""

    positions: Numbers
    records: Numbers
    substituted: npt.NDArray[np.bool_]
    usable: npt.NDArray[np.bool_]


class Batches:
    """A pipeline that can be iterated any number of times.

    TensorFlow turns whatever fails into an error of its own, without the record; here the record is named, or, with
    ``data.on_bad_record=skip``, left out. That is found out only after a batch failed, and costs nothing before: its
    bad records are noted, and the pipeline is opened again at this batch.
    """

    def __init__(self, open_at: Callable[[int], tf.data.Dataset], find_bad: Callable[[int], bool]) -> None:
        """``open_at`` makes the pipeline from the batch of a number on, 0 for the first. ``find_bad`` notes the bad
        records in the batch of a number, if they may be skipped, and returns whether there are any.
        """
        self._open_at = open_at
        self._find_bad = find_bad

    def __iter__(self) -> Iterator[Example]:
        number = 0
        while True:
            try:
                for batch in self._open_at(number):
                    yield batch
                    number += 1
                return
            except tf.errors.OpError:
                if not self._find_bad(number):
                    raise


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
    of one that cannot be used, and where neighbours are mixed ``mixing`` float32 ``[B, 5]``, see
    ``trainer.data.mixing``. The parts together are the whole batch, in each of the ``train.accumulate_steps`` blocks
    row for row. ``warn`` is told of every bad record once. The batches lie on ``device``, copied there ahead of time,
    or in the host's memory.
    """
    sampling = Sampling(source, config)

    def choose(positions: Numbers, bad: BadRecords) -> Choice:
        planned = sampling.records_at(positions)
        records = bad.substituted(positions, planned, sampling.substitute)
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
    return _open(source, config, starts, rows, choose, prepare, warn, device)


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
    that cannot be used: their weight is 0, and the image is a blank one. ``warn`` is told of each once. ``device`` is
    as for ``training_batches``.
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
    return _open(source, config, starts, part.rows(batch_size), choose, prepare, warn, device)


def _ready(config: Config) -> SyntheticConfig | None:
    """The data whose records are the network's input itself, and not encoded images."""
    return config.data if isinstance(config.data, SyntheticConfig) and not config.data.decode else None


def _image(example: Example, transforms: Sequence[str], config: Config, draw: Draw) -> tf.Tensor:
    ready = _ready(config)
    if ready is not None:
        return ready_input(example["data"], ready)
    return network_input(EncodedImage(example["data"], example["layout"]), transforms, config.preprocess, draw)


def _open(
    source: Source,
    config: Config,
    starts: range,
    rows: Numbers,
    choose: Callable[[Numbers, BadRecords], Choice],
    prepare: Callable[[Example], Example],
    warn: Callable[[str], None],
    device: str | None,
) -> Batches:
    """The pipeline over the batches that begin at ``starts``, of which it reads ``rows``, a whole batch at a time."""
    size = len(rows)
    bad = BadRecords(source, warn)
    failures: dict[int, UsageError] = {}  # also those of a plug-in that fails with many records and not with one
    ready = _ready(config) is not None

    def chosen(first: int) -> Choice:
        return choose(first + rows, bad)

    def read(first: np.int64) -> list[npt.NDArray[Any]]:
        try:
            columns = _read(source, chosen(int(first)), ready)
        except UsageError as error:
            failures[int(first)] = error
            raise
        return [columns[name] for name in COLUMNS]

    # traced once, however often the pipeline is opened again
    prepared = tf.autograph.experimental.do_not_convert(tf.function(prepare, autograph=False))

    @tf.autograph.experimental.do_not_convert
    def read_batch(first: tf.Tensor) -> Example:
        tensors = tf.numpy_function(read, [first], list(COLUMNS.values()), stateful=False)
        columns = dict(zip(COLUMNS, tensors, strict=True))
        for name, tensor in columns.items():
            tensor.set_shape([size, LAYOUT_FIELDS] if name == "layout" else [size])
        return columns

    def open_at(number: int) -> tf.data.Dataset:
        options = tf.data.Options()
        options.deterministic = True
        # Decoding must not share the single inter-op thread that deterministic execution leaves.
        options.threading.private_threadpool_size = config.runtime.threads
        options.autotune.enabled = False
        left = starts[number:]
        batches = (
            tf.data.Dataset.range(left.start, left.stop, left.step)
            .map(read_batch, num_parallel_calls=CONCURRENT_READS)
            .unbatch()
            .map(prepared, num_parallel_calls=config.runtime.threads)
            .batch(size, drop_remainder=True)
            .prefetch(PREFETCHED_BATCHES)
            .with_options(options)
        )
        if device is None:
            return batches
        # a thread of its own copies, so that the loop need not wait for it
        return batches.apply(tf.data.experimental.prefetch_to_device(device, PREFETCHED_BATCHES))

    def find_bad(number: int) -> bool:
        choice, found = chosen(starts[number]), False
        for row in np.flatnonzero(choice.usable):
            error = _unusable(source, choice, row, ready, prepare)
            if error is None:
                continue
            if not source.skip_bad:
                raise error
            bad.note(int(choice.positions[row]), int(choice.records[row]), error)
            found = True
        if not found and starts[number] in failures:
            raise failures[starts[number]]  # it passed: the records can be read now
        return found

    return Batches(open_at, find_bad)


def _read(source: Source, choice: Choice, ready: bool) -> dict[str, npt.NDArray[Any]]:
    """The columns of the examples of a batch; a blank image of class 0 for those that are not usable."""
    images = np.full(len(choice.records), BLANK, object)
    labels = np.zeros(len(choice.records), np.int64)
    read, labels[choice.usable] = source.read(choice.records[choice.usable])
    images[choice.usable] = np.array(read, object)
    data, layouts = images, np.zeros([len(images), LAYOUT_FIELDS], np.int32)
    for row, image in enumerate(() if ready else images):
        try:
            data[row], layouts[row] = readable(image)
        except ImageFault as error:
            raise _cannot_be_decoded(source, choice.records[row], str(error)) from error
    return {
        "position": choice.positions,
        "record": choice.records,
        "data": data,
        "layout": layouts,
        "label": labels,
        "ledger": entries(choice.positions, choice.records),
        "substituted": choice.substituted.astype(np.int64),
        "usable": choice.usable,
    }


def _unusable(
    source: Source, choice: Choice, row: np.int64, ready: bool, prepare: Callable[[Example], Example]
) -> BadRecord | None:
    """Why one example of a batch cannot be used, or None when it can."""
    one = Choice(*(values[row : row + 1] for values in vars(choice).values()))
    try:
        columns = _read(source, one, ready)
    except BadRecord as error:
        return error
    reason = None if ready else fault(columns["data"][0])
    if reason is None:
        return None
    try:  # the window that this position looks at may be whole
        prepare({name: tf.constant(values[0], COLUMNS[name]) for name, values in columns.items()})
    except tf.errors.InvalidArgumentError:
        return _cannot_be_decoded(source, choice.records[row], reason)
    return None


def _cannot_be_decoded(source: Source, record: np.int64, reason: str) -> BadRecord:
    return BadRecord(f"{source.place(int(record))} cannot be decoded: {reason}\nreplace or remove it")
