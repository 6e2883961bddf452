"""Keys of ``model``: which network, and its shape."""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import TYPE_CHECKING, Literal

from trainer.config.keys import key
from trainer.config.plugins import MODELS
from trainer.config.registry import option, plugin_base
from trainer.config.schema.bounds import LARGEST_BATCH, LARGEST_CLASSIFIER
from trainer.config.schema.optimization import DecayedName

if TYPE_CHECKING:
    import keras

Activation = Literal["relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "sigmoid", "tanh"]

ConventionsName = Literal["keras", "torch"]

SMALLEST_IMAGE = 32  # the least that preprocess.image_size may be
# Below these nothing is left of an image at the end of the network. keras/src/applications/
SMALLEST_IMAGES = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}

# every classifier of keras.applications in Keras 3.15; a test holds the list complete
ApplicationName = Literal[
    "ConvNeXtTiny",
    "ConvNeXtSmall",
    "ConvNeXtBase",
    "ConvNeXtLarge",
    "ConvNeXtXLarge",
    "DenseNet121",
    "DenseNet169",
    "DenseNet201",
    "EfficientNetB0",
    "EfficientNetB1",
    "EfficientNetB2",
    "EfficientNetB3",
    "EfficientNetB4",
    "EfficientNetB5",
    "EfficientNetB6",
    "EfficientNetB7",
    "EfficientNetV2B0",
    "EfficientNetV2B1",
    "EfficientNetV2B2",
    "EfficientNetV2B3",
    "EfficientNetV2S",
    "EfficientNetV2M",
    "EfficientNetV2L",
    "InceptionResNetV2",
    "InceptionV3",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "MobileNetV3Large",
    "NASNetMobile",
    "NASNetLarge",
    "ResNet50",
    "ResNet50V2",
    "ResNet101",
    "ResNet101V2",
    "ResNet152",
    "ResNet152V2",
    "VGG16",
    "VGG19",
    "Xception",
]


# keys of both kinds of batch normalisation; a dataclass needs a field of its own each time
_synchronized = functools.partial(key, "statistics over the global batch; without it over groups of examples", "fixed")
_group_size = functools.partial(
    key, "examples of a group, when not synchronized", "fixed", minimum=2, maximum=LARGEST_BATCH
)
_warmup = functools.partial(
    key, "momentum is at most (1 + n) / (10 + n) after n updates, so statistics of a short run are its own", "fixed"
)
_initial_updates = functools.partial(
    key,
    "updates that the first statistics count for in n; null: 0, or 80 (momentum 0.9) with init_from",
    "fixed",
    minimum=0,
    completed=True,
)


@dataclasses.dataclass(frozen=True)
class BatchNormConfig:
    momentum: float = key("share of the old moving statistics kept at each step", "fixed", minimum=0.0, below=1.0)
    epsilon: float = key("added to the variance before the root", "fixed", above=0.0, maximum=1.0)
    scale: bool = key("learn a multiplier (gamma); the published network has none", "fixed")
    synchronized: bool = _synchronized()
    group_size: int = _group_size()
    warmup: bool = _warmup()
    initial_updates: int | None = _initial_updates()


@dataclasses.dataclass(frozen=True)
class BatchStatisticsConfig:
    synchronized: bool = _synchronized()
    group_size: int = _group_size()
    warmup: bool = _warmup()
    initial_updates: int | None = _initial_updates()


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The keys of every network."""

    name: str = key("which network", "fixed")
    num_classes: int | None = key(
        "size of the classifier; null: the data's", "fixed", minimum=2, maximum=LARGEST_CLASSIFIER, completed=True
    )

    if TYPE_CHECKING:  # each network declares them itself, at the place where it stores them
        weight_decay: float = key("L2 penalty on kernels", "consent")
        weight_decay_on: DecayedName = key("what has the penalty", "consent")
        batch_norm: BatchNormConfig | BatchStatisticsConfig = key("batch normalisation", "fixed")

    def smallest_image(self) -> int:
        """The smallest ``preprocess.image_size``, in pixels, that leaves something at the end of the network."""
        return SMALLEST_IMAGE


@option(MODELS, "trainer.models.inception_v3:build_inception_v3")
@dataclasses.dataclass(frozen=True)
class InceptionV3Config(ModelConfig):
    name: Literal["inception_v3"] = key("which network", "fixed")
    width: float = key("filters = max(int(published x width), min_depth)", "fixed", above=0.0, maximum=8.0)
    min_depth: int = key("smallest number of filters a narrow network keeps", "fixed", minimum=1, maximum=4096)
    aux_logits: bool = key("build the auxiliary classifier", "fixed")
    dropout: float = key("share of the last features dropped in training", "consent", minimum=0.0, below=1.0)
    activation: Activation = key("after every batch norm", "fixed")
    count_include_pad: bool = key(
        "average pools at a border divide by their whole window, as torchvision's do; TensorFlow leaves padding out",
        "fixed",
    )
    initializer: Literal["variance_scaling", "glorot_uniform", "truncated_normal"] = key(
        "distribution the kernels start from", "fixed"
    )
    weight_decay: float = key("L2 penalty on kernels: weight_decay x sum(w^2)/2", "consent", minimum=0.0, maximum=1.0)
    weight_decay_on: DecayedName = key("what the penalty is on: kernels; all: norms and biases too", "consent")
    batch_norm: BatchNormConfig = key("batch normalisation", "fixed")

    def smallest_image(self) -> int:
        return 75  # trainer/models/inception_v3.py


@dataclasses.dataclass(frozen=True)
class StockModelConfig(ModelConfig):
    """The keys of every network that is built from Keras's own layers and made exact afterwards."""

    weight_decay: float = key("L2 penalty on kernels: weight_decay x sum(w^2)/2", "consent", minimum=0.0, maximum=1.0)
    weight_decay_on: DecayedName = key("what the penalty is on: kernels; all: norms and biases too", "consent")
    batch_norm: BatchStatisticsConfig = key("batch normalisation; momentum and epsilon are the network's own", "fixed")


@option(MODELS, "trainer.models.keras_application:build_keras_application")
@dataclasses.dataclass(frozen=True)
class KerasApplicationConfig(StockModelConfig):
    """A network as ``keras.applications`` builds it; what has no key here is as in the application."""

    name: ApplicationName = key("which network of keras.applications", "fixed")
    conventions: ConventionsName = key(
        "padding, strides and epsilon as keras.applications has them, or as torchvision does, for its weights", "fixed"
    )

    def smallest_image(self) -> int:
        return SMALLEST_IMAGES.get(self.name, SMALLEST_IMAGE)


@plugin_base(MODELS, "trainer.models.plugin:build_plugin")
@dataclasses.dataclass(frozen=True)
class ModelPlugin(StockModelConfig, abc.ABC):
    """Base of a network from another distribution, found by an entry point in ``trainer.models``. It adds its keys."""

    @abc.abstractmethod
    def build(self, image_size: int) -> keras.Model:
        """The network in Keras's own layers, from images float32 ``[n, image_size, image_size, 3]`` to logits float32
        ``[n, num_classes]``. It is made exact afterwards, see docs/plugins.md.
        """
