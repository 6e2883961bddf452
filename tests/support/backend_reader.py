"""Load exports with Keras alone, on the backend that ``KERAS_BACKEND`` names: ``python backend_reader.py PLACE``.

It imports nothing of ``trainer``: a Python that has Keras and that backend runs it. ``PLACE`` has ``m.keras``,
``m.weights.h5``, ``m.safetensors`` and ``images.npy``; it gets ``found.npz`` with the logits of each.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import safetensors.numpy


def main(place: Path) -> None:
    images = np.load(place / "images.npy")
    model = keras.models.load_model(place / "m.keras", compile=False)
    found = {"backend": np.array(keras.backend.backend())}
    found["types"] = np.array(sorted({str(keras.backend.standardize_dtype(weight.dtype)) for weight in model.weights}))
    logits = network(model)
    found["m.keras"] = logits(images)
    model.set_weights([np.zeros(weight.shape, np.float32) for weight in model.weights])
    model.load_weights(place / "m.weights.h5")
    found["m.weights.h5"] = logits(images)
    values = safetensors.numpy.load_file(place / "m.safetensors")
    model.set_weights([named(values, weight.path.replace("__", "/")) for weight in model.weights])
    found["m.safetensors"] = logits(images)
    assert len(values) == len(model.weights)
    np.savez(place / "found.npz", **found)


def named(values: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Keras numbers the one variable of ConvNeXt's scales through the process."""
    layer = name.rpartition("/")[0]
    return values[name] if name in values else next(values[key] for key in values if key.rpartition("/")[0] == layer)


def network(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """The model with the weights that it then has, from images to logits."""
    if keras.backend.backend() != "jax":
        return lambda images: keras.ops.convert_to_numpy(model(images, training=False))
    import jax  # compiles the network as one; operation by operation takes minutes

    run = jax.jit(functools.partial(model.stateless_call, training=False))

    def logits(images: np.ndarray) -> np.ndarray:
        values = [
            [variable.value for variable in of] for of in (model.trainable_variables, model.non_trainable_variables)
        ]
        return np.asarray(run(*values, images)[0])

    return logits


if __name__ == "__main__":
    main(Path(sys.argv[1]))
