"""What TensorBoard shows beside a run's scalars: the configuration, restarts, pictures, histograms, a profile.

It is a view. Training reads none of it, and a failed write is lost to TensorBoard only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import tensorflow as tf
from PIL import Image

from trainer.checkpoint.bundle import os_error
from trainer.checkpoint.manifest import Start
from trainer.config import stored
from trainer.config.parse import leaves
from trainer.config.schema import Config
from trainer.config.schema.sources import SyntheticConfig
from trainer.data.batch import Batch
from trainer.data.images.mixing import mixed
from trainer.data.sources.source import Source
from trainer.models.registry import output_names
from trainer.monitoring import pictures
from trainer.monitoring.confusion import Confusion
from trainer.run_directory.events import Events
from trainer.run_directory.layout import TENSORBOARD
from trainer.run_directory.metrics import TRAIN, VALIDATION
from trainer.run_directory.validation_predictions import Mistake, Predictions
from trainer.training.state import TrainingState

INPUTS_SHOWN = 8
# what people vary first -> its name. TensorBoard orders by name, after what differs; capitals come before other letters
FIRST = {
    "optimizer.learning_rate": "Learning rate",
    "train.global_batch_size": "Batch",
    "optimizer.name": "Optimizer",
    "schedule.name": "Schedule",
    "model.name": "Network",
}


class TensorBoard:
    """The TensorBoard views of one process's part of a run in ``run_dir``, in the event files of its history."""

    def __init__(
        self,
        run_dir: Path,
        events: Mapping[str, Events],
        config: Config,
        state: TrainingState,
        validation: Source,
        lineage: Sequence[Start],
    ) -> None:
        self._run_dir = run_dir
        self._events = events
        self._config = config
        self._state = state
        self._validation = validation
        self._inputs_are_shown = False
        self._profiling = False
        self._describe(lineage)

    def _describe(self, lineage: Sequence[Start]) -> None:
        start = lineage[-1]
        self._events[TRAIN].text(start.from_step, "config", _code(stored.to_text(self._config)))
        changes = "".join(f"\n- {_quoted(change)}" for change in start.changes)
        source = "" if start.checkpoint is None else f" from {_quoted(start.checkpoint)}"
        began = f"start {len(lineage)}, {start.started}, on {_quoted(start.host)}: step {start.from_step}{source}"
        self._events[TRAIN].text(start.from_step, "starts", began + changes)
        self._events[TRAIN].scalars(start.from_step, {"run/start": len(lineage)})
        board = self._run_dir / TENSORBOARD
        if not any(board.glob("events.out.tfevents.*")):
            summary = Events(board)  # above both splits, so that TensorBoard can rank runs by metrics of either
            summary.hyperparameters(_hyperparameters(self._config))
            summary.close()

    def before(self, step: int, batch: Batch) -> None:
        """Called before optimizer step ``step`` trains on ``batch``."""
        if not self._inputs_are_shown:
            self._inputs_are_shown = True
            self._show_inputs(step, batch)
        window = self._config.profile
        if window is not None and window[0] <= step <= window[1] and not self._profiling:
            tf.profiler.experimental.start(str(self._run_dir / TENSORBOARD / TRAIN))
            self._profiling = True

    def after(self, step: int) -> None:
        """Called after step ``step`` was dispatched."""
        window, cadence = self._config.profile, self._config.train.histograms_every_steps
        if window is not None and step >= window[1]:
            self._end_profile()
        if cadence is not None and step % cadence == 0:
            weights = {f"weights/{name}": variable for name, variable in self._state.trainable.items()}
            self._events[TRAIN].histograms(step, weights)

    def validated(self, found: Predictions, images: Sequence[Image.Image | None]) -> None:
        """Show the predictions of a validation. ``images`` belong to its mistakes, None if one cannot be shown."""
        names = self._class_names
        if len(names) <= pictures.LARGEST_MATRIX:
            matrix = pictures.confusion_matrix(Confusion.of_entries(found.confusions), names)
            self._events[VALIDATION].image(found.step, "confusion", matrix)
        shown = [
            (image, _caption(mistake, names)) for image, mistake in zip(images, found.mistakes, strict=True) if image
        ]
        if shown:
            self._events[VALIDATION].image(found.step, "mistakes", pictures.sheet(*zip(*shown, strict=True)))

    def graph(self, graph: Callable[[], tf.Graph]) -> None:
        """Show the graph of the network in evaluation."""
        self._events[VALIDATION].graph(graph())

    def close(self) -> None:
        self._end_profile()

    def _end_profile(self) -> None:
        if self._profiling:
            self._profiling = False
            try:
                tf.profiler.experimental.stop()
            except tf.errors.OpError as error:
                self._events[TRAIN].failure = os_error(error, self._run_dir / TENSORBOARD / TRAIN)

    @property
    def _class_names(self) -> tuple[str, ...]:
        return output_names(self._validation.class_names, self._config.model.num_classes)

    def _show_inputs(self, step: int, batch: Batch) -> None:
        """Show the first images of the batch as the network's input, augmented and mixed."""
        config, names = self._config, self._class_names
        few = mixed({name: tensor[:INPUTS_SHOWN] for name, tensor in batch.items()})
        mean, std = _normalization(config)
        blue_first = "normalize" in config.preprocess.train and config.preprocess.normalize.channels == "bgr"
        inputs = few["image"].numpy()[..., ::-1] if blue_first else few["image"].numpy()
        images = [pictures.of_input(image, mean, std) for image in inputs]
        captions = [names[label] for label in few["label"].numpy()]
        if "partner_label" in few:
            partners = zip(captions, few["label_weight"].numpy(), few["partner_label"].numpy(), strict=True)
            captions = [mixed_caption(own, float(share), names[other]) for own, share, other in partners]
        self._events[TRAIN].image(step, "inputs", pictures.sheet(images, captions))


def mixed_caption(own: str, share: float, other: str) -> str:
    """What a mixed image shows, a line for each of its classes."""
    percent = round(100 * share)
    return f"{percent} % {own}\n{100 - percent} % {other}"


def _caption(mistake: Mistake, names: Sequence[str]) -> str:
    return f"{names[mistake.label]}\ntaken for {names[mistake.predicted]}"


def _normalization(config: Config) -> tuple[Sequence[float], Sequence[float]]:
    """The mean and standard deviation that turn the network's input into an image in 0..1."""
    if isinstance(config.data, SyntheticConfig) and not config.data.decode:
        return (0.5,) * 3, (0.5,) * 3  # trainer.data.sources.synthetic.ready_input
    if "normalize" in config.preprocess.train:
        return config.preprocess.normalize.mean, config.preprocess.normalize.std
    return (0.0,) * 3, (1.0,) * 3


def _hyperparameters(config: Config) -> dict[str, bool | int | float | str]:
    """Every key that changes the result and has a single value; the first ones by their names."""
    found = ((FIRST.get(path, path), value) for path, value, fact in leaves(config) if fact.resume != "free")
    return {path: value for path, value in found if isinstance(value, bool | int | float | str)}


def _code(text: str) -> str:
    """Markdown that shows a text unchanged."""
    return "".join(f"    {line}\n" for line in text.splitlines())


def _quoted(text: str) -> str:
    return f"`{text.replace('`', chr(39))}`"
