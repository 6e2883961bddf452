"""A pipeline of batches that can be opened at any batch, and that names the record that made a batch fail."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import math
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.bad_records import BadRecords
from trainer.data.images.decoding import LAYOUT_FIELDS, fault, readable
from trainer.data.images.headers import ImageFault
from trainer.data.order.ledger import entries
from trainer.data.reads import reading
from trainer.data.sources.source import Source
from trainer.errors import BadRecord, UsageError

Numbers = npt.NDArray[np.int64]
Example = dict[str, tf.Tensor]

PREFETCHED_BATCHES = 2
CONCURRENT_READS = 2

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
class Choice:
    """The records to read at ``positions`` (int64 ``[n]`` both), and what is known about them (bool ``[n]``)."""

    positions: Numbers
    records: Numbers
    substituted: npt.NDArray[np.bool_]
    usable: npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the batches of one split are made of.

    They begin at the positions ``starts``; of each, ``rows`` are read, a whole batch at a time. ``choose`` gives the
    records of positions, ``prepare`` turns one example with ``COLUMNS`` into the network's input. ``ready``: the
    records are not encoded images. Others are read as ``preprocess`` says. ``threads`` prepare examples. The batches
    lie on ``device``, or in the host's memory.
    """

    source: Source
    starts: range
    rows: Numbers
    choose: Callable[[Numbers, BadRecords], Choice]
    prepare: Callable[[Example], Example]
    ready: bool
    preprocess: PreprocessConfig
    threads: int | None
    device: str | None


class Batches:
    """A pipeline that can be iterated any number of times.

    TensorFlow turns any failure into an error of its own, without the record. This class names the record or, with
    ``data.on_bad_record=skip``, leaves it out. It looks for bad records only after a batch failed, so there is no cost
    before: it notes the bad records, and opens the pipeline again at this batch.
    """

    def __init__(self, plan: Plan, warn: Callable[[str], None]) -> None:
        """``warn`` is called once for every bad record."""
        self._plan = plan
        self._bad = BadRecords(plan.source, warn)
        # by where the batch begins; also of a plug-in that fails with many records but not with one
        self._failures: dict[int, UsageError] = {}
        self._announced, self._announcing = plan.starts.start, threading.Lock()  # the batches before have been
        # traced once, however often the pipeline is opened again
        self._prepared = tf.autograph.experimental.do_not_convert(tf.function(plan.prepare, autograph=False))

    def __iter__(self) -> Iterator[Example]:
        number = 0
        while True:
            opened = _Opened(self._open_at(number))
            try:
                for batch in opened:
                    yield batch
                    number += 1
                return
            except tf.errors.OpError as error:
                _forget_frames(error)
                failure = error
            finally:
                opened.close()
            if not self._find_bad(number):
                raise failure

    def _open_at(self, number: int) -> tf.data.Dataset:
        """The pipeline from the batch of that number on, 0 for the first."""
        plan = self._plan
        options = tf.data.Options()
        options.deterministic = True
        # Decoding must not share the single inter-op thread that deterministic execution leaves.
        options.threading.private_threadpool_size = plan.threads
        options.autotune.enabled = False
        left = plan.starts[number:]
        self._announced = left.start
        read_batch = tf.autograph.experimental.do_not_convert(self._read_batch)
        batches = (
            tf.data.Dataset.range(left.start, left.stop, left.step)
            .map(read_batch, num_parallel_calls=CONCURRENT_READS)
            .unbatch()
            .map(self._prepared, num_parallel_calls=plan.threads)
            .batch(len(plan.rows), drop_remainder=True)
            .prefetch(PREFETCHED_BATCHES)
            .with_options(options)
        )
        if plan.device is None:
            return batches
        # a separate thread copies, so that the loop need not wait for it
        return batches.apply(tf.data.experimental.prefetch_to_device(plan.device, PREFETCHED_BATCHES))

    def _read_batch(self, first: tf.Tensor) -> Example:
        # TensorFlow never lets go of a Python function that a graph calls, nor would it of the data that this one reads
        weakly = weakref.WeakMethod(self._read)

        def read(first: np.int64) -> list[npt.NDArray[Any]]:
            method = weakly()
            if method is None:
                raise RuntimeError("nobody waits for this batch")
            return method(first)

        tensors = tf.numpy_function(read, [first], list(COLUMNS.values()), stateful=False)
        columns = dict(zip(COLUMNS, tensors, strict=True))
        size = len(self._plan.rows)
        for name, tensor in columns.items():
            tensor.set_shape([size, LAYOUT_FIELDS] if name == "layout" else [size])
        return columns

    def _read(self, first: np.int64) -> list[npt.NDArray[Any]]:
        try:
            self._announce_from(int(first))
            with reading(lambda: self._place(int(first))):
                columns = _read(self._chosen(int(first)), self._plan)
        except UsageError as error:
            self._failures[int(first)] = error
            raise
        return [columns[name] for name in COLUMNS]

    def _announce_from(self, first: int) -> None:
        """Tell the source what is read from the batch on that begins at ``first``: the order is known."""
        plan = self._plan
        if not plan.source.ahead:
            return
        step = plan.starts.step
        end = first + step * (1 + math.ceil(plan.source.ahead / len(plan.rows)))
        with self._announcing:
            begin = max(self._announced, first)
            self._announced = max(self._announced, end)
        for start in range(begin, min(end, plan.starts.stop), step):
            choice = self._chosen(start)
            plan.source.expect(choice.records[choice.usable])

    def _place(self, first: int) -> str:
        """Where the batch lies that begins at ``first``, for messages."""
        records = self._chosen(first).records
        return f"a batch of {len(records)} records from {self._plan.source.place(int(records[0]))}"

    def _chosen(self, first: int) -> Choice:
        return self._plan.choose(first + self._plan.rows, self._bad)

    def _find_bad(self, number: int) -> bool:
        """Note the bad records in the batch of that number, if they may be skipped; whether there are any.

        Raises:
            BadRecord: they may not be skipped.
        """
        first = self._plan.starts[number]
        choice, found = self._chosen(first), False
        for row in np.flatnonzero(choice.usable):
            error = self._unusable(choice, row)
            if error is None:
                continue
            if not self._plan.source.skip_bad:
                raise error
            self._bad.note(int(choice.positions[row]), int(choice.records[row]), error)
            found = True
        if not found and first in self._failures:
            raise self._failures[first]  # the failure passed: the records can be read now
        return found

    def _unusable(self, choice: Choice, row: np.int64) -> BadRecord | None:
        """Why one example of a batch cannot be used, or None when it can."""
        plan = self._plan
        one = Choice(*(values[row : row + 1] for values in vars(choice).values()))
        try:
            columns = _read(one, plan)
        except BadRecord as error:
            return error
        reason = None if plan.ready else fault(columns["data"][0], plan.preprocess)
        if reason is None:
            return None
        try:  # the window that this position looks at may be whole
            plan.prepare({name: tf.constant(values[0], COLUMNS[name]) for name, values in columns.items()})
        except tf.errors.InvalidArgumentError:
            return _cannot_be_decoded(plan.source, choice.records[row], reason)
        return None


class _Opened:
    """A pipeline that is read.

    TensorFlow ends it when nobody refers to it any longer, and waits for its threads. One of these threads may be the
    one in which Python's garbage collector finds that out: it would wait for itself, for ever, with what it reads
    still going on, and no garbage would be collected any more. So the pipeline is ended by the thread that reads it,
    or is left until another one is opened.
    """

    _left: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()  # takes from a garbage collector what others may end

    def __init__(self, pipeline: tf.data.Dataset) -> None:
        self._end_those_left()
        self._thread = threading.get_ident()
        self._iterator = [iter(pipeline)]

    def __iter__(self) -> Iterator[Example]:
        return self

    def __next__(self) -> Example:
        return next(self._iterator[0])

    def close(self) -> None:
        if threading.get_ident() == self._thread:
            self._iterator.clear()
            self._end_those_left()
        else:
            self._left.put(self._iterator)

    def _end_those_left(self) -> None:
        with contextlib.suppress(queue.Empty):  # not asked first: two threads may end them at a time
            while True:
                self._left.get_nowait().clear()


def _forget_frames(error: BaseException | None) -> None:
    """The frames of an error refer to the pipeline that it came from."""
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def _read(choice: Choice, plan: Plan) -> dict[str, npt.NDArray[Any]]:
    """The columns of the examples of a batch; a blank image of class 0 for those that are not usable."""
    images = np.full(len(choice.records), BLANK, object)
    labels = np.zeros(len(choice.records), np.int64)
    read, labels[choice.usable] = plan.source.read(choice.records[choice.usable])
    images[choice.usable] = np.array(read, object)
    data, layouts = images, np.zeros([len(images), LAYOUT_FIELDS], np.int32)
    for row, image in enumerate(() if plan.ready else images):
        try:
            data[row], layouts[row] = readable(image, plan.preprocess)
        except ImageFault as error:
            raise _cannot_be_decoded(plan.source, choice.records[row], str(error)) from error
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


def _cannot_be_decoded(source: Source, record: np.int64, reason: str) -> BadRecord:
    return BadRecord(f"{source.place(int(record))} cannot be decoded: {reason}\nreplace or remove it")
