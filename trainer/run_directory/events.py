"""TensorBoard's event files: written next to metrics.jsonl as a view of it, and cut where a run goes back.

What the disk refuses is lost to TensorBoard, and to nothing else.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams import api as hparams

from trainer.checkpoint.tensors import os_error
from trainer.storage.durable import sync
from trainer.storage.guarded import open_regular

# uint64 length, uint32 CRC, data, uint32 CRC: tensorflow/core/lib/io/record_writer.h
EVENT_HEADER = struct.Struct("<QI")
EVENT_FOOTER_BYTES = 4

Pixels = npt.NDArray[np.uint8]


class Events:
    """The event files of one split; may be written to from several threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.failure: OSError | None = None  # the last; what it cost stays missing
        self._writer: Any = None
        self._lock = threading.Lock()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        with self._open(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def text(self, step: int, name: str, markdown: str) -> None:
        with self._open(step):
            tf.summary.text(name, markdown)

    def image(self, step: int, name: str, pixels: Pixels) -> None:
        """``pixels`` is uint8 ``[height, width, 3]``."""
        with self._open(step):
            tf.summary.image(name, pixels[np.newaxis])

    def histograms(self, step: int, values: Mapping[str, tf.Variable]) -> None:
        with self._open(step):
            for name, value in values.items():
                tf.summary.histogram(name, value)

    def graph(self, graph: tf.Graph) -> None:
        with self._open(0) as writer:
            if writer is not None:
                tf.summary.graph(graph)

    def hyperparameters(self, values: Mapping[str, bool | int | float | str]) -> None:
        with self._open(0) as writer:
            if writer is not None:
                hparams.hparams(dict(values))

    def flush(self) -> None:
        with self._open(0) as writer:
            if writer is not None:
                writer.flush()

    def close(self) -> None:
        """What is written later goes into another file."""
        if self._writer is not None:
            with self._open(0) as writer:
                writer.close()
            self._writer = None

    @contextmanager
    def _open(self, step: int) -> Iterator[Any]:
        """The writer, for events of ``step``; None, without which a summary goes nowhere, when the disk refuses it.
        After an error of the disk the next use begins a new file: nothing can be read behind half an event.
        """
        with self._lock:
            try:
                if self._writer is None:
                    self._writer = tf.summary.create_file_writer(os.fsencode(self._directory))
            except tf.errors.OpError as error:
                self.failure = os_error(error, self._directory)  # raises what is no error of the disk
            if self._writer is None:
                with tf.summary.record_if(False):  # as_default leaves a writer that fails in its place
                    yield None
                return
            try:
                with self._writer.as_default(step):
                    yield self._writer
            except tf.errors.OpError as error:
                self.failure = os_error(error, self._directory)
                self._writer = None


def truncate_events(directory: Path, step: int) -> None:
    """Rewrite the event files without events later than ``step``.

    TensorBoard would otherwise draw both the abandoned and the new values of the same steps.

    Raises:
        OSError: the disk refuses.
    """
    for path in sorted(directory.glob("events.out.tfevents.*")):
        if path.is_symlink() or not path.is_file():
            continue  # no event file of this program; TensorFlow would follow or wait for it
        events = list(_events(path))
        kept = [event for event in events if event.step <= step]
        if len(kept) == len(events):
            continue
        temporary = path.with_name(f".{path.name}")  # TensorBoard reads every name that contains "tfevents"
        temporary = temporary.with_name(temporary.name.replace("tfevents", "rewriting"))
        try:
            with tf.io.TFRecordWriter(os.fsencode(temporary)) as writer:
                for event in kept:
                    writer.write(event.SerializeToString())
        except tf.errors.OpError as error:
            raise os_error(error, temporary) from error
        sync(temporary)
        temporary.rename(path)


def _events(path: Path) -> Iterable[Event]:
    # TensorFlow puts the name of the host into that of the file, and that may be no UTF-8
    records = tf.data.TFRecordDataset(os.fsencode(path)).take(_whole_events(path)).as_numpy_iterator()
    while True:
        try:
            yield Event.FromString(next(records))
        except (StopIteration, tf.errors.DataLossError, DecodeError):
            return  # a process that was killed leaves a record without its end


def _whole_events(path: Path) -> int:
    """How many records lie in the file as a whole: TensorFlow allocates whatever length the next one claims."""
    count, offset = 0, 0
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        while len(header := file.read(EVENT_HEADER.size)) == EVENT_HEADER.size:
            offset += EVENT_HEADER.size + EVENT_HEADER.unpack(header)[0] + EVENT_FOOTER_BYTES
            if offset > size:
                break
            file.seek(offset)
            count += 1
    return count
