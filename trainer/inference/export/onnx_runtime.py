"""A network for ONNX Runtime: converted by tf2onnx through Keras, and run again by ONNX Runtime itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from trainer.errors import UsageError, one_line
from trainer.inference.export.converting import converting, silent
from trainer.inference.export.pixels import INPUT, OUTPUT

INSTALL = "pip install 'resumable-trainer[onnx]'"
BATCH = "n"  # the name of the dimension that is not fixed


def libraries() -> tuple[Any, Any]:
    """The modules ``onnx`` and ``onnxruntime``.

    Raises:
        UsageError: one of them, or tf2onnx, is not installed; has the command that installs them.
    """
    try:
        import onnx
        import onnxruntime
        import tf2onnx  # noqa: F401  # Keras imports it where the conversion begins
    except ImportError as error:
        raise UsageError(f"format=onnx needs tf2onnx and onnxruntime: {INSTALL}\n({error})") from error
    return onnx, onnxruntime


def write(model: keras.Model, metadata: Mapping[str, str], path: Path) -> None:
    """Write ``model``, one of ``pixel_model``, with ``metadata`` in its properties."""
    onnx, _ = libraries()
    with converting("onnx"):
        model({INPUT: np.zeros([1, *model.inputs[0].shape[1:]], np.float32)})  # Keras exports what was called once
        model.export(path, format="onnx", verbose=False)
    network = onnx.load(path)
    for value in (*network.graph.input, *network.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    onnx.helper.set_model_props(network, dict(metadata))
    onnx.save(network, path)


def run(path: Path, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The logits, float32 ``[n, classes]``, of ``images``, float32 ``[n, S, S, 3]``, from the file itself.

    Raises:
        UsageError: the network has an operation that ONNX does not have; has the runtime's reason.
    """
    _, onnxruntime = libraries()
    with silent():
        try:
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # as for a converter; tf2onnx writes an operation that it does not know as it is
            raise UsageError(f"format=onnx: ONNX Runtime does not take this network: {one_line(str(error))}") from error
        (logits,) = session.run([OUTPUT], {INPUT: images})
    found: npt.NDArray[np.float32] = logits
    return found
