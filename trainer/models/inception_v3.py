"""Inception V3 (Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", arXiv 1512.00567).

The layout is the one that was published with weights: block names and grids as in TF-Slim
(``tensorflow/models`` research/slim/nets/inception_v3.py), arithmetic equal to ``keras.applications.InceptionV3``
where the two overlap. Grid sizes in the comments are for a 299×299 input; a 75×75 input is the smallest that
leaves one cell at the end (35→7, 17→3, 8→1).

Layer names are dotted (``mixed_5b.branch_1.conv2d_0a_1x1.conv``) because Keras forbids ``/``; the state tree
turns the dots into levels.
"""

from __future__ import annotations

import dataclasses

import keras

from trainer.config.schema.networks import InceptionV3Config
from trainer.config.schema.training import Precision
from trainer.models.layers import FusedBatchNormalization, KeyedDropout
from trainer.runtime.seeds import derive_seed

# research/slim/nets/inception_v3.py: depth(d) = max(int(d * depth_multiplier), min_depth)
AUX_POOL = 5
AUX_STRIDE = 3


@dataclasses.dataclass(frozen=True)
class _Scope:
    """Where in the network the next layer is being made: configuration, seed, type and the dotted name so far."""

    config: InceptionV3Config
    seed: int | None
    precision: Precision
    name: str = ""

    def enter(self, name: str) -> _Scope:
        return dataclasses.replace(self, name=f"{self.name}.{name}" if self.name else name)

    def depth(self, filters: int) -> int:
        return max(int(filters * self.config.width), self.config.min_depth)

    def initializer(self, layer: str, stddev: float) -> keras.initializers.Initializer:
        """The kernel initialiser of one layer, drawing from a seed that only this layer's name decides.

        ``stddev`` is the published truncated-normal width of that place and is used by
        ``initializer=truncated_normal`` only.
        """
        if self.seed is None:
            return keras.initializers.Zeros()
        seed = derive_seed(self.seed, "initializer", f"{self.name}.{layer}")
        match self.config.initializer:
            case "variance_scaling":
                # slim.variance_scaling_initializer: factor 2.0, fan in, truncated normal
                return keras.initializers.VarianceScaling(2.0, "fan_in", "truncated_normal", seed=seed)
            case "glorot_uniform":
                return keras.initializers.GlorotUniform(seed=seed)
            case "truncated_normal":
                return keras.initializers.TruncatedNormal(0.0, stddev, seed=seed)


def _conv_bn(
    scope: _Scope,
    x: keras.KerasTensor,
    name: str,
    filters: int,
    kernel: tuple[int, int],
    strides: int = 1,
    padding: str = "same",
    stddev: float = 0.1,
) -> keras.KerasTensor:
    """Convolution without bias, batch norm, activation: the unit everything else is made of."""
    scope = scope.enter(name)
    norm = scope.config.batch_norm
    x = keras.layers.Conv2D(
        scope.depth(filters),
        kernel,
        strides=strides,
        padding=padding,
        use_bias=False,
        kernel_initializer=scope.initializer("conv", stddev),
        name=f"{scope.name}.conv",
        dtype=scope.precision,
    )(x)
    x = FusedBatchNormalization(
        momentum=norm.momentum,
        epsilon=norm.epsilon,
        scale=norm.scale,
        synchronized=norm.synchronized,
        group_size=norm.group_size,
        name=f"{scope.name}.batch_norm",
        dtype="float32",  # sums over a batch lose too much in 16 bits
    )(x)
    return keras.layers.Activation(scope.config.activation, name=f"{scope.name}.activation", dtype=scope.precision)(x)


def _concat(scope: _Scope, branches: list[keras.KerasTensor]) -> keras.KerasTensor:
    return keras.layers.Concatenate(axis=-1, name=f"{scope.name}.concat", dtype=scope.precision)(branches)


def _pool_branch(scope: _Scope, x: keras.KerasTensor, filters: int) -> keras.KerasTensor:
    """3×3 average pool and 1×1; torchvision's pool counts the zeros around the image (``model.count_include_pad``)."""
    scope = scope.enter("branch_3")
    padding = "same"
    if scope.config.count_include_pad:
        padding = "valid"
        x = keras.layers.ZeroPadding2D(1, name=f"{scope.name}.zeropad_0a_3x3", dtype=scope.precision)(x)
    x = keras.layers.AveragePooling2D(
        3, strides=1, padding=padding, name=f"{scope.name}.avgpool_0a_3x3", dtype=scope.precision
    )(x)
    return _conv_bn(scope, x, "conv2d_0b_1x1", filters, (1, 1))


def _stem(scope: _Scope, x: keras.KerasTensor) -> keras.KerasTensor:
    x = _conv_bn(scope, x, "conv2d_1a_3x3", 32, (3, 3), strides=2, padding="valid")  # 299 -> 149
    x = _conv_bn(scope, x, "conv2d_2a_3x3", 32, (3, 3), padding="valid")  # 147
    x = _conv_bn(scope, x, "conv2d_2b_3x3", 64, (3, 3))  # 147
    x = keras.layers.MaxPooling2D(3, strides=2, name="maxpool_3a_3x3", dtype=scope.precision)(x)  # 73
    x = _conv_bn(scope, x, "conv2d_3b_1x1", 80, (1, 1), padding="valid")  # 73
    x = _conv_bn(scope, x, "conv2d_4a_3x3", 192, (3, 3), padding="valid")  # 71
    return keras.layers.MaxPooling2D(3, strides=2, name="maxpool_5a_3x3", dtype=scope.precision)(x)  # 35


def _inception_a(scope: _Scope, x: keras.KerasTensor, name: str, pool_filters: int) -> keras.KerasTensor:
    """35×35: 1×1, 5×5, double 3×3 and pool (figure 5 of the paper; mixed 5b, 5c, 5d)."""
    scope = scope.enter(name)
    b0 = _conv_bn(scope.enter("branch_0"), x, "conv2d_0a_1x1", 64, (1, 1))
    b1 = _conv_bn(scope.enter("branch_1"), x, "conv2d_0a_1x1", 48, (1, 1))
    b1 = _conv_bn(scope.enter("branch_1"), b1, "conv2d_0b_5x5", 64, (5, 5))
    b2 = _conv_bn(scope.enter("branch_2"), x, "conv2d_0a_1x1", 64, (1, 1))
    b2 = _conv_bn(scope.enter("branch_2"), b2, "conv2d_0b_3x3", 96, (3, 3))
    b2 = _conv_bn(scope.enter("branch_2"), b2, "conv2d_0c_3x3", 96, (3, 3))
    b3 = _pool_branch(scope, x, pool_filters)
    return _concat(scope, [b0, b1, b2, b3])


def _reduction_a(scope: _Scope, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """35×35 → 17×17 without a bottleneck (figure 10 of the paper; mixed 6a)."""
    scope = scope.enter(name)
    b0 = _conv_bn(scope.enter("branch_0"), x, "conv2d_1a_3x3", 384, (3, 3), strides=2, padding="valid")
    b1 = _conv_bn(scope.enter("branch_1"), x, "conv2d_0a_1x1", 64, (1, 1))
    b1 = _conv_bn(scope.enter("branch_1"), b1, "conv2d_0b_3x3", 96, (3, 3))
    b1 = _conv_bn(scope.enter("branch_1"), b1, "conv2d_1a_3x3", 96, (3, 3), strides=2, padding="valid")
    b2 = keras.layers.MaxPooling2D(3, strides=2, name=f"{scope.name}.branch_2.maxpool_1a_3x3", dtype=scope.precision)(x)
    return _concat(scope, [b0, b1, b2])


def _inception_b(scope: _Scope, x: keras.KerasTensor, name: str, filters: int) -> keras.KerasTensor:
    """17×17: 7×7 factorised into 1×7 and 7×1 (figure 6 of the paper; mixed 6b to 6e)."""
    scope = scope.enter(name)
    b0 = _conv_bn(scope.enter("branch_0"), x, "conv2d_0a_1x1", 192, (1, 1))
    b1 = _conv_bn(scope.enter("branch_1"), x, "conv2d_0a_1x1", filters, (1, 1))
    b1 = _conv_bn(scope.enter("branch_1"), b1, "conv2d_0b_1x7", filters, (1, 7))
    b1 = _conv_bn(scope.enter("branch_1"), b1, "conv2d_0c_7x1", 192, (7, 1))
    b2 = _conv_bn(scope.enter("branch_2"), x, "conv2d_0a_1x1", filters, (1, 1))
    b2 = _conv_bn(scope.enter("branch_2"), b2, "conv2d_0b_7x1", filters, (7, 1))
    b2 = _conv_bn(scope.enter("branch_2"), b2, "conv2d_0c_1x7", filters, (1, 7))
    b2 = _conv_bn(scope.enter("branch_2"), b2, "conv2d_0d_7x1", filters, (7, 1))
    b2 = _conv_bn(scope.enter("branch_2"), b2, "conv2d_0e_1x7", 192, (1, 7))
    b3 = _pool_branch(scope, x, 192)
    return _concat(scope, [b0, b1, b2, b3])


def _reduction_b(scope: _Scope, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """17×17 → 8×8 (mixed 7a)."""
    scope = scope.enter(name)
    b0 = _conv_bn(scope.enter("branch_0"), x, "conv2d_0a_1x1", 192, (1, 1))
    b0 = _conv_bn(scope.enter("branch_0"), b0, "conv2d_1a_3x3", 320, (3, 3), strides=2, padding="valid")
    b1 = _conv_bn(scope.enter("branch_1"), x, "conv2d_0a_1x1", 192, (1, 1))
    b1 = _conv_bn(scope.enter("branch_1"), b1, "conv2d_0b_1x7", 192, (1, 7))
    b1 = _conv_bn(scope.enter("branch_1"), b1, "conv2d_0c_7x1", 192, (7, 1))
    b1 = _conv_bn(scope.enter("branch_1"), b1, "conv2d_1a_3x3", 192, (3, 3), strides=2, padding="valid")
    b2 = keras.layers.MaxPooling2D(3, strides=2, name=f"{scope.name}.branch_2.maxpool_1a_3x3", dtype=scope.precision)(x)
    return _concat(scope, [b0, b1, b2])


def _inception_c(scope: _Scope, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """8×8: filter bank outputs expanded side by side (figure 7 of the paper; mixed 7b, 7c)."""
    scope = scope.enter(name)
    b0 = _conv_bn(scope.enter("branch_0"), x, "conv2d_0a_1x1", 320, (1, 1))
    b1 = _conv_bn(scope.enter("branch_1"), x, "conv2d_0a_1x1", 384, (1, 1))
    b1 = _concat(
        scope.enter("branch_1"),
        [
            _conv_bn(scope.enter("branch_1"), b1, "conv2d_0b_1x3", 384, (1, 3)),
            _conv_bn(scope.enter("branch_1"), b1, "conv2d_0c_3x1", 384, (3, 1)),
        ],
    )
    b2 = _conv_bn(scope.enter("branch_2"), x, "conv2d_0a_1x1", 448, (1, 1))
    b2 = _conv_bn(scope.enter("branch_2"), b2, "conv2d_0b_3x3", 384, (3, 3))
    b2 = _concat(
        scope.enter("branch_2"),
        [
            _conv_bn(scope.enter("branch_2"), b2, "conv2d_0c_1x3", 384, (1, 3)),
            _conv_bn(scope.enter("branch_2"), b2, "conv2d_0d_3x1", 384, (3, 1)),
        ],
    )
    b3 = _pool_branch(scope, x, 192)
    return _concat(scope, [b0, b1, b2, b3])


def _aux_head(scope: _Scope, x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """The auxiliary classifier on the last 17×17 grid (section 4 of the paper; slim scope ``AuxLogits``)."""
    scope = scope.enter("aux_logits")
    grid = x.shape[1]
    window = min(AUX_POOL, grid)
    x = keras.layers.AveragePooling2D(
        window, strides=AUX_STRIDE, name=f"{scope.name}.avgpool_1a_5x5", dtype=scope.precision
    )(x)  # 5
    x = _conv_bn(scope, x, "conv2d_1b_1x1", 128, (1, 1), stddev=0.01)
    rest = min(AUX_POOL, x.shape[1])  # smaller inputs leave less than 5×5 (slim: _reduced_kernel_size_for_small_input)
    x = _conv_bn(scope, x, "conv2d_2a_5x5", 768, (rest, rest), padding="valid", stddev=0.01)  # 1
    x = keras.layers.GlobalAveragePooling2D(name=f"{scope.name}.avgpool_2b", dtype="float32")(x)
    return keras.layers.Dense(
        num_classes, kernel_initializer=scope.initializer("logits", 0.001), name=f"{scope.name}.logits", dtype="float32"
    )(x)


def build_inception_v3(
    config: InceptionV3Config, num_classes: int, image_size: int, seed: int | None, precision: Precision
) -> keras.Model:
    """Build the network as a function of its configuration and a seed; without one all kernels are zero.

    Inputs (a dict): ``image`` float32 ``[batch, image_size, image_size, 3]`` in the range the preprocessing
    leaves, and ``dropout`` float32 ``[batch, features]``, uniform draws in [0, 1) that decide which features are
    dropped in training; inference ignores it. The draws come in from outside so that they can be a function of the
    global example number and not of hidden generator state.

    Outputs (a dict): ``logits`` float32 ``[batch, num_classes]`` and, with ``aux_logits=true``, ``aux_logits`` of
    the same shape.

    ``precision`` is the type of what passes between layers (a Keras dtype policy, given to each layer). Variables,
    batch norm and everything from the last pooling on are float32 in any case.
    """
    scope = _Scope(config, seed, precision)
    image = keras.Input((image_size, image_size, 3), name="image")
    x = _stem(scope, image)
    for name, pool_filters in (("mixed_5b", 32), ("mixed_5c", 64), ("mixed_5d", 64)):
        x = _inception_a(scope, x, name, pool_filters)  # 35: 256, 288, 288
    x = _reduction_a(scope, x, "mixed_6a")  # 17: 768
    for name, filters in (("mixed_6b", 128), ("mixed_6c", 160), ("mixed_6d", 160), ("mixed_6e", 192)):
        x = _inception_b(scope, x, name, filters)  # 17: 768
    outputs = {}
    if config.aux_logits:
        outputs["aux_logits"] = _aux_head(scope, x, num_classes)
    x = _reduction_b(scope, x, "mixed_7a")  # 8: 1280
    for name in ("mixed_7b", "mixed_7c"):
        x = _inception_c(scope, x, name)  # 8: 2048
    scope = scope.enter("logits")
    x = keras.layers.GlobalAveragePooling2D(name="logits.avgpool_1a_8x8", dtype="float32")(x)
    dropout = keras.Input((x.shape[-1],), name="dropout")
    x = KeyedDropout(config.dropout, name="logits.dropout_1b", dtype="float32")([x, dropout])
    outputs["logits"] = keras.layers.Dense(
        num_classes, kernel_initializer=scope.initializer("logits", 0.1), name="logits.logits", dtype="float32"
    )(x)
    return keras.Model({"image": image, "dropout": dropout}, outputs, name="inception_v3")
