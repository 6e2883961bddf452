"""Load exports with TensorFlow and its Keras, of any version: ``python tensorflow_reader.py PLACE [APPLICATION]``.

It imports nothing of ``trainer``. ``PLACE`` has ``served``, ``m.keras``, ``m.weights.h5``, ``images.npy`` and
``encoded.npz`` with the bytes of image files. It gets ``found.npz`` with the probabilities of ``served`` and the logits
of the files that were read, and ``refused.json`` with the reasons for the others. The model for ``m.weights.h5`` is
that of ``m.keras``, or Keras's own ``APPLICATION``.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def main(place: Path, application: str | None) -> None:
    images, encoded = np.load(place / "images.npy"), np.load(place / "encoded.npz")
    served = tf.saved_model.load(str(place / "served")).signatures["serving_default"]
    answered = served(image_bytes=tf.constant([encoded[name].tobytes() for name in encoded.files]))
    found = {"version": np.array(tf.__version__), "served": answered["probabilities"].numpy()}
    refused, model = {}, None
    try:
        model = keras.models.load_model(str(place / "m.keras"), compile=False)
        found["m.keras"] = np.asarray(model(images, training=False))
    except Exception as error:  # of whatever type Keras has for it
        refused["m.keras"] = f"{type(error).__name__}: {error}"
    if model is None and application is not None:
        model = own(application, images.shape[1])
    if model is not None:
        model.set_weights([np.zeros(weight.shape, np.float32) for weight in model.weights])
        try:
            model.load_weights(str(place / "m.weights.h5"))
            found["m.weights.h5"] = np.asarray(model(images, training=False))
        except Exception as error:
            refused["m.weights.h5"] = f"{type(error).__name__}: {error}"
    np.savez(place / "found.npz", **found)
    (place / "refused.json").write_text(json.dumps(refused))


def own(name: str, size: int) -> Any:
    """Keras's own network, without a normalisation of images where it can be left out."""
    build = getattr(keras.applications, name)
    without = {"include_preprocessing": False} if "include_preprocessing" in inspect.signature(build).parameters else {}
    return build(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None, **without)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
