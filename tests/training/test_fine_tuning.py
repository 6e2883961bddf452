"""Weights of another task: what is trained when, in one process and over several, and whether it is worth it."""

from __future__ import annotations

import numpy as np
import pytest
from diagnosing import narrow_arrays
from foreign_files import save_with_saver, slim
from processes import NARROW, Trainer, assert_same_run, checkpoint_names, metrics
from steps import batch, narrow

from trainer.checkpoint.tensors import read_tensor, stored_tensors
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
