"""A network for ONNX Runtime: converted by tf2onnx through Keras, and quantised and run by ONNX Runtime itself."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
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


class _GroupedConv2D(keras.layers.Conv2D):
    """The layer with ``groups``, without Keras's call of XLA for it, which tf2onnx copies as it is."""

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        geometry = {"strides": tuple(self.strides), "padding": self.padding, "data_format": self.data_format}
        geometry["dilation_rate"] = self.dilation_rate
        if self.groups == inputs.shape[-1] == self.filters:
            return keras.ops.depthwise_conv(inputs, keras.ops.transpose(kernel, (0, 1, 3, 2)), **geometry)
        parts = zip(
            keras.ops.split(inputs, self.groups, axis=-1), keras.ops.split(kernel, self.groups, axis=-1), strict=True
        )
        return keras.ops.concatenate([keras.ops.conv(part, own, **geometry) for part, own in parts], axis=-1)


def _without_groups(model: keras.Model) -> keras.Model:
    def copied(layer: keras.Layer) -> keras.Layer:
        grouped = type(layer) is keras.layers.Conv2D and layer.groups > 1
        return (_GroupedConv2D if grouped else type(layer)).from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=copied, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


@functools.cache
def _know_erfc() -> None:
    """Tell tf2onnx what ``Erfc`` is, which TensorFlow's GELU consists of: 1 - erf(x)."""
    from tf2onnx import handler

    @handler.tf_op("Erfc")
    class _Erfc:
        @classmethod
        def version_9(cls, graph: Any, node: Any, **_: Any) -> None:
            shapes, types = [graph.get_shape(node.output[0])], [graph.get_dtype(node.output[0])]
            graph.remove_node(node.name)
            one = graph.make_const(f"{node.name}/one", np.array(1.0, np.float32))
            erf = graph.make_node("Erf", node.input)
            inputs = [one.output[0], erf.output[0]]
            graph.make_node("Sub", inputs, name=node.name, outputs=node.output, shapes=shapes, dtypes=types)


def write(model: keras.Model, metadata: Mapping[str, str], path: Path) -> None:
    """Write ``model``, one of ``pixel_model``, with ``metadata`` in its properties."""
    onnx, _ = libraries()
    _know_erfc()
    with converting("onnx"):
        plain = _without_groups(model)
        plain({INPUT: np.zeros([1, *model.inputs[0].shape[1:]], np.float32)})  # Keras exports what was called once
        plain.export(path, format="onnx", verbose=False)
    network = onnx.load(path)
    for value in (*network.graph.input, *network.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    onnx.helper.set_model_props(network, dict(metadata))
    onnx.save(network, path)


class _Calibration:
    """Images as ONNX Runtime asks for them: a feed of the network, and ``None`` after the last."""

    def __init__(self, images: Iterable[npt.NDArray[np.float32]]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        return next(({INPUT: image} for image in self._images), None)


def write_int8(
    model: keras.Model, metadata: Mapping[str, str], path: Path, calibration: Iterable[npt.NDArray[np.float32]]
) -> None:
    """Write ``model`` as ``write`` does, with weights and activations of 8 bits; input and output stay float32. The
    ranges of the activations are those of ``calibration``, images float32 ``[1, S, S, 3]``. Files of the steps between
    are left beside ``path``.
    """
    onnx, _ = libraries()
    from onnxruntime import quantization

    exact, folded = path.with_name("exact.onnx"), path.with_name("folded.onnx")
    write(model, metadata, exact)
    with converting("onnx"):
        # Operations become parts of the convolution before them. Dimensions as symbols would take a package more, and
        # only that of the batch is open.
        quantization.quant_pre_process(exact, folded, skip_symbolic_shape=True)
        # Without a sign: where a processor lacks VNNI, the sums of products of unsigned activations and signed weights
        # overflow in 16 bits, and what was measured here would not hold there.
        quantization.quantize_static(
            folded,
            path,
            _Calibration(calibration),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QUInt8,
            per_channel=True,
        )
    network = onnx.load(path)
    onnx.helper.set_model_props(network, dict(metadata))
    onnx.save(network, path)


def network(path: Path) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    """The network in the file, as ONNX Runtime runs it: from images float32 ``[n, S, S, 3]`` to logits float32
    ``[n, classes]``.

    Raises:
        UsageError: the network has an operation that ONNX does not have; has the runtime's reason.
    """
    _, onnxruntime = libraries()
    with silent():
        try:
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # as for a converter; tf2onnx writes an operation that it does not know as it is
            raise UsageError(f"format=onnx: ONNX Runtime does not take this network: {one_line(str(error))}") from error

    def run(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with silent():
            (logits,) = session.run([OUTPUT], {INPUT: images})
        found: npt.NDArray[np.float32] = logits
        return found

    return run
