"""Networks whose exports are read by other programs: overrides of the default configuration, by name."""

from __future__ import annotations

SIZE, APPLICATION_SIZE = 75, 64
NARROW = ("model.width=0.1", "model.min_depth=8", f"preprocess.image_size={SIZE}")
APPLICATION = ("model=keras_application", "model.num_classes=10", f"preprocess.image_size={APPLICATION_SIZE}")
# layers that no other of these has: both kinds of average pooling, squeeze and excite, LayerScale, padding as torch's
NETWORKS = {
    "inception_v3": NARROW,
    "inception_v3 of torchvision": (*NARROW, "model.count_include_pad=true", "model.batch_norm.scale=true"),
    "inception_v3 in 16 bits": (*NARROW, "runtime.precision=mixed_bfloat16"),
    "MobileNetV3Small": (*APPLICATION, "model.name=MobileNetV3Small"),
    "EfficientNetB0": (*APPLICATION, "model.name=EfficientNetB0"),
    "ConvNeXtTiny": (*APPLICATION, "model.name=ConvNeXtTiny"),
    "ResNet50 of torchvision": (*APPLICATION, "model.name=ResNet50", "model.conventions=torch"),
    "NASNetMobile": (*APPLICATION, "model.name=NASNetMobile"),
}
