"""Networks whose exports are read by other programs: overrides of the default configuration, by name."""

from __future__ import annotations

RECIPE = ("model.width=0.25", "preprocess.image_size=75")  # the network of the recipe of the digits
# what torchvision and timm have
OF_TORCH = ("model.width=1", "model.count_include_pad=true", "model.batch_norm.scale=true", "preprocess.image_size=107")
APPLICATION = ("model=keras_application", "model.num_classes=10", "preprocess.image_size=64")
# layers that no other of these has: both kinds of average pooling, squeeze and excite, LayerScale, padding as torch's
NETWORKS = {
    "`inception_v3`": RECIPE,
    "`inception_v3` as torchvision's": OF_TORCH,
    "`inception_v3` in 16 bits": (*RECIPE, "runtime.precision=mixed_bfloat16"),
    "MobileNetV3Small": (*APPLICATION, "model.name=MobileNetV3Small"),
    "EfficientNetB0": (*APPLICATION, "model.name=EfficientNetB0"),
    "ConvNeXtTiny": (*APPLICATION, "model.name=ConvNeXtTiny"),
    "ResNet50 as torchvision's": (*APPLICATION, "model.name=ResNet50", "model.conventions=torch"),
    "NASNetMobile": (*APPLICATION, "model.name=NASNetMobile"),
}
OF_RECIPE = "`inception_v3`"
