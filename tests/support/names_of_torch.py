"""Names of torchvision and timm, written down from their networks."""

from __future__ import annotations

from collections.abc import Mapping

# names and shapes of their state_dict, as torchvision 0.29.1 and timm 1.0 have them → the variable
TORCH_NAMES: Mapping[str, Mapping[str, tuple[tuple[int, ...], str]]] = {
    "ResNet50": {
        "conv1.weight": ((64, 3, 7, 7), "conv1_conv/kernel"),
        "layer1.0.downsample.0.weight": ((256, 64, 1, 1), "conv2_block1_0_conv/kernel"),
        "layer1.0.downsample.1.running_var": ((256,), "conv2_block1_0_bn/moving_variance"),
        "layer4.2.conv2.weight": ((512, 512, 3, 3), "conv5_block3_2_conv/kernel"),
        "layer4.2.bn3.bias": ((2048,), "conv5_block3_3_bn/beta"),
        "fc.weight": ((10, 2048), "predictions/kernel"),
    },
    "MobileNetV2": {
        "features.0.1.weight": ((32,), "bn_Conv1/gamma"),
        "features.1.conv.0.0.weight": ((32, 1, 3, 3), "expanded_conv_depthwise/kernel"),
        "features.1.conv.1.weight": ((16, 32, 1, 1), "expanded_conv_project/kernel"),
        "features.2.conv.1.1.running_mean": ((96,), "block_1_depthwise_BN/moving_mean"),
        "features.17.conv.3.bias": ((320,), "block_16_project_BN/beta"),
        "features.18.0.weight": ((1280, 320, 1, 1), "Conv_1/kernel"),
        "classifier.1.weight": ((10, 1280), "predictions/kernel"),
    },
    "MobileNetV3Small": {
        "features.1.block.1.fc1.weight": ((8, 16, 1, 1), "expanded_conv_squeeze_excite_conv/kernel"),
        "features.2.block.2.0.weight": ((24, 72, 1, 1), "expanded_conv_1_project/kernel"),
        "features.4.block.1.0.weight": ((96, 1, 5, 5), "expanded_conv_3_depthwise/kernel"),
        "features.11.block.3.1.bias": ((96,), "expanded_conv_10_project_bn/beta"),
        "features.12.0.weight": ((576, 96, 1, 1), "conv_1/kernel"),
        "classifier.0.weight": ((1024, 576), "conv_2/kernel"),
    },
    "EfficientNetB0": {
        "features.1.0.block.0.0.weight": ((32, 1, 3, 3), "block1a_dwconv/kernel"),
        "features.2.0.block.3.1.weight": ((24,), "block2a_project_bn/gamma"),
        "blocks.0.0.conv_pw.weight": ((16, 32, 1, 1), "block1a_project_conv/kernel"),
        "blocks.1.0.bn3.weight": ((24,), "block2a_project_bn/gamma"),
        "blocks.1.0.se.conv_reduce.weight": ((4, 96, 1, 1), "block2a_se_reduce/kernel"),
        "conv_head.weight": ((1280, 320, 1, 1), "top_conv/kernel"),
    },
}
