"""Validation images for what has to be measured on an export: ranges of activations, and what 8 bits cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from trainer.data.batches import evaluation_batches, is_ready
from trainer.data.evaluated import Trained, open_evaluated
from trainer.data.sources.source import Source
from trainer.errors import UsageError, warn
from trainer.inference.export.pixels import outside, scale
from trainer.inference.export.proof import Accuracy
from trainer.run.restore import Restored

CALIBRATION = 200  # images; TensorFlow's guide to post-training quantisation names 100 to 500
MEASURED = 1000  # images, of which one point is ten
Logits = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]  # of images [n, S, S, 3], [n, classes]


class ValidationImages:
    """Images of the run's validation split, as a network of ``pixel_model`` is fed them."""

    def __init__(self, restored: Restored) -> None:
        """
        Raises:
            UsageError: the data cannot be read, or they are numbers and no images.
            RestoreRefused: they have classes that the checkpoint does not know.
        """
        config, manifest = restored.config, restored.manifest
        if is_ready(config):
            raise UsageError("quantization=int8 needs images to measure with, and data=synthetic has none")
        trained = Trained(restored.path, config.data, manifest.class_names, restored.training_listing)
        self._source = open_evaluated(trained, config.data, "validation").source
        self._scale = scale(config.preprocess)
        self._config = dataclasses.replace(config, preprocess=outside(config.preprocess))

    def calibration(self) -> Iterator[npt.NDArray[np.float32]]:
        """``CALIBRATION`` images float32 ``[1, S, S, 3]``, evenly spread over the split."""
        for images, _ in self._batches(self._source.spread(CALIBRATION)):
            yield from np.split(images, len(images))

    def accuracy(self, exact: Logits, rounded: Logits) -> Accuracy:
        """Of both, the network in float32 and that of 8 bits, on ``MEASURED`` images, evenly spread over the split."""
        count, right = 0, [0, 0]
        for images, labels in self._batches(self._source.spread(MEASURED)):
            count += len(labels)
            for place, logits in enumerate((exact, rounded)):
                right[place] += int((logits(images).argmax(axis=1) == labels).sum())
        return Accuracy(count, right=right[1], right_in_float32=right[0])

    def _batches(self, source: Source) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
        """The images float32 ``[n, S, S, 3]`` and labels int64 ``[n]`` of ``source``, without those that are bad."""
        for batch in evaluation_batches(source, self._config, warn=warn):
            there = batch["weight"].numpy() > 0.0
            if there.any():
                yield batch["image"].numpy()[there] * np.float32(self._scale), batch["label"].numpy()[there]
