"""Keys of ``preprocess`` and ``mixing``: from an encoded image to the network's input."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NewType

from trainer.config.keys import key
from trainer.config.plugins import TRANSFORMS
from trainer.config.registry import plugin_base

if TYPE_CHECKING:
    import tensorflow as tf

# The transforms whose keys are sections of ``preprocess`` itself, as in stored configurations. Any other transform is a
# ``TransformConfig`` that registers as an option; its keys are in ``preprocess.plugins``, like those of plug-ins.
TransformName = Literal[
    "decode",
    "random_area_crop",
    "central_crop",
    "resize",
    "horizontal_flip",
    "vertical_flip",
    "color_jitter",
    "rand_augment",
    "trivial_augment",
    "random_erasing",
    "normalize",
]

# all: as Pillow's exif_transpose; jpeg: a SHORT in the EXIF of a JPEG alone, as before this key existed
OrientationRule = Literal["all", "jpeg"]

PluginName = NewType("PluginName", str)  # of an installed plug-in, or of the program's own option


@dataclasses.dataclass(frozen=True)
class RandomAreaCropConfig:
    min_area: float = key("smallest share of the image's area that is kept", "consent", above=0.0, maximum=1.0)
    max_aspect: float = key(
        "width / height drawn from [1/max_aspect, max_aspect]", "consent", minimum=1.0, maximum=10.0
    )


@dataclasses.dataclass(frozen=True)
class CentralCropConfig:
    fraction: float = key("share of each side that is kept", "consent", above=0.0, maximum=1.0)


@dataclasses.dataclass(frozen=True)
class ResizeConfig:
    method: Literal["bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5", "gaussian", "mitchellcubic"] = (
        key("interpolation", "consent")
    )
    antialias: bool = key("low-pass filter when making an image smaller", "consent")


@dataclasses.dataclass(frozen=True)
class ColorJitterConfig:
    brightness: float = key("largest additive shift, of a 0..1 image; 0: none", "consent", minimum=0.0, maximum=1.0)
    contrast: float = key("factor drawn from [1 - contrast, 1 + contrast]; 0: none", "consent", minimum=0.0, below=1.0)
    saturation: float = key(
        "factor drawn from [1 - saturation, 1 + saturation]; 0: none", "consent", minimum=0.0, below=1.0
    )
    hue: float = key("largest shift, as a share of the colour circle; 0: none", "consent", minimum=0.0, maximum=0.5)


@dataclasses.dataclass(frozen=True)
class RandAugmentConfig:
    num_layers: int = key("operations applied to each image (N of the paper)", "consent", minimum=1, maximum=14)
    magnitude: float = key("strength of all operations (M of the paper)", "consent", minimum=0.0, maximum=10.0)


@dataclasses.dataclass(frozen=True)
class RandomErasingConfig:
    probability: float = key("share of the images it is applied to", "consent", minimum=0.0, maximum=1.0)
    min_area: float = key("smallest share of the image's area that is erased", "consent", above=0.0, maximum=1.0)
    max_area: float = key("largest share of the image's area that is erased", "consent", above=0.0, maximum=1.0)
    max_aspect: float = key(
        "width / height drawn from [1/max_aspect, max_aspect]", "consent", minimum=1.0, maximum=10.0
    )


@dataclasses.dataclass(frozen=True)
class NormalizeConfig:
    mean: tuple[float, ...] = key("per channel, of a 0..1 image", "consent", length=3)
    std: tuple[float, ...] = key("per channel, of a 0..1 image", "consent", length=3, above=0.0)
    channels: Literal["rgb", "bgr"] = key(
        "their order for the network; mean and std are of red, green and blue in either", "consent"
    )


@dataclasses.dataclass(frozen=True)
class TransformConfig:
    """The common part of every transform whose keys are in a section of ``preprocess.plugins``."""

    name: str = key("which transform", "consent")


@plugin_base(TRANSFORMS, "trainer.data.images.plugin:plugged")
@dataclasses.dataclass(frozen=True)
class TransformPlugin(TransformConfig, abc.ABC):
    """Base of a transform from another distribution, found by an entry point in ``trainer.transforms``. It adds its
    keys.
    """

    @abc.abstractmethod
    def draws(self) -> int:
        """How many random numbers an example takes; 0 for a transform that draws nothing."""

    @abc.abstractmethod
    def apply(self, image: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """The image, float32 ``[height, width, 3]``, in 0..1 unless an earlier transform changes that range
        (``normalize`` does). ``draws`` are float32 ``[draws()]`` in [0, 1), decided by (seed, example number,
        transform).

        The result depends on both and on the keys alone, and TensorFlow operations compute it. After ``resize`` it
        keeps the shape.
        """


@dataclasses.dataclass(frozen=True)
class PreprocessConfig:
    image_size: int = key("height and width of the network's input, pixels", "fixed", minimum=32, maximum=4096)
    train: tuple[TransformName | PluginName, ...] = key(
        "transforms for training, in order", "consent", plugins=TRANSFORMS
    )
    eval: tuple[TransformName | PluginName, ...] = key(
        "transforms for evaluation, in order", "consent", plugins=TRANSFORMS
    )
    decode: Literal["whole", "shrunk"] = key(
        "what a JPEG is decoded to where resize comes next: all its pixels, or 1/2, 1/4 or 1/8 of each side, the least "
        "of which no side falls below image_size",
        "consent",
    )
    orientation: OrientationRule = key(
        "which metadata turn an image upright: all (EXIF and XMP, of JPEG, PNG and WebP, as Pillow's exif_transpose), "
        "or jpeg (EXIF of JPEG alone, with a value of 16 bits: earlier versions)",
        "consent",
    )
    background: Literal["white", "black", "none"] | tuple[int, ...] = key(
        "colour under transparent pixels, or [red, green, blue] in 0..255; none: alpha is dropped, and what is stored "
        "under a transparent pixel shows",
        "consent",
        length=3,
        minimum=0,
        maximum=255,
    )
    sixteen_bit_range: tuple[int, ...] | None = key(
        "values of images of 16 bits a channel that become black and white, [0, 4095] for 12 bits; null: "
        "[0, 65535], and a run whose images leave most of it unused is refused",
        "consent",
        length=2,
        minimum=0,
        maximum=65535,
    )
    random_area_crop: RandomAreaCropConfig = key("crop a random part of the image", "consent")
    central_crop: CentralCropConfig = key("keep the middle of the image", "consent")
    resize: ResizeConfig = key("bring the image to image_size x image_size", "consent")
    color_jitter: ColorJitterConfig = key("change brightness, saturation, hue and contrast at random", "consent")
    rand_augment: RandAugmentConfig = key("several random image operations of one strength", "consent")
    random_erasing: RandomErasingConfig = key("set a random part to zero", "consent")
    normalize: NormalizeConfig = key("(image - mean) / std", "consent")
    plugins: Mapping[str, TransformConfig] = key(
        "a section of keys for every transform of a plug-in that train or eval names",
        "consent",
        hashable=False,
        plugins=TRANSFORMS,
    )


@dataclasses.dataclass(frozen=True)
class NoMixingConfig:
    name: Literal["none"] = key("how neighbours in a batch are mixed: not at all", "consent")


@dataclasses.dataclass(frozen=True)
class MixupConfig:
    name: Literal["mixup"] = key("how neighbours in a batch are mixed: blended as a whole", "consent")
    alpha: float = key("the shares are drawn from Beta(alpha, alpha)", "consent", above=0.0, maximum=100.0)
    probability: float = key("share of the pairs that are mixed", "consent", minimum=0.0, maximum=1.0)


@dataclasses.dataclass(frozen=True)
class CutMixConfig:
    name: Literal["cutmix"] = key("how neighbours in a batch are mixed: a box is exchanged", "consent")
    alpha: float = key("the area outside is drawn from Beta(alpha, alpha)", "consent", above=0.0, maximum=100.0)
    probability: float = key("share of the pairs that are mixed", "consent", minimum=0.0, maximum=1.0)


@dataclasses.dataclass(frozen=True)
class MixupCutMixConfig:
    name: Literal["mixup_cutmix"] = key("how neighbours in a batch are mixed: either way", "consent")
    mixup_alpha: float = key("alpha of the pairs that are blended", "consent", above=0.0, maximum=100.0)
    cutmix_alpha: float = key("alpha of the pairs that exchange a box", "consent", above=0.0, maximum=100.0)
    probability: float = key("share of the pairs that are mixed", "consent", minimum=0.0, maximum=1.0)
    cutmix_probability: float = key("share of the mixed pairs that exchange a box", "consent", minimum=0.0, maximum=1.0)


MixingConfig = NoMixingConfig | MixupConfig | CutMixConfig | MixupCutMixConfig
