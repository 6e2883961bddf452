"""The views of a run, during the run and afterwards: the predictions of validations, and TensorBoard.

Training reads none of this. After a failed write, a view is incomplete, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from PIL import Image

from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.batch import Batch
from trainer.data.sources.source import Source
from trainer.errors import UsageError
from trainer.monitoring import pictures
from trainer.monitoring.tensorboard import TensorBoard
from trainer.run_directory import validation_predictions
from trainer.run_directory.events import Events
from trainer.run_directory.validation_predictions import Mistake
from trainer.storage.going_on import WRITES


class Views:
    """Keeps the predictions of validations in ``run_dir``, and shows them and everything else in TensorBoard.

    ``preprocess`` says how the images of ``validation`` are read. ``events`` are those of the validations; they record
    a failed write.
    """

    def __init__(
        self, run_dir: Path, validation: Source, preprocess: PreprocessConfig, events: Events, tensorboard: TensorBoard
    ) -> None:
        self._run_dir = run_dir
        self._validation = validation
        self._preprocess = preprocess
        self._events = events
        self._tensorboard = tensorboard

    def before(self, step: int, batch: Batch) -> None:
        """Called before optimizer step ``step`` trains on ``batch``."""
        self._tensorboard.before(step, batch)

    def after(self, step: int) -> None:
        """Called after step ``step`` was dispatched."""
        with WRITES.doing(lambda: "writing for TensorBoard"):
            self._tensorboard.after(step)

    def graph(self, graph: Callable[[], tf.Graph]) -> None:
        """Show the graph of the network in evaluation."""
        self._tensorboard.graph(graph)

    def validated(self, step: int, examples: Sequence[npt.NDArray[np.float32]], keep: Sequence[int]) -> None:
        """Keep and show the predictions of the validation at ``step``. ``examples`` has float32 ``[B, 5]`` for every
        batch, see ``trainer.training.step.make_evaluation_step``. ``keep`` are the steps whose predictions stay.
        """
        found = validation_predictions.summarize(step, np.concatenate(examples))
        images = [self._picture(mistake) for mistake in found.mistakes]
        encoded = [None if image is None else pictures.as_png(image) for image in images]
        places = [self._validation.place(mistake.example) for mistake in found.mistakes]
        found = validation_predictions.with_pictures(found, encoded, places)
        try:
            validation_predictions.write(self._run_dir, found, keep)
        except OSError as error:
            self._events.failure = error
        self._tensorboard.validated(found, images)

    def close(self) -> None:
        self._tensorboard.close()

    def _picture(self, mistake: Mistake) -> Image.Image | None:
        """The image as evaluation read it; None where a record is no image file, or can no longer be read."""
        try:
            (encoded,), _ = self._validation.read(np.array([mistake.example]))
        except UsageError:
            return None
        return pictures.thumbnail(encoded, self._preprocess)
