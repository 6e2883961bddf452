"""Edits of the code of a training step: one in every module that a step is made of."""

from __future__ import annotations

import inspect
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

from trainer.data.images import draw, mixing
from trainer.data.order import ledger
from trainer.distributed import logical_replicas, replicas
from trainer.models import layers
from trainer.training import evaluation, gradients, loss_scale, losses, moving_statistics, optimizers, state, step

ADAMW = ("optimizer=adamw", "optimizer.clip_norm=1.0")
SGD = ("optimizer=sgd",)
RMSPROP = ("optimizer=rmsprop",)
PARTS = ("train.accumulate_steps=2",)
GROUPS = ("model.batch_norm.synchronized=false", "model.batch_norm.group_size=8")
AVERAGE = ("ema.decay=0.9999", "ema.warmup=false", "evaluation.weights=ema")
WARM_AVERAGE = ("ema.decay=0.9999", "ema.warmup=true")
LOGICAL = (*GROUPS[:1], "model.batch_norm.group_size=8", "train.logical_replicas=4")
HALF = ("runtime.precision=mixed_float16",)
FROZEN = ("fine_tuning.freeze_until_step=1",)
FROZEN_LAYERS = ("fine_tuning.freeze=[conv2d_*]",)
LAYER_DECAY = ("fine_tuning.layer_decay=0.5",)
MIXED = ("mixing=mixup",)


def edit(patch: pytest.MonkeyPatch, module: ModuleType, before: str, after: str) -> None:
    """Give every function of ``module`` the code that it has in a copy of the source where ``before`` is ``after``."""
    source = inspect.getsource(module)
    assert source.count(before) == 1, f"{before!r} must be once in {module.__name__}, to be edited"
    edited = compile(source.replace(before, after), str(module.__file__), "exec")
    codes: dict[str, CodeType] = {}

    def collect(code: CodeType) -> None:
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                codes[constant.co_qualname] = constant
                collect(constant)

    collect(edited)
    functions: list[Any] = [*vars(module).values()]
    for owner in [value for value in functions if inspect.isclass(value) and value.__module__ == module.__name__]:
        functions += vars(owner).values()
    for function in [inspect.unwrap(each) if isinstance(each, FunctionType) else each for each in functions]:
        written = isinstance(function, FunctionType) and function.__module__ == module.__name__
        if written and function.__qualname__ in codes:  # a dataclass has others
            patch.setattr(function, "__code__", codes[function.__qualname__])


BETA_2 = '"beta2": tf.constant(config.beta_2),\n            "epsilon": '
SMOOTHED = "target = _target(part, logits.shape[-1], config.train.label_smoothing)\n"
MEAN = "loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(target, logits))"
SUM = "loss = tf.reduce_sum(tf.nn.softmax_cross_entropy_with_logits(target, logits)[::-1] / logits.shape[0])"
EDITS: dict[str, tuple[tuple[str, ...], ModuleType, str, str]] = {
    # what is edited: (the run's configuration, the module, what stands there, what stands there instead)
    "label smoothing": ((), losses, "config.train.label_smoothing)", "config.train.label_smoothing * 1.01)"),
    "auxiliary weight": ((), losses, "config.train.aux_weight *", "1.01 * config.train.aux_weight *"),
    "weight decay": ((), losses, "config.model.weight_decay * tf", "1.01 * config.model.weight_decay * tf"),
    "what is decayed": ((), optimizers, "len(variable.shape) >= 2", "len(variable.shape) >= 1"),
    "mixed labels": (MIXED, losses, "weight * target + (1.0 - weight)", "weight * target + (1.01 - weight)"),
    "hits": ((), losses, "tf.equal(tf.argmax", "tf.not_equal(tf.argmax"),
    "hits of mixed examples": (MIXED, losses, '"label_weight"] >= 0.5', '"label_weight"] >= 0.2'),
    "cross-entropy": ((), losses, "(tf.one_hot(labels", "(1.01 * tf.one_hot(labels"),
    "mixed images": (MIXED, mixing, "own * rows + (1.0 - own)", "own * rows + (0.99 - own)"),
    "loss shared by replicas": ((), gradients, "config) / shares", "config) / 1.0"),
    "accumulated gradients": (PARTS, gradients, "[gradient / count for", "[gradient for"),
    "accumulated loss": (PARTS, gradients, "loss / count, hits", "loss, hits"),
    "scaled loss": (HALF, gradients, "loss * state.progress.loss_scale if", "loss if"),
    "clipping": (ADAMW, optimizers, "(gradients, self._clip_norm)", "(gradients, 1.01 * self._clip_norm)"),
    "adam": ((), optimizers, '"beta1": tf.constant(config.beta_1)', '"beta1": tf.constant(config.beta_1 * 0.99)'),
    "bias correction": ((), optimizers, "tf.cast(step + 1, tf.float32)", "tf.cast(step + 2, tf.float32)"),
    "adam's epsilon": ((), optimizers, f"{BETA_2}tf.constant(config.", f"{BETA_2}1.01 * tf.constant(config."),
    "decoupled decay": (ADAMW, optimizers, "config.weight_decay * rate", "1.01 * config.weight_decay * rate"),
    "sgd": (
        SGD,
        optimizers,
        "momentum = tf.constant(config.momentum)",
        "momentum = tf.constant(config.momentum * 0.99)",
    ),
    "nesterov": (SGD, optimizers, "use_nesterov=config.nesterov", "use_nesterov=not config.nesterov"),
    "rmsprop": (RMSPROP, optimizers, "tf.constant(config.rho)", "tf.constant(config.rho * 0.99)"),
    "its beginning": (
        RMSPROP,
        optimizers,
        '"mean_square": config.initial_mean_square',
        '"mean_square": config.initial_mean_square + 0.01',
    ),
    "rate of a step": ((), step, "learning_rate(progress.step,", "learning_rate(progress.step + 1,"),
    "number of a step": ((), step, "rate, progress.step)", "rate, progress.step + 1)"),
    "averages": (AVERAGE, step, "change * (1.0 - decay)", "change * (1.000001 - decay)"),
    "their warm-up": (WARM_AVERAGE, moving_statistics, "(10.0 + updates)", "(10.1 + updates)"),
    "updates of statistics": (
        PARTS,
        moving_statistics,
        "steps * config.train.accumulate_steps",
        "steps",
    ),
    "steps without an update": (
        (),
        moving_statistics,
        "freeze_until_step + progress.skipped_steps",
        "freeze_until_step",
    ),
    "what freezing trains": (FROZEN, step, "progress.step < config", "progress.step <= config"),
    "frozen statistics": (
        FROZEN,
        step,
        "            put_back(before)\n            return frozen",
        "            return frozen",
    ),
    "rate of a layer": (LAYER_DECAY, optimizers, "learning_rate * factor", "learning_rate * factor * 1.01"),
    "frozen batch norm": (FROZEN_LAYERS, layers, "(self.beta - self.moving_mean * factor)", "self.beta"),
    "unscaled gradients": (HALF, step, "gradient / progress.loss_scale", "gradient / (progress.loss_scale * 1.01)"),
    "a step that is skipped": (
        HALF,
        step,
        "            put_back(before)\n            return finite",
        "            return finite",
    ),
    "statistics of replicas": (GROUPS, step, "assign(variable, value / shares)", "assign(variable, value)"),
    "statistics of logical replicas": (LOGICAL, step, "assign(variable, value / shares)", "assign(variable, value)"),
    "where logical replicas begin": (LOGICAL, step, "zip(moved, before, strict=True)", "zip((), (), strict=True)"),
    "rows of a logical replica": (LOGICAL, logical_replicas, "parts[:, number]", "parts[:, 0]"),
    "sums over logical replicas": (LOGICAL, logical_replicas, "one + other for", "one + 1.01 * other for"),
    "sums of branches": (
        LOGICAL,
        logical_replicas,
        "parts = tf.split(sums[0][0],",
        "parts = tf.split(1.01 * sums[0][0],",
    ),
    "copies of branches": (
        LOGICAL,
        replicas,
        "rows: tf.Tensor = tf.distribute",
        "rows: tf.Tensor = 1.01 * tf.distribute",
    ),
    "sums of validation": (LOGICAL, step, "left[0] + right[0]", "left[0] + left[0]"),
    "ledger": ((), step, "progress.ledger * CHAIN_FACTOR", "progress.ledger * (CHAIN_FACTOR + 2)"),
    "counters": ((), step, "progress.seen.assign_add(kept *", "progress.seen.assign_add(2 * kept *"),
    "entries of the ledger": (
        (),
        ledger,
        "mix(mix(positions.astype(np.uint64)) ^",
        "mix(positions.astype(np.uint64) ^",
    ),
    "loss scale, down": (
        HALF,
        loss_scale,
        "progress.loss_scale / FACTOR, MINIMUM",
        "progress.loss_scale / 4.0, MINIMUM",
    ),
    "loss scale, up": (HALF, loss_scale, ">= config.growth_steps", "> config.growth_steps"),
    "what is finite": (HALF, loss_scale, "tf.math.is_finite(tensor)", "~tf.math.is_nan(tensor)"),
    "moving statistics": ((), layers, "batch * (1.0 - momentum)", "batch * (1.01 - momentum)"),
    "variance": (GROUPS, layers, "variance * ((count - 1.0) / count)", "variance"),
    "inference": (
        (),
        layers,
        "                epsilon=self.epsilon,\n",
        "                epsilon=self.epsilon * 1.01,\n",
    ),
    "groups": (GROUPS, layers, "tf.reduce_mean(tf.stack(means), 0)", "means[0]"),
    "variance over replicas": (
        (),
        layers,
        "tf.reduce_mean(variances + tf.math.squared_difference(means, mean), 0)",
        "tf.reduce_mean(variances, 0)",
    ),
    "dropout": ((), layers, "keep * (1.0 / (1.0 - self.rate))", "keep * (1.0 / (1.01 - self.rate))"),
    "draws of a layer": ((), layers, "keras.ops.reshape(own,", "keras.ops.reshape(own[:, ::-1],"),
    "draws": (
        (),
        draw,
        "derive_seed(self.seed, purpose)], tf.uint64",
        "derive_seed(self.seed + 1, purpose)], tf.uint64",
    ),
    "shares": ((), replicas, "parts[:, number]", "parts[:, count - 1 - number]"),
    "sums over replicas": (
        (),
        replicas,
        "tf.identity(value) for value",
        "1.01 * value if value.dtype.is_floating else value for value",
    ),
    "rows of replicas": ((), replicas, "tf.one_hot(number, count_here()", "tf.one_hot(1 - number, count_here()"),
    "which weights are evaluated": (AVERAGE, state, "{**self.variables, **self.ema}", "{**self.ema, **self.variables}"),
    "evaluation sums": (
        (),
        step,
        "tf.cast(right, tf.float32) * weight",
        "tf.cast(right, tf.float32)",
    ),
    "predictions": (
        (),
        step,
        "            tf.reduce_max(tf.nn.softmax(logits), axis=-1),\n            cross",
        "            tf.reduce_max(logits, axis=-1),\n            cross",
    ),
    "means": ((), evaluation, '"loss": float(loss / weight)', '"loss": float(loss / (weight + skipped))'),
}
