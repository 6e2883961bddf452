"""What pixels a network of ``keras.applications`` is for: its ``preprocess_input``, or the layers in it that rescale.

keras/src/applications/imagenet_utils.py has the modes: ``tf`` scales to -1..1, ``torch`` takes the mean of ImageNet and
divides by its deviation, ``caffe`` puts blue first, and takes the mean from 0..255 without dividing.
"""

from __future__ import annotations

from collections.abc import Sequence

from trainer.config.schema.preprocessing import NormalizeConfig

HALF = NormalizeConfig((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "rgb")
# torchvision.transforms for ImageNet
IMAGENET = NormalizeConfig((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "rgb")
CAFFE = NormalizeConfig((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255), "bgr")
PIXELS_01 = NormalizeConfig((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "rgb")
EFFICIENTNET_V2 = NormalizeConfig((128 / 255,) * 3, (128 / 255,) * 3, "rgb")  # x / 128 - 1
# the first beginning that fits a name counts; keras/src/applications/
MODES = {
    "ConvNeXt": IMAGENET,
    "DenseNet": IMAGENET,
    "EfficientNetV2B": IMAGENET,
    "EfficientNetV2": EFFICIENTNET_V2,
    "EfficientNet": IMAGENET,  # with weights="imagenet"; without, the file's Normalization says
    "Inception": HALF,
    "MobileNet": HALF,
    "NASNet": HALF,
    "VGG": CAFFE,
    "Xception": HALF,
}
RELATIVE = 1e-5  # numbers that people write with six digits are the same


def mode_of(application: str) -> NormalizeConfig:
    """The normalisation that ``keras.applications`` publishes a network with."""
    if application.startswith("ResNet"):
        return HALF if application.endswith("V2") else CAFFE
    return next(mode for name, mode in MODES.items() if application.startswith(name))


def of_layer(mean: Sequence[float], variance: Sequence[float]) -> NormalizeConfig:
    """That of an EfficientNet with a ``Normalization`` layer of these values, behind a division by 255.

    Its published weights have deviations for variances, and a layer after it that makes up for that.
    """
    if all(_close(value, std) for value, std in zip(variance, IMAGENET.std, strict=True)):
        deviations = list(IMAGENET.std)
    else:
        deviations = [max(value, 1e-14) ** 0.5 for value in variance]
    rounded = [tuple(float(f"{value:.7g}") for value in values) for values in (mean, deviations)]
    return NormalizeConfig(rounded[0], rounded[1], "rgb")


def same(one: NormalizeConfig, other: NormalizeConfig) -> bool:
    """Whether both do the same to an image, up to numbers that were written with few digits."""
    pairs = zip((*one.mean, *one.std), (*other.mean, *other.std), strict=True)
    return one.channels == other.channels and all(_close(left, right) for left, right in pairs)


def _close(left: float, right: float) -> bool:
    return abs(left - right) <= RELATIVE * max(abs(left), abs(right))
