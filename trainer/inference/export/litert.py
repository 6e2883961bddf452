"""A network for LiteRT (TensorFlow Lite): converted by TensorFlow, and run again by LiteRT itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.errors import UsageError
from trainer.inference.export.converting import converting, silent
from trainer.inference.export.pixels import INPUT, OUTPUT

INSTALL = "pip install 'resumable-trainer[litert]'"


def library() -> Any:
    """The module ``ai_edge_litert.interpreter``.

    Raises:
        UsageError: it is not installed; has the command that installs it.
    """
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise UsageError(f"format=litert needs ai-edge-litert: {INSTALL}\n({error})") from error
    return interpreter


def write(model: keras.Model, path: Path) -> None:
    """Write ``model``, one of ``pixel_model``, in float32."""
    library()
    with converting("litert"):
        model.export(path, format="litert", verbose=False)


def write_int8(model: keras.Model, path: Path, calibration: Iterable[npt.NDArray[np.float32]]) -> None:
    """Write ``model``, one of ``pixel_model``, with weights and activations of 8 bits; input and output stay float32.
    The ranges of the activations are those of ``calibration``, images float32 ``[1, S, S, 3]``.
    """
    library()
    with converting("litert"):
        model.export(
            path,
            format="litert",
            verbose=False,
            optimizations=[tf.lite.Optimize.DEFAULT],
            representative_dataset=lambda: ([image] for image in calibration),
        )


def network(path: Path) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    """The network in the file, as LiteRT runs it: from images float32 ``[n, S, S, 3]`` to logits float32
    ``[n, classes]``.
    """
    with silent():
        runner = library().Interpreter(model_path=str(path)).get_signature_runner()

    def run(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with silent():  # its delegate introduces itself when it computes first
            logits: npt.NDArray[np.float32] = runner(**{INPUT: images})[OUTPUT]
        return logits

    return run
