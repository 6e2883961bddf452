"""What a person can look at while a run goes on, and afterwards: the predictions of validations, and TensorBoard.

Nothing here is read again by training: what the disk refuses is missing in a view, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from trainer.data.batch import Batch
from trainer.data.sources.source import Source
from trainer.errors import UsageError
from trainer.monitoring import pictures
from trainer.monitoring.tensorboard import TensorBoard
from trainer.run_directory import validation_predictions
from trainer.run_directory.events import Events
from trainer.run_directory.validation_predictions import Mistake


class Views:
    """Keeps the predictions of validations in ``run_dir`` and shows them, and all else, in TensorBoard.

    ``events`` are those of the validations; they note a failure to write.
    """

    def __init__(self, run_dir: Path, validation: Source, events: Events, tensorboard: TensorBoard) -> None:
        self._run_dir = run_dir
        self._validation = validation
        self._events = events
        self._tensorboard = tensorboard

    def before(self, step: int, batch: Batch) -> None:
        """``batch`` is about to be trained on, as optimizer step ``step``."""
        self._tensorboard.before(step, batch)

    def after(self, step: int) -> None:
        """Step ``step`` was dispatched."""
        self._tensorboard.after(step)

    def graph(self, graph: Callable[[], tf.Graph]) -> None:
        """Show the network as it is evaluated."""
        self._tensorboard.graph(graph)

    def validated(self, step: int, examples: Sequence[tf.Tensor], keep: Sequence[int]) -> None:
        """Keep and show what the validation at ``step`` predicted: for every batch float32 ``[B, 5]``, see
        ``trainer.training.step.make_evaluation_step``. ``keep`` are the steps whose predictions stay.
        """
        found = validation_predictions.summarize(step, np.concatenate([batch.numpy() for batch in examples]))
        images = [self._picture(mistake) for mistake in found.mistakes]
        encoded = [None if image is None else pictures.as_png(image) for image in images]
        found = validation_predictions.with_pictures(found, encoded)
        try:
            validation_predictions.write(self._run_dir, found, keep)
        except OSError as error:
            self._events.failure = error
        self._tensorboard.validated(found, images)

    def close(self) -> None:
        self._tensorboard.close()

    def _picture(self, mistake: Mistake) -> Image.Image | None:
        """The image as it is stored; None where it is none that Pillow reads, or can no longer be read."""
        try:
            (encoded,), _ = self._validation.read(np.array([mistake.example]))
        except UsageError:
            return None
        return pictures.thumbnail(encoded)
