"""What the scripts of the peers share: network, images, and a log of steps for the supervisor (``bench_goodput.py``).

The network is the trainer's own, so that all contenders train the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from trainer.config import stored
from trainer.models.registry import build_model

BATCH = 32
RATE = 0.001


class Place:
    """The directory of a contender: ``config.yaml`` and ``images.npz`` of the benchmark beside it, its own files in it.
    ``steps.log`` has a line ``start STEP`` for each life, and ``STEP EXAMPLE,…`` for each step that is done.
    """

    def __init__(self, directory: str) -> None:
        self.path = Path(directory).absolute()
        arrays = np.load(self.path.parent / "images.npz")
        self.images, self.labels = arrays["images"], arrays["labels"]
        self._log = (self.path / "steps.log").open("a", buffering=1)

    def network(self) -> keras.Model:
        keras.utils.set_random_seed(0)
        tf.config.experimental.enable_op_determinism()
        config = stored.read(self.path.parent / stored.FILE_NAME)
        built = build_model(config.model, config.preprocess.image_size, 0, "float32")
        image = keras.Input(built.input["image"].shape[1:])
        width = built.input["dropout"].shape[-1]
        kept = 0.5 * keras.ops.ones_like(keras.ops.repeat(image[:, :1, 0, 0], width, axis=1))  # nothing is dropped
        return keras.Model(image, built({"image": image, "dropout": kept})["logits"])

    def batch(self, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.images[examples].astype(np.float32) / 127.5 - 1.0, self.labels[examples]

    def began(self, step: int) -> None:
        self._log.write(f"start {step}\n")

    def made(self, step: int, examples: Sequence[int]) -> None:
        self._log.write(f"{step} {','.join(map(str, examples))}\n")

    def finish(self, model: keras.Model, step: int) -> None:
        """Write what the run has arrived at."""
        values = {f"{number}": value for number, value in enumerate(model.get_weights())}
        np.savez(self.path / "weights.npz", step=step, **values)
