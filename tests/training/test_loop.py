"""What the loop does at its edges, with real processes and the narrow network."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import NARROW, Process, Trainer, assert_same_run, checkpoint_names, metrics
from small_plugin import paced

from trainer.checkpoint.tensors import read_tensor


def test_early_stopping_state_survives_a_resume(small: tuple[str, ...], trainer: Trainer) -> None:
    arguments = (
        *small,
        "evaluation.every_steps=2",
        "early_stopping.patience=3",
        "early_stopping.metric=loss",
        "early_stopping.min_change=10",  # nothing improves by so much: the first validation is the reference
        "checkpoint.every_steps=2",
        "schedule.decay_steps=20",
        "train.steps=20",
    )
    straight, resumed = trainer.cwd / "straight", trainer.cwd / "resumed"
    trainer.run_in_one_process(
        ("train", f"run_dir={straight}", *arguments),
        ("resume", f"run_dir={straight}"),  # a run that stopped early stays stopped
        ("train", f"run_dir={resumed}", *arguments, "train.steps=5"),
        ("resume", f"run_dir={resumed}", "train.steps=20"),
    )
    assert checkpoint_names(straight)[-1] == "step-00000008"  # validations at 2, then 4, 6, 8 without improvement
    assert_same_run(straight, resumed)


def test_a_resume_that_ranks_otherwise_counts_the_best_and_the_patience_again(
    small: tuple[str, ...], trainer: Trainer
) -> None:
    """An accuracy is never compared with a loss: the resumed run stands as if it had ranked so from the start."""
    by_loss = ("checkpoint.best_metric=loss", "early_stopping.metric=loss", "early_stopping.min_change=0.001")
    other = ("checkpoint.best_metric=macro_f1", "early_stopping.metric=accuracy", "early_stopping.min_change=0.5")
    arguments = (*small, "evaluation.every_steps=2", "early_stopping.patience=9", "schedule.decay_steps=20")
    straight, resumed = trainer.cwd / "straight", trainer.cwd / "resumed"
    consents = ("allow=[checkpoint.best_metric,early_stopping.metric,early_stopping.min_change]",)
    trainer.run_in_one_process(
        ("train", f"run_dir={straight}", *arguments, *by_loss, "train.steps=10"),
        ("train", f"run_dir={resumed}", *arguments, *other, "train.steps=7"),  # ends with a validation of its own
        ("resume", f"run_dir={resumed}", *by_loss, *consents, "train.steps=10"),
    )
    log = (resumed / "train.log").read_text()
    assert "the best so far by checkpoint.best_metric=loss is counted again from 3 earlier validations" in log
    assert "the patience of early_stopping.metric=loss is counted again from 3 earlier validations" in log
    standing = ("best_step", "best_value", "patience_value", "patience_used", "evaluations", "evaluated_step")
    expected, found = (
        {name: read_tensor(run / "checkpoints/step-00000010", f"progress/{name}").item() for name in standing}
        for run in (straight, resumed)
    )
    assert found == expected
    assert expected["best_value"] > 1
    assert expected["patience_used"] > 0


def test_a_signal_during_evaluation_leaves_it_to_the_resumed_run(small: tuple[str, ...], trainer: Trainer) -> None:
    arguments = (
        *small,
        "data.validation_examples=60",  # long enough to be hit
        "evaluation.batch_size=1",
        "evaluation.every_steps=2",
        "checkpoint.every_steps=2",
        "schedule.decay_steps=4",
        "train.steps=4",
    )
    straight, stopped = trainer.cwd / "straight", trainer.cwd / "stopped"
    trainer.run("train", f"run_dir={straight}", *arguments)
    process = trainer.start("train", f"run_dir={stopped}", *arguments, *paced(0.2))
    deadline = time.monotonic() + 240
    log = stopped / "metrics.jsonl"
    while process.running and not (log.exists() and '"step": 2' in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(0.3)  # the step is logged before its evaluation begins, which takes a second and a half
    process.signal(signal.SIGTERM)
    assert process.wait() == 75, process.output
    assert checkpoint_names(stopped)[0] == "step-00000002"
    manifest = json.loads((stopped / "checkpoints" / "step-00000002" / "manifest.json").read_text())
    assert manifest["validation"] is None, "the signal came after the evaluation: nothing was proven"

    killed = trainer.start("resume", f"run_dir={stopped}")  # after the validation, and before a checkpoint knows of it
    while killed.running and '"val"' not in log.read_text():
        time.sleep(0.002)
    killed.signal(signal.SIGKILL)
    killed.wait()
    assert checkpoint_names(stopped) == ["step-00000002"], "the kill came after the next checkpoint: nothing was proven"
    trainer.run("resume", f"run_dir={stopped}")
    assert_same_run(straight, stopped)


def test_a_process_that_fails_ends_although_its_pipeline_is_alive_and_reading(
    small: tuple[str, ...], tmp_path: Path
) -> None:
    program = (
        "import sys, time\n"
        "from trainer.run import session\n"
        "from trainer.__main__ import main\n"
        "from trainer.data.sources.digits import DigitsSplit\n"
        "from trainer.errors import UsageError\n"
        "read, calls, training = DigitsSplit.read, [], []\n"
        "def slow(self, records):\n"
        "    calls.extend(training)\n"  # not the looks at a few records before
        "    time.sleep(3 if len(calls) > 3 else 0)\n"
        "    return read(self, records)\n"
        "def failing(run):\n"
        "    training.append(1)\n"
        "    sys.alive = iter(run.training_batches(0))\n"  # until the interpreter is taken apart
        "    next(sys.alive)\n"
        "    raise UsageError('this run fails')\n"
        "DigitsSplit.read, session.run_loop = slow, failing\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", program, "train", f"run_dir={tmp_path / 'run'}", *small, "train.steps=3"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=180)
    assert process.returncode == 2, process.stderr
    assert process.stderr.endswith("error: this run fails\n")


def test_a_run_that_cannot_begin_leaves_no_directory(trainer: Trainer) -> None:
    output = trainer.run("train", "run_dir=mine", "data=image_folder", "data.root=nowhere", status=2)
    assert "nowhere does not exist" in output
    assert not (trainer.cwd / "mine").exists()


# A step that takes two minutes, during which the process says when a request to stop has arrived.
LONG_STEP = """
import sys, time
from trainer.__main__ import main
from trainer.monitoring.views import Views
from trainer.runtime.signals import StopRequest

before, receive = Views.before, StopRequest._receive
def long(self, step, batch):
    before(self, step, batch)
    print("a step begins", flush=True)
    end = time.monotonic() + 120
    while time.monotonic() < end:
        time.sleep(0.01)
def told(self, number, frame):
    receive(self, number, frame)
    print("asked to stop", flush=True)
Views.before, StopRequest._receive = long, told
main(sys.argv[1:])
"""


def wait_for_text(process: Process, text: str) -> None:
    deadline = time.monotonic() + 240
    while process.running and text not in process.output and time.monotonic() < deadline:
        time.sleep(0.005)
    assert text in process.output


def test_a_second_interrupt_stops_at_once(small: tuple[str, ...], trainer: Trainer) -> None:
    process = trainer.start_python("-c", LONG_STEP, "train", f"run_dir={trainer.cwd / 'run'}", *small, "train.steps=3")
    for said in ("a step begins", "asked to stop"):
        wait_for_text(process, said)
        process.signal(signal.SIGINT)
    assert process.wait() in (-signal.SIGINT, 130)
    assert "is committed" not in process.output, "the first one was enough"


def test_a_loss_that_is_not_finite_stops_and_commits_nothing(small: tuple[str, ...], trainer: Trainer) -> None:
    run_dir = trainer.cwd / "run"
    output = trainer.run(
        *("train", f"run_dir={run_dir}", *small, "train.steps=40", "checkpoint.every_steps=1000"),
        *("evaluation.every_steps=1000",),
        *("optimizer=sgd", "optimizer.learning_rate=1000", "model.weight_decay=1.0", "schedule.warmup_steps=0"),
        status=1,
    )
    found = re.search(r"the training loss is not finite at step (\d+), of training examples (\d+) to (\d+)", output)
    assert found is not None, output
    step, first, last = map(int, found.groups())
    assert (first, last) == (8 * (step - 1), 8 * step - 1)
    assert "the last good checkpoint is none" in output
    assert f"TrainingFailed: the training loss is not finite at step {step}" in (run_dir / "train.log").read_text()
    assert not (run_dir / "checkpoints").exists() or checkpoint_names(run_dir) == []


@pytest.mark.long
def test_training_with_xla_resumes_exactly(trainer: Trainer) -> None:
    arguments = (*NARROW, "runtime.xla=true", "schedule.decay_steps=6", "checkpoint.every_steps=3")
    straight, resumed = trainer.cwd / "straight", trainer.cwd / "resumed"
    trainer.run("train", f"run_dir={straight}", *arguments, "train.steps=6")
    trainer.run("train", f"run_dir={resumed}", *arguments, "train.steps=3")
    trainer.run("resume", f"run_dir={resumed}", "train.steps=6")
    assert_same_run(straight, resumed)


def test_accumulated_parts_give_the_gradient_of_the_whole_batch() -> None:
    """With batch norm in inference mode (its statistics are the only thing that sees the parts) both are equal."""
    import tensorflow as tf
    from composing import compose

    from trainer.config.complete import complete, with_leaves
    from trainer.training.state import build_state
    from trainer.training.step import make_train_step

    rng = np.random.Generator(np.random.PCG64(3))
    images = rng.uniform(-1, 1, (8, 75, 75, 3)).astype(np.float32)
    results = []
    for parts in (1, 4):
        config = with_leaves(
            complete(compose("model.width=0.01", "model.min_depth=4", "optimizer=sgd"), 100, 10),
            {"train.global_batch_size": 8, "train.accumulate_steps": parts, "schedule.warmup_steps": 0},
        )
        state = build_state(config)
        for layer in state.model.layers:
            if "batch_norm" in layer.name:
                original = layer.call
                layer.call = lambda inputs, training=False, mask=None, call=original: call(inputs, training=False)
        batch = {
            "image": tf.constant(images),
            "label": tf.constant(np.arange(8) % 10, tf.int64),
            "dropout": tf.ones([8, state.dropout_features]),
            "ledger": tf.ones([8], tf.int64),
            "substituted": tf.zeros([8], tf.int64),
        }
        make_train_step(state, config)(batch)
        results.append({name: variable.numpy() for name, variable in state.trainable.items()})
        assert state.progress.seen.numpy() == 8
        assert state.progress.step.numpy() == 1
    for name in results[0]:
        np.testing.assert_allclose(results[1][name], results[0][name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_train_step_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf
    from composing import compose

    from trainer.config.complete import complete
    from trainer.data.batches import evaluation_batches, training_batches
    from trainer.data.sources.source import open_source
    from trainer.training import gradients
    from trainer.training import step as module
    from trainer.training.evaluation import evaluate
    from trainer.training.state import build_state

    config = complete(
        compose(*(argument for argument in NARROW if not argument.startswith("runtime")), "runtime.threads=1"), 40, 10
    )
    state = build_state(config)
    traces = []
    original = gradients.objective
    monkeypatch.setattr(gradients, "objective", lambda *arguments: traces.append(1) or original(*arguments))
    train_step, evaluation_step = module.make_train_step(state, config), module.make_evaluation_step(state, config)
    batches = iter(training_batches(open_source(config.data, "train"), config, 0, state.dropout_features))
    for _ in range(7):  # past the end of an epoch
        train_step(next(batches))
    assert len(traces) == 1
    validation = evaluation_batches(open_source(config.data, "validation"), config)
    for _ in range(2):
        assert evaluate(validation, lambda batch: evaluation_step(batch)[0], lambda: False) is not None
    assert isinstance(evaluation_step, tf.types.experimental.PolymorphicFunction)
    assert evaluation_step.experimental_get_tracing_count() == 1


def test_what_a_terminal_shows(small: tuple[str, ...], trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real pseudo-terminal: a bar with step, epoch, loss, accuracy, images/s and ETA, and a closing summary."""
    import pty

    monkeypatch.chdir(trainer.cwd)
    output = trainer.cwd / "screen"
    program = [sys.executable, "-m", "trainer", "train", f"run_dir={trainer.cwd / 'run'}", *small, "train.steps=4"]
    with output.open("wb") as screen:

        def keep(descriptor: int) -> bytes:
            import os

            data = os.read(descriptor, 4096)
            screen.write(data)
            return data

        status = pty.spawn(program, keep, lambda descriptor: b"")
    text = output.read_text(errors="replace")
    assert status == 0, text
    columns = ("4/4", "epoch", "loss", "accuracy", "learning rate", "images/s", "ETA", "checkpoint 4")
    for expected in (*columns, "done at step 4", "best", "trainer report", "tensorboard --logdir"):
        assert expected in text, text
    assert "I0000" not in text
    assert [record["step"] for record in metrics(trainer.cwd / "run") if record["split"] == "train"] == [2, 4]
