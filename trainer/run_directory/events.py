"""TensorBoard's events: written next to metrics.jsonl as a view of it.

Events that cannot be written are lost to TensorBoard, and to nothing else.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from trainer.checkpoint.bundle import os_error
from trainer.errors import spelled
from trainer.run_directory.event_files import put_in_order

Pixels = npt.NDArray[np.uint8]
# metric -> group: TensorBoard shows tags with the same beginning, up to the first /, together, groups ordered by name
GROUPS = {
    "loss": "loss",
    "accuracy": "accuracy",
    "macro_f1": "accuracy",
    "balanced_accuracy": "accuracy",
    "auroc": "accuracy",
    "learning_rate": "rate",
    "gradient_norm": "norm",
    "weight_norm": "norm",
    "images_per_second": "speed",
    "input_wait": "speed",
    "mfu": "speed",
    "device_memory": "device",
    "gpu_utilization": "device",
    "gpu_power": "device",
    "substituted": "records",
    "skipped": "records",
    "loss_scale": "precision",
}


def tag(name: str) -> str:
    """The name of a metric's curve in TensorBoard, ``GROUP/name``."""
    return name if "/" in name else f"{GROUPS.get(name, 'other')}/{name}"


class Events:
    """The event files of one split. Several threads may write to them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.failure: OSError | None = None  # the last one; the events that it cost stay missing
        self._writer: Any = None
        self._lock = threading.Lock()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        with self._open(step):
            for name, value in values.items():
                tf.summary.scalar(tag(name), value)

    def text(self, step: int, name: str, markdown: str) -> None:
        with self._open(step):
            tf.summary.text(name, spelled(markdown))

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
                hparams.hparams(
                    {name: spelled(value) if isinstance(value, str) else value for name, value in values.items()}
                )

    def flush(self) -> None:
        with self._open(0) as writer:
            if writer is not None:
                writer.flush()

    def close(self) -> None:
        """Close the file. Later events go into another file."""
        if self._writer is not None:
            with self._open(0) as writer:
                writer.close()
            self._writer = None

    @contextmanager
    def _open(self, step: int) -> Iterator[Any]:
        """The writer for events of ``step``; None when its file cannot be made, and then summaries are dropped.

        After a disk error the next use begins a new file, because nothing behind half an event can be read.
        """
        with self._lock:
            try:
                if self._writer is None:
                    with contextlib.suppress(OSError):  # it is a view
                        put_in_order(self._directory, int(time.time()))
                    self._writer = tf.summary.create_file_writer(os.fsencode(self._directory))
            except tf.errors.OpError as error:
                self.failure = os_error(error, self._directory)  # raises any error that is not from the disk
            if self._writer is None:
                with tf.summary.record_if(False):  # as_default leaves a failing writer in place
                    yield None
                return
            try:
                with self._writer.as_default(step):
                    yield self._writer
            except tf.errors.OpError as error:
                self.failure = os_error(error, self._directory)
                self._writer = None
