"""How deep a layer lies: which learning rate it has with ``fine_tuning.layer_decay``."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf
from composing import compose

from trainer.config.schema.networks import KerasApplicationConfig, ModelConfig
from trainer.models.depth import depths
from trainer.models.registry import build_model

# network → depths in all; a block in the middle: its layers' number, the first, the last
CUT = {
    "MobileNet": (15, (4, "conv_dw_7", "conv_pw_7_bn")),
    "MobileNetV2": (19, (6, "block_7_expand", "block_7_project_BN")),
    "VGG16": (16, (1, "block3_conv2", "block3_conv2")),
}
LONG_CUT = {
    "ConvNeXtTiny": (23, (2, "convnext_tiny_downsampling_layernorm_1", "convnext_tiny_downsampling_conv_1")),
    "DenseNet121": (63, (4, "conv3_block1_0_bn", "conv3_block1_2_conv")),
    "EfficientNetB0": (18, (8, "block4a_expand_conv", "block4a_project_bn")),
    "EfficientNetV2B0": (23, (8, "block4c_expand_conv", "block4c_project_bn")),
    "InceptionResNetV2": (46, (8, "conv2d_121", "block17_8_conv")),
    "InceptionV3": (14, (20, "conv2d_44", "batch_normalization_49")),
    "MobileNetV3Small": (13, (8, "expanded_conv_4_expand", "expanded_conv_4_project_bn")),
    "NASNetMobile": (18, (24, "adjust_conv_projection_2", "separable_conv_2_bn_normal_left5_2")),
    "ResNet50": (18, (6, "conv3_block3_1_conv", "conv3_block3_3_bn")),
    "ResNet50V2": (18, (6, "conv3_block3_preact_bn", "conv3_block3_3_conv")),
    "Xception": (15, (6, "block7_sepconv1", "block7_sepconv3_bn")),
}


def network(*overrides: str) -> tuple[keras.Model, ModelConfig]:
    config = compose(*overrides, "model.num_classes=10").model
    size = max(75, config.smallest_image())
    with tf.Graph().as_default():
        return build_model(config, size, 0, "float32"), config


@pytest.mark.parametrize("name", [*CUT, *(pytest.param(name, marks=pytest.mark.long) for name in LONG_CUT)])
def test_a_network_is_cut_into_its_blocks_and_the_classifier_is_the_deepest(name: str) -> None:
    model, config = network("model=keras_application", f"model.name={name}")
    assert isinstance(config, KerasApplicationConfig)
    found = depths(model, config)
    blocks: dict[int, list[str]] = {}
    for layer, depth in found.items():
        blocks.setdefault(depth, []).append(layer)
    count, block = {**CUT, **LONG_CUT}[name]
    assert sorted(blocks) == list(range(count))
    assert len(blocks[count - 1]) == 1
    assert block in [(len(layers), layers[0], layers[-1]) for layers in blocks.values()], blocks
    assert set(found) == {layer.name for layer in model.layers if layer.variables}


def test_inception_v3_has_two_stems_its_blocks_and_both_classifiers_at_the_end() -> None:
    found = depths(*network("model.width=0.05", "model.min_depth=6"))
    assert found["conv2d_2b_3x3/batch_norm"] == 0
    assert found["conv2d_3b_1x1/conv"] == 1
    assert found["mixed_5b/branch_0/conv2d_0a_1x1/conv"] == 2
    assert found["mixed_6a/branch_0/conv2d_1a_3x3/conv"] == 5
    assert found["mixed_7c/branch_3/conv2d_0b_1x1/conv"] == 12
    assert found["logits/logits"] == found["aux_logits/logits"] == found["aux_logits/conv2d_1b_1x1/conv"] == 13
    assert max(found.values()) == 13


def test_a_network_without_known_blocks_counts_its_kernels() -> None:
    config = compose("model=keras_application").model
    image = keras.Input((32, 32, 3))
    x = image
    for number in range(3):
        x = keras.layers.Conv2D(4, 3, name=f"c{number}")(x)
        x = keras.layers.BatchNormalization(name=f"n{number}")(x)
    x = keras.layers.Dense(2, name="d")(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, x)
    found = depths(model, ModelConfig(name="other", num_classes=config.num_classes))
    assert found == {"c0": 0, "n0": 0, "c1": 1, "n1": 1, "c2": 2, "n2": 2, "d": 3}
