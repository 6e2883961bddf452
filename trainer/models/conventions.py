"""What torchvision's networks compute otherwise than those of ``keras.applications`` with the same weights.

- Padding: torch pads both sides alike; TensorFlow's ``same``, and ``imagenet_utils.correct_pad``, pad more at the end.
- A bottleneck of a ResNet halves the grid in its 3×3 convolution (ResNet v1.5); Keras's in its first 1×1.
- Batch norm adds 1e-5, but for MobileNetV3 and the larger EfficientNets.

No tensor shows any of it. pytorch/vision torchvision/models/{resnet,mobilenetv2,mobilenetv3,efficientnet,densenet}.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import keras

BOTTLENECK = re.compile(r"(conv\d_block\d+)_([12])_conv")
# the networks whose outputs differ; VGG and ConvNeXt are the same in both
DIFFERING = ("ResNet", "MobileNetV2", "MobileNetV3", "EfficientNetB", "DenseNet")
SMALL_EPSILON = ("ResNet", "MobileNetV2", "DenseNet", *(f"EfficientNetB{number}" for number in range(5)))
EPSILON = 1e-5


def differs(application: str) -> bool:
    """Whether the conventions decide what a network computes."""
    return application.startswith(DIFFERING) and not (application.startswith("ResNet") and application.endswith("V2"))


def epsilon(application: str, own: float) -> float:
    """What torchvision's batch norm adds to the variance, where Keras's adds ``own``."""
    return EPSILON if application.startswith(SMALL_EPSILON) else own


def as_torch(layer: keras.Layer, layers: Mapping[str, keras.Layer]) -> tuple[int, dict[str, Any]]:
    """How many zeros to put around a layer's input, and its configuration, as in torchvision. ``layers`` are all of the
    network by name.
    """
    config = layer.get_config()
    if isinstance(layer, keras.layers.ZeroPadding2D):
        following = layer._outbound_nodes[0].operation
        if hasattr(following, "kernel_size"):
            before = (following.kernel_size[0] - 1) // 2
            config["padding"] = ((before, before), (before, before))
        return 0, config
    if not isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
        return 0, config
    if match := BOTTLENECK.fullmatch(layer.name):
        first = layers[f"{match[1]}_1_conv"].strides
        config["strides"] = (1, 1) if match[2] == "1" else first
    window, strides = layer.kernel_size[0], config["strides"]
    if config["padding"] != "same" or window == 1 or max(strides if isinstance(strides, tuple) else (strides,)) == 1:
        return 0, config
    return (window - 1) // 2, {**config, "padding": "valid"}
