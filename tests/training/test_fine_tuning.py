"""Weights of another task: what is trained when, in one process and over several, and whether it is worth it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from diagnosing import narrow_arrays
from foreign_files import save_with_saver, slim
from processes import NARROW, Trainer, assert_same_run, checkpoint_names, metrics
from steps import batch, narrow

from trainer.checkpoint.tensors import read_tensor, stored_tensors
from trainer.distributed.replicas import ONE_DEVICE
from trainer.errors import UsageError
from trainer.fingerprint import probe
from trainer.models.registry import build_model
from trainer.training.fine_tuning import apply_tuning
from trainer.training.state import build_state, flatten
from trainer.training.step import make_train_step

SETTINGS = ("fine_tuning.freeze_until_step=3", "ema.decay=0.5", "ema.batch_norm=true", "schedule.warmup_steps=0")


def test_until_the_step_only_classifiers_and_their_slots_move_and_from_then_on_everything() -> None:
    config = narrow(*SETTINGS)
    state = build_state(config)
    train_step = make_train_step(state, config)
    variables = {name: v for name, v in flatten(state.tree()).items() if not name.startswith("progress/")}
    state.progress.step.assign(2)
    for frozen in (True, False):
        before = {name: variable.numpy() for name, variable in variables.items()}
        train_step(batch(state))
        moved = {name for name, variable in variables.items() if not np.array_equal(variable.numpy(), before[name])}
        heads = {name for name in variables if "logits/logits/" in name}
        assert heads <= moved
        assert (moved == heads) == frozen, sorted(moved - heads)[:5]
        assert frozen or any(name.endswith("moving_mean") for name in moved)


@pytest.mark.long
def test_a_run_stopped_while_frozen_and_resumed_by_another_process_equals_one_that_never_stopped(
    trainer: Trainer,
) -> None:
    arrays = {name: np.abs(value) if "variance" in name else value for name, value in narrow_arrays().items()}
    weights = save_with_saver(trainer.cwd / "inception_v3.ckpt", slim(arrays))
    settings = (*NARROW, *SETTINGS, f"init_from={weights}", "optimizer=sgd", "schedule.decay_steps=6")
    straight, stopped = trainer.cwd / "straight", trainer.cwd / "stopped"
    trainer.run("train", f"run_dir={straight}", *settings, "train.steps=6")
    trainer.run("train", f"run_dir={stopped}", *settings, "train.steps=2")
    trainer.run("resume", f"run_dir={stopped}", "train.steps=6")
    kernel = "mixed_6a/branch_0/conv2d_1a_3x3/conv/kernel"
    for step, frozen in ((2, True), (6, False)):
        value = read_tensor(stopped / "checkpoints" / f"step-{step:08d}", f"model/{kernel}")
        assert np.array_equal(value, arrays[kernel]) == frozen
    assert_same_run(straight, stopped)


@pytest.mark.long
def test_weights_of_a_related_task_end_better_than_none_after_the_same_steps(trainer: Trainer) -> None:
    """Five digits, 721 images of them, prepare for the other five, with 100 images; the weights come as TF-Slim's."""
    network = ("model.width=0.125", "model.min_depth=8", "model.batch_norm.momentum=0.9", "runtime.threads=2")
    low = trainer.cwd / "low"
    trainer.run("train", f"run_dir={low}", *network, "data.classes=[zero,one,two,three,four]", "train.epochs=10")
    last = low / "checkpoints" / checkpoint_names(low)[-1]
    names = [name.removeprefix("model/") for name in stored_tensors(last) if name.startswith("model/")]
    arrays = {name: read_tensor(last, f"model/{name}") for name in names if "logits/logits" not in name}
    weights = save_with_saver(trainer.cwd / "inception_v3.ckpt", slim(arrays))
    task = (*network, "data.classes=[five,six,seven,eight,nine]", "data.train_examples=100", "train.steps=80")
    accuracy = {}
    for name, more in (("tuned", [f"init_from={weights}"]), ("scratch", [])):
        output = trainer.run("train", f"run_dir={trainer.cwd / name}", *task, "evaluation.every_steps=80", *more)
        assert ("384 of 388 variables loaded" in output) == (name == "tuned")
        (validation,) = [record for record in metrics(trainer.cwd / name) if record["split"] == "val"]
        accuracy[name] = validation["accuracy"]
    assert accuracy["tuned"] > accuracy["scratch"] + 0.1, accuracy


@pytest.fixture(scope="module")
def network() -> keras.Model:
    config = narrow()
    return build_model(config.model, config.preprocess.image_size, None, "float32")


def moved(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {name for name in before if not np.array_equal(before[name], after[name])}


def change(*overrides: str) -> dict[str, np.ndarray]:
    """What one step changes in the small network of the fingerprint, whose body is one block below the classifiers."""
    config = probe.configuration(narrow("schedule.warmup_steps=0", *overrides))
    state = probe.make_state(config, ONE_DEVICE, auxiliary=True)
    before = {name: variable.numpy() for name, variable in state.trainable.items()}
    make_train_step(state, config)(probe.training_batch(config))
    return {name: variable.numpy() - before[name] for name, variable in state.trainable.items()}


SGD = ("optimizer=sgd", "optimizer.momentum=0", "model.weight_decay=0")
ADAMW = ("optimizer=adamw", "model.weight_decay=0")


def test_the_rate_of_a_layer_is_multiplied_once_for_each_block_before_the_classifiers() -> None:
    tuning = build_state(narrow("fine_tuning.layer_decay=0.5"), drawn=False).tuning
    for name, blocks in (
        ("logits/logits/kernel", 0),
        ("aux_logits/logits/kernel", 0),
        ("mixed_7c/branch_0/conv2d_0a_1x1/conv/kernel", 1),
        ("mixed_6a/branch_0/conv2d_1a_3x3/batch_norm/beta", 8),
        ("conv2d_4a_3x3/conv/kernel", 12),
        ("conv2d_1a_3x3/conv/kernel", 13),
    ):
        assert tuning.factor(name) == 0.5**blocks, name
    whole, decayed = change(*SGD), change(*SGD, "fine_tuning.layer_decay=0.25")
    for name, value in whole.items():
        assert np.abs(value).max() > 1e-3
        factor = 0.25 if name.startswith("unit/") else 1.0
        np.testing.assert_allclose(decayed[name], factor * value, rtol=1e-3, atol=1e-6, err_msg=name)


def test_a_decoupled_decay_of_weights_follows_the_rate_of_the_layer() -> None:
    def decay(*more: str) -> np.ndarray:
        """What the decay alone does to the kernel of the body."""
        without, full = (change(*ADAMW, *more, f"optimizer.weight_decay={decay}") for decay in (0.0, 1.0))
        return full["unit/conv/kernel"] - without["unit/conv/kernel"]

    np.testing.assert_allclose(decay("fine_tuning.layer_decay=0.25"), 0.25 * decay(), rtol=1e-3, atol=1e-6)
    assert np.abs(decay()).max() > 1e-2


def test_frozen_layers_and_their_statistics_and_slots_stay_bit_for_bit_and_the_others_learn() -> None:
    config = narrow("schedule.warmup_steps=0", "fine_tuning.freeze=[conv2d_*,mixed_5?,mixed_6a.branch_0]")
    state = build_state(config)
    variables = {name: v for name, v in flatten(state.tree()).items() if not name.startswith("progress/")}
    before = {name: variable.numpy() for name, variable in variables.items()}
    make_train_step(state, config)(batch(state))
    moving = moved(before, {name: variable.numpy() for name, variable in variables.items()})
    frozen = {f"model/{name}" for name in state.variables if state.tuning.is_frozen(name)}
    assert frozen == {name for name in before if name.startswith("model/")} - moving
    assert "model/mixed_5d/branch_3/conv2d_0b_1x1/batch_norm/moving_mean" in frozen
    assert "model/mixed_6a/branch_0/conv2d_1a_3x3/conv/kernel" in frozen
    assert {"model/mixed_6a/branch_1/conv2d_0a_1x1/conv/kernel", "optimizer/m/logits/logits/bias"} < moving
    assert "optimizer/m/conv2d_1a_3x3/conv/kernel" not in moving
    layers = {layer.name: layer for layer in state.model.layers}
    images = np.random.default_rng(1).normal(3.0, 2.0, (4, 5, 5, 4)).astype(np.float32)
    for name, equal in (("mixed_5b.branch_0.conv2d_0a_1x1", True), ("mixed_6b.branch_0.conv2d_0a_1x1", False)):
        norm = layers[f"{name}.batch_norm"]
        given = np.resize(images, (4, 5, 5, norm.beta.shape[0]))
        found = [norm(given, training=training).numpy() for training in (True, False)]
        assert np.allclose(*found, rtol=1e-5, atol=1e-5) == equal, f"{name} does not use its moving statistics"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["fine_tuning.freeze=[mixed5b]"], r"freeze has mixed5b, which is the name of no layer.*\n.*nearest: mixed_5b"),
        (["fine_tuning.freeze=[conv2d_1a_3x3,conv2d_94]"], r"freeze has conv2d_94,.*\nthe nearest: conv2d_"),
        (["fine_tuning.freeze=[xyz]"], r"\nits layers: conv2d_1a_3x3, …, logits/logits;"),
        (["fine_tuning.freeze=['*']"], r"freezes every layer of inception_v3, so there is nothing to train"),
        (
            ["fine_tuning.freeze=['*logits/logits']", "fine_tuning.freeze_until_step=2"],
            r"has the classifiers, which alone are trained before fine_tuning.freeze_until_step=2",
        ),
    ],
)
def test_patterns_that_fit_nothing_or_everything_are_refused_with_what_fits(
    overrides: list[str], message: str, network: keras.Model
) -> None:
    with pytest.raises(UsageError, match=message):
        apply_tuning(network, narrow(*overrides))


@pytest.mark.parametrize(
    ("key", "settings", "factor"),
    [
        ("optimizer.weight_decay_on", (*ADAMW, "optimizer.weight_decay=1.0"), probe.RATE),
        ("model.weight_decay_on", (*SGD[:2], "model.weight_decay=1.0"), probe.RATE),
    ],
)
def test_weights_decay_on_kernels_alone_unless_everything_is_meant(
    key: str, settings: tuple[str, ...], factor: float
) -> None:
    config = narrow(*settings)
    biases = probe.make_state(probe.configuration(config), ONE_DEVICE, auxiliary=True).trainable
    kernels, everything = change(*settings), change(*settings, f"{key}=all")
    for name, value in kernels.items():
        expected = 0.0 if name.endswith("kernel") else -factor * biases[name].numpy()
        np.testing.assert_allclose(everything[name] - value, expected, rtol=1e-3, atol=1e-6, err_msg=name)
    assert any(np.abs(biases[name].numpy()).max() > 0.1 for name in kernels if not name.endswith("kernel"))


@pytest.mark.long
def test_a_run_that_is_unfrozen_on_the_way_by_step_or_by_consent_goes_on_exactly(trainer: Trainer) -> None:
    """Layers are frozen by name throughout, and the body until a step; then the names are taken away by consent."""
    names = "fine_tuning.freeze=[conv2d_*,mixed_5*]"
    settings = (*NARROW, *SETTINGS, names, "fine_tuning.layer_decay=0.8", "optimizer=adamw", "schedule.decay_steps=8")
    straight, stopped = trainer.cwd / "straight", trainer.cwd / "stopped"
    trainer.run("train", f"run_dir={straight}", *settings, "train.steps=6")
    trainer.run("train", f"run_dir={stopped}", *settings, "train.steps=2")
    trainer.run("resume", f"run_dir={stopped}", "train.steps=6")
    assert_same_run(straight, stopped)
    for place in (straight, stopped):
        consent = ("fine_tuning.freeze=[]", "allow=[fine_tuning.freeze]")
        said = trainer.run("resume", f"run_dir={place}", "train.steps=8", *consent)
        assert "changed on resume: fine_tuning.freeze: ('conv2d_*', 'mixed_5*') -> ()" in said
    assert_same_run(straight, stopped)
    kernel = "model/conv2d_1a_3x3/conv/kernel"
    values = [read_tensor(straight / "checkpoints" / f"step-{step:08d}", kernel) for step in (6, 8)]
    assert not np.array_equal(*values)
