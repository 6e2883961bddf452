"""Every configuration key: its type, allowed values, meaning, and what a resume may do with it.

Values live in ``conf/*.yaml``; nothing here has a default, so a stored configuration is complete and keeps its
meaning when the defaults change.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NewType

from trainer.config.keys import key
from trainer.config.plugins import MODELS, OPTIMIZERS, SCHEDULES, SOURCES, TRANSFORMS

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from trainer.data.split import Split
    from trainer.data.stored_split import StoredSplit
    from trainer.update_rule import Rule

Activation = Literal["relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "sigmoid", "tanh"]
WeightsName = Literal["raw", "ema"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
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
PluginName = NewType("PluginName", str)  # that of an installed plug-in
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
# Bounds far above anything that is trained, so that a stored text cannot ask for a list of 10^9 class names.
LARGEST_CLASSIFIER = 2**24
LARGEST_BATCH = 2**24


@dataclasses.dataclass(frozen=True)
class BatchNormConfig:
    momentum: float = key("share of the old moving statistics kept at each step", "fixed", minimum=0.0, below=1.0)
    epsilon: float = key("added to the variance before the root", "fixed", above=0.0, maximum=1.0)
    scale: bool = key("learn a multiplier (gamma); the published network has none", "fixed")
    synchronized: bool = key("statistics over the global batch; without it over groups of examples", "fixed")
    group_size: int = key("examples of a group, when not synchronized", "fixed", minimum=2, maximum=LARGEST_BATCH)


@dataclasses.dataclass(frozen=True)
class InceptionV3Config:
    name: Literal["inception_v3"] = key("which network", "fixed")
    num_classes: int | None = key(
        "size of the classifier; null: the data's", "fixed", minimum=2, maximum=LARGEST_CLASSIFIER, completed=True
    )
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
    batch_norm: BatchNormConfig = key("batch normalisation", "fixed")


@dataclasses.dataclass(frozen=True)
class BatchStatisticsConfig:
    synchronized: bool = key("statistics over the global batch; without it over groups of examples", "fixed")
    group_size: int = key("examples of a group, when not synchronized", "fixed", minimum=2, maximum=LARGEST_BATCH)


@dataclasses.dataclass(frozen=True)
class StockModelConfig:
    """What every network has that is built of Keras's own layers and made exact afterwards."""

    name: str = key("which network", "fixed")
    num_classes: int | None = key(
        "size of the classifier; null: the data's", "fixed", minimum=2, maximum=LARGEST_CLASSIFIER, completed=True
    )
    weight_decay: float = key("L2 penalty on kernels: weight_decay x sum(w^2)/2", "consent", minimum=0.0, maximum=1.0)
    batch_norm: BatchStatisticsConfig = key("batch normalisation; momentum and epsilon are the network's own", "fixed")


@dataclasses.dataclass(frozen=True)
class KerasApplicationConfig(StockModelConfig):
    """A network as ``keras.applications`` builds it; what is not here is what the application has."""

    name: ApplicationName = key("which network of keras.applications", "fixed")


@dataclasses.dataclass(frozen=True)
class ModelPlugin(StockModelConfig, abc.ABC):
    """Base of a network that another distribution brings, by an entry point in ``trainer.models``. It adds its keys."""

    @abc.abstractmethod
    def build(self, image_size: int) -> keras.Model:
        """The network in Keras's own layers, from images float32 ``[n, image_size, image_size, 3]`` to logits float32
        ``[n, num_classes]``. It is made exact afterwards, see ``trainer.models.stock.exact``.
        """


ModelConfig = InceptionV3Config | KerasApplicationConfig | ModelPlugin


@dataclasses.dataclass(frozen=True)
class AdamConfig:
    name: Literal["adam"] = key("which optimizer", "fixed")
    learning_rate: float = key("peak learning rate; the schedule multiplies it", "consent", above=0.0, maximum=1e3)
    beta_1: float = key("decay of the first moment", "consent", minimum=0.0, below=1.0)
    beta_2: float = key("decay of the second moment", "consent", minimum=0.0, below=1.0)
    epsilon: float = key("added to the root of the second moment", "consent", above=0.0, maximum=1.0)
    clip_norm: float | None = key("largest global gradient norm; null: no clipping", "consent", above=0.0)


@dataclasses.dataclass(frozen=True)
class AdamWConfig:
    name: Literal["adamw"] = key("which optimizer", "fixed")
    learning_rate: float = key("peak learning rate; the schedule multiplies it", "consent", above=0.0, maximum=1e3)
    beta_1: float = key("decay of the first moment", "consent", minimum=0.0, below=1.0)
    beta_2: float = key("decay of the second moment", "consent", minimum=0.0, below=1.0)
    epsilon: float = key("added to the root of the second moment", "consent", above=0.0, maximum=1.0)
    weight_decay: float = key("decoupled decay of kernels, times the learning rate", "consent", minimum=0.0)
    clip_norm: float | None = key("largest global gradient norm; null: no clipping", "consent", above=0.0)


@dataclasses.dataclass(frozen=True)
class SGDConfig:
    name: Literal["sgd"] = key("which optimizer", "fixed")
    learning_rate: float = key("peak learning rate; the schedule multiplies it", "consent", above=0.0, maximum=1e3)
    momentum: float = key("decay of the velocity", "consent", minimum=0.0, below=1.0)
    nesterov: bool = key("look ahead along the velocity", "consent")
    clip_norm: float | None = key("largest global gradient norm; null: no clipping", "consent", above=0.0)


@dataclasses.dataclass(frozen=True)
class RMSPropConfig:
    name: Literal["rmsprop"] = key("which optimizer", "fixed")
    learning_rate: float = key("peak learning rate; the schedule multiplies it", "consent", above=0.0, maximum=1e3)
    rho: float = key("decay of the mean square", "consent", minimum=0.0, below=1.0)
    momentum: float = key("decay of the momentum slot", "consent", minimum=0.0, below=1.0)
    epsilon: float = key("added to the mean square inside the root", "consent", above=0.0, maximum=10.0)
    initial_mean_square: float = key(
        "where the mean square starts: 1 in TensorFlow 1 and the paper's recipe, 0 in Keras", "consent", minimum=0.0
    )
    clip_norm: float | None = key("largest global gradient norm; null: no clipping", "consent", above=0.0)


@dataclasses.dataclass(frozen=True)
class OptimizerPlugin(abc.ABC):
    """Base of an optimizer that another distribution brings, by an entry point in ``trainer.optimizers``. It adds its
    keys.
    """

    name: str = key("which optimizer", "fixed")
    learning_rate: float = key("peak learning rate; the schedule multiplies it", "consent", above=0.0, maximum=1e3)
    clip_norm: float | None = key("largest global gradient norm; null: no clipping", "consent", above=0.0)

    @abc.abstractmethod
    def rule(self) -> Rule:
        """The slots that each variable has, and what a step does to a variable and its slots: ``trainer.update_rule``.

        Between steps it keeps nothing but the slots. It assigns by ``trainer.replicas.assign``, ``assign_sub`` or
        ``tf.raw_ops.ResourceApply…`` with ``variable.handle``: several replicas each change their own copy.
        """


OptimizerConfig = AdamConfig | AdamWConfig | SGDConfig | RMSPropConfig | OptimizerPlugin


@dataclasses.dataclass(frozen=True)
class CommonScheduleConfig:
    """What every schedule has: a warm-up."""

    name: str = key("which schedule", "consent")
    warmup_epochs: float = key("linear warm-up, used when warmup_steps is null", "consent", minimum=0.0)
    warmup_steps: int | None = key("linear warm-up from 0; null: warmup_epochs", "consent", minimum=0, completed=True)


@dataclasses.dataclass(frozen=True)
class ConstantScheduleConfig(CommonScheduleConfig):
    name: Literal["constant"] = key("which schedule", "consent")


@dataclasses.dataclass(frozen=True)
class ExponentialScheduleConfig(CommonScheduleConfig):
    name: Literal["exponential"] = key("which schedule", "consent")
    decay_rate: float = key("factor for each decay period", "consent", above=0.0, maximum=1.0)
    decay_epochs: float = key("length of a decay period, used when decay_steps is null", "consent", above=0.0)
    decay_steps: int | None = key("length of a decay period; null: decay_epochs", "consent", minimum=1, completed=True)
    staircase: bool = key("decay at the end of each period instead of continuously", "consent")
    minimum_fraction: float = key("floor, as a share of the peak", "consent", minimum=0.0, maximum=1.0)


@dataclasses.dataclass(frozen=True)
class CosineScheduleConfig(CommonScheduleConfig):
    name: Literal["cosine"] = key("which schedule", "consent")
    decay_steps: int | None = key(
        "step at which the floor is reached; null: the length of the run when it starts",
        "consent",
        minimum=1,
        completed=True,
    )
    minimum_fraction: float = key("floor, as a share of the peak", "consent", minimum=0.0, maximum=1.0)


@dataclasses.dataclass(frozen=True)
class SchedulePlugin(CommonScheduleConfig, abc.ABC):
    """Base of a schedule that another distribution brings, by an entry point in ``trainer.schedules``. It adds its
    keys.
    """

    decay_steps: int | None = key(
        "step at which the schedule ends; null: the length of the run when it starts",
        "consent",
        minimum=1,
        completed=True,
    )

    @abc.abstractmethod
    def factor(self, step: tf.Tensor) -> tf.Tensor:
        """The share of the peak learning rate, float64 ``[]``, at ``step``, float64 ``[]``: a function of it and of the
        keys alone. The warm-up is applied to it afterwards.
        """


ScheduleConfig = ConstantScheduleConfig | ExponentialScheduleConfig | CosineScheduleConfig | SchedulePlugin


@dataclasses.dataclass(frozen=True)
class EmaConfig:
    decay: float | None = key(
        "decay of the exponential moving average of the weights; null: none", "fixed", minimum=0.0, below=1.0
    )
    warmup: bool = key("use min(decay, (1 + step) / (10 + step))", "consent")
    batch_norm: bool = key("average the batch norm statistics too", "fixed")


@dataclasses.dataclass(frozen=True)
class CommonDataConfig:
    """What every source understands: which of its records are used, and what happens to one that is not usable."""

    name: str = key("which data", "fixed")
    classes: tuple[str, ...] | None = key(
        "use only the records of these classes, in this order of labels; null: all, as stored", "fixed"
    )
    class_weights: tuple[float, ...] | None = key(
        "times an epoch shows each record of a class, one number a class: n records have round(weight x n) places; "
        "null: every record once",
        "consent",
        above=0.0,
        maximum=1e6,
    )
    train_examples: int | None = key("use only so many records; null: all", "consent", minimum=1)
    validation_examples: int | None = key("use only so many records; null: all", "consent", minimum=1)
    on_bad_record: Literal["fail", "skip"] = key(
        "a record that cannot be used: end with its name, or train on another in its place and count it", "free"
    )


@dataclasses.dataclass(frozen=True)
class DigitsConfig(CommonDataConfig):
    name: Literal["digits"] = key("which data: the embedded UCI handwritten digits", "fixed")


@dataclasses.dataclass(frozen=True)
class ImageFolderConfig(CommonDataConfig):
    name: Literal["image_folder"] = key("which data: image files in a folder for each class", "fixed")
    root: str = key("directory of the class folders, or of train/ and val/ with the class folders", "free", path=True)
    validation_share: float = key(
        "share of the images, by a hash of their path, that validates; unused when there is a val/ folder",
        "consent",
        above=0.0,
        below=1.0,
    )


@dataclasses.dataclass(frozen=True)
class TFRecordConfig(CommonDataConfig):
    name: Literal["tfrecord"] = key("which data: tf.train.Example records in TFRecord files", "fixed")
    root: str = key("directory of the files", "free", path=True)
    train_pattern: str = key("which files below root are for training (glob)", "consent")
    validation_pattern: str = key("which files below root are for validation (glob)", "consent")
    image_key: str = key("feature that holds the encoded image", "consent")
    label_key: str = key("feature that holds the label, an integer", "consent")
    label_offset: int = key("stored label of the first class: 1 where 0 means background", "consent")
    labels_file: str | None = key(
        "file, relative to root, with one class name a line, in label order; null: num_classes", "free"
    )
    num_classes: int | None = key(
        "number of classes, when labels_file is null", "fixed", minimum=2, maximum=LARGEST_CLASSIFIER
    )
    verify_crc: bool = key("compare the CRC of every record that is read", "consent")


@dataclasses.dataclass(frozen=True)
class TFDSConfig(CommonDataConfig):
    name: Literal["tfds"] = key("which data: a data set that tensorflow-datasets has prepared", "fixed")
    root: str = key("tensorflow-datasets' data_dir", "free", path=True)
    dataset: str = key("name[/config][:version], as tensorflow-datasets writes it", "consent")
    train_split: str = key("split for training, in tensorflow-datasets' notation (train, train[:80%])", "consent")
    validation_split: str = key("split for validation, in tensorflow-datasets' notation", "consent")
    image_key: str = key("feature that holds the image", "consent")
    label_key: str = key("feature that holds the label, a ClassLabel", "consent")


@dataclasses.dataclass(frozen=True)
class SyntheticConfig(CommonDataConfig):
    name: Literal["synthetic"] = key("which data: made up, for benchmarks", "fixed")
    train_examples: int = key("number of records for training", "consent", minimum=1)
    validation_examples: int = key("number of records for validation", "consent", minimum=1)
    num_classes: int = key("number of classes", "fixed", minimum=2, maximum=LARGEST_CLASSIFIER)
    height: int = key("of the images, pixels", "consent", minimum=1, maximum=4096)
    width: int = key("of the images, pixels", "consent", minimum=1, maximum=4096)
    decode: bool = key("JPEG files that are decoded and transformed; false: the network's input itself", "consent")


@dataclasses.dataclass(frozen=True)
class SourcePlugin(CommonDataConfig, abc.ABC):
    """Base of a source that another distribution brings, by an entry point in ``trainer.sources``. It adds its keys."""

    @abc.abstractmethod
    def open(self, split: Split) -> StoredSplit:
        """All records of one split: ``trainer.data.stored_split``.

        TensorFlow is not set up yet, so no operation of it may run here, in ``labels`` or in ``listing``.

        Raises:
            UsageError: the data is missing or not what is expected; names the file or folder.
        """


DataConfig = DigitsConfig | ImageFolderConfig | TFRecordConfig | TFDSConfig | SyntheticConfig | SourcePlugin


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


@dataclasses.dataclass(frozen=True)
class TransformPlugin(abc.ABC):
    """Base of a transform that another distribution brings, by an entry point in ``trainer.transforms``. It adds its
    keys.
    """

    name: str = key("which transform", "consent")

    @abc.abstractmethod
    def draws(self) -> int:
        """How many random numbers an example takes; 0 for a transform that draws nothing."""

    @abc.abstractmethod
    def apply(self, image: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """The image, float32 ``[height, width, 3]``, in 0..1 if what stands before leaves it there (``normalize`` does
        not). ``draws`` are float32 ``[draws()]`` in [0, 1), decided by (seed, example number, transform).

        A function of both and of the keys alone, in TensorFlow's operations. After ``resize`` it keeps the shape.
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
    random_area_crop: RandomAreaCropConfig = key("crop a random part of the image", "consent")
    central_crop: CentralCropConfig = key("keep the middle of the image", "consent")
    resize: ResizeConfig = key("bring the image to image_size x image_size", "consent")
    color_jitter: ColorJitterConfig = key("change brightness, saturation, hue and contrast at random", "consent")
    rand_augment: RandAugmentConfig = key("several random image operations of one strength", "consent")
    random_erasing: RandomErasingConfig = key("set a random part to zero", "consent")
    normalize: NormalizeConfig = key("(image - mean) / std", "consent")
    plugins: Mapping[str, TransformPlugin] = key(
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


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    epochs: float = key("length of the run, used when steps is null", "free", above=0.0)
    steps: int | None = key("length of the run in optimizer steps; null: epochs", "free", minimum=0)
    global_batch_size: int = key(
        "examples per optimizer step, over all devices", "consent", minimum=1, maximum=LARGEST_BATCH
    )
    accumulate_steps: int = key(
        "parts a batch is computed in, to save memory", "consent", minimum=1, maximum=LARGEST_BATCH
    )
    label_smoothing: float = key("share of the target spread over all classes", "consent", minimum=0.0, below=1.0)
    aux_weight: float = key("weight of the auxiliary classifier's loss", "consent", minimum=0.0)
    log_every_steps: int = key("steps per logged training record", "free", minimum=1)
    histograms_every_steps: int | None = key(
        "steps between histograms of all weights in TensorBoard; null: none", "free", minimum=1
    )


@dataclasses.dataclass(frozen=True)
class FineTuningConfig:
    freeze_until_step: int = key(
        "before this step only the classifiers are trained, and batch norm statistics stay; 0: never",
        "consent",
        minimum=0,
    )


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    every_epochs: float = key("cadence, used when every_steps is null", "free", above=0.0)
    every_steps: int | None = key("cadence in steps; null: every_epochs", "free", minimum=1, completed=True)
    batch_size: int = key(
        "examples per evaluation batch; does not change the result", "free", minimum=1, maximum=LARGEST_BATCH
    )
    weights: WeightsName = key("which weights are evaluated", "consent")


@dataclasses.dataclass(frozen=True)
class EarlyStoppingConfig:
    metric: Literal["accuracy", "loss"] = key("validation metric that is watched", "consent")
    patience: int | None = key("evaluations without improvement before stopping; null: never", "consent", minimum=1)
    min_change: float = key("smallest change that counts as improvement", "consent", minimum=0.0)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    every_steps: int = key("cadence of checkpoints", "free", minimum=1)
    keep_last: int = key("how many of the newest are kept", "free", minimum=1)
    keep_best: int = key("how many of the best by best_metric are kept", "free", minimum=0)
    keep_every_steps: int | None = key("also keep those at multiples of this; null: none", "free", minimum=1)
    best_metric: Literal["accuracy", "loss"] = key("validation metric that ranks checkpoints", "consent")
    async_save: bool = key("write in the background while training goes on; the result is the same", "free")
    verify: Literal["full", "fast", "off"] = key(
        "what a resume checks: SHA-256 of every file; of all but the tensors' values; the manifest alone", "free"
    )
    on_error: Literal["continue", "stop"] = key(
        "when the disk refuses a save: try again at the next, three times in a row, or stop", "free"
    )
    mirror: str | None = key("URL (s3://…, gs://…) or absolute path to copy each checkpoint to; null: nowhere", "free")


@dataclasses.dataclass(frozen=True)
class LossScaleConfig:
    initial: float = key("what a run starts with", "consent", minimum=1.0, maximum=2.0**100)
    growth_steps: int = key("steps with finite gradients after which the scale is doubled", "consent", minimum=1)


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
    strategy: Literal["auto", "one", "mirrored", "multi_worker"] = key(
        "compute on one device, on all of this process, or on those of all processes that TF_CONFIG or Slurm names; "
        "auto: whichever there are",
        "free",
    )
    virtual_devices: int | None = key(
        "split the CPU, or the only GPU, into so many devices; null: leave it whole", "free", minimum=1, maximum=64
    )
    precision: Precision = key(
        "type of activations; variables, batch norm, classifiers and loss are float32 in each", "consent"
    )
    deterministic: bool = key("bit-exact from run to run, on the same kind of device", "consent")
    xla: bool = key("compile forward and backward pass with XLA", "consent")
    threads: int | None = key(
        "threads within an operation; null: the cores of the machine the run starts on",
        "consent",
        minimum=1,
        maximum=1024,
        completed=True,
    )


@dataclasses.dataclass(frozen=True)
class Config:
    experiment: str = key("name of the experiment", "free")
    seed: int = key("every random draw is a function of it", "consent", minimum=0, maximum=2**31 - 1)
    model: ModelConfig = key("the network", "fixed", plugins=MODELS)
    optimizer: OptimizerConfig = key("the update rule", "fixed", plugins=OPTIMIZERS)
    schedule: ScheduleConfig = key("the learning rate over time", "consent", plugins=SCHEDULES)
    ema: EmaConfig = key("exponential moving average of the weights", "fixed")
    data: DataConfig = key("where the images come from", "fixed", plugins=SOURCES)
    preprocess: PreprocessConfig = key("from an encoded image to the network's input", "consent")
    mixing: MixingConfig = key("blending of two neighbours in a training batch and of their labels", "consent")
    train: TrainConfig = key("the training loop", "consent")
    fine_tuning: FineTuningConfig = key("what of the network is trained when", "consent")
    loss_scale: LossScaleConfig = key("factor of the loss, for gradients in mixed_float16", "consent")
    evaluation: EvaluationConfig = key("validation during training", "consent")
    early_stopping: EarlyStoppingConfig = key("stop when validation no longer improves", "consent")
    checkpoint: CheckpointConfig = key("when checkpoints are written and which are kept", "free")
    runtime: RuntimeConfig = key("how the computation is executed", "consent")
    profile: tuple[int, ...] | None = key(
        "first and last step that TensorFlow's profiler records; null: none", "free", minimum=1, length=2
    )


@dataclasses.dataclass(frozen=True)
class Invocation:
    """What belongs to one command line and not to the experiment; never stored."""

    run_dir: str = key("where the run lives", "free")
    on_existing: Literal["fail", "resume"] = key("what train does in a directory that has checkpoints", "free")
    init_from: str | None = key("checkpoint whose weights a new run starts from; null: none", "free")
    allow: tuple[str, ...] = key("changes that a resume may make although they change the result", "free")
