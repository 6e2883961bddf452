"""A run that is too short for a constant says so when it starts, and says nothing otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from composing import compose
from diagnosing import narrow_arrays
from foreign_files import save_with_saver, slim
from processes import NARROW

from trainer.config.complete import complete
from trainer.distributed.membership import Process
from trainer.run import assembly, warm_start
from trainer.run.preparation import prepare
from trainer.run.short_run import warnings
from trainer.run.starting_point import FromNothing
from trainer.run.warm_start import WarmStart
from trainer.run.watchdog import Watchdog
from trainer.run.writer import taking
from trainer.run_directory import lock
from trainer.runtime.signals import StopRequest
from trainer.training.moving_statistics import SETTLED

PAPER = ("experiment=inception_v3_paper", "data=tfrecord", "data.root=x", "data.num_classes=4")
RUN = Path("outputs/mine")
EXAMPLES = 40
QUIET = ("schedule.warmup_steps=0", "evaluation.every_steps=1")


def said(*overrides: str, momentum: float = 0.95, resumed: Path | None = None) -> str:
    config = complete(compose(*overrides), EXAMPLES, 10)
    assert config.train.steps is not None
    return "\n".join(warnings(config, config.train.steps, momentum, resumed))


SAID = {
    # what is asked for: (the network's momentum, what the warning must say)
    (*PAPER, "train.steps=255"): (0.9997, ("7 % of the way", "by step 255", "9985 steps", "batch_norm.warmup=true")),
    (*PAPER, "train.steps=9984"): (0.9997, ("95 % of the way",)),
    (*PAPER, "train.steps=100", "train.accumulate_steps=2"): (0.9997, ("6 % of the way", "4993 steps")),
    ("model=keras_application", "model.batch_norm.warmup=false", "train.steps=100", *QUIET): (0.99, ("63 %", "0.99,")),
    ("ema.decay=0.9999", "ema.warmup=false", "train.steps=100", *QUIET): (
        0.95,
        ("of the way from the first weights by step 100", "ema.decay=0.9999", "ema.warmup=true"),
    ),
    ("schedule.warmup_steps=100", "train.steps=40"): (0.95, ("40 % of its peak", "schedule.warmup_steps=4")),
    ("fine_tuning.freeze_until_step=40", "train.steps=40", *QUIET): (0.95, ("trains the classifiers alone",)),
    ("early_stopping.patience=3", "evaluation.every_steps=10", "train.steps=40"): (
        0.95,
        ("early_stopping.patience=3 cannot end this run early: it takes 4 validations", "ends at step 40"),
    ),
    ("profile=[50,60]", "train.steps=40", *QUIET): (0.95, ("profile: step 50 is after the last one, 40",)),
    ("train.histograms_every_steps=50", "train.steps=40", *QUIET): (0.95, ("there are no histograms",)),
    ("checkpoint.keep_every_steps=50", "train.steps=40", *QUIET): (0.95, ("no checkpoint is kept for it",)),
}


@pytest.mark.parametrize("overrides", SAID)
def test_a_run_too_short_for_a_constant_says_so_with_the_key_to_set(overrides: tuple[str, ...]) -> None:
    momentum, expected = SAID[overrides]
    text = said(*overrides, momentum=momentum)
    for each in expected:
        assert each in text, text


@pytest.mark.parametrize(
    ("overrides", "momentum"),
    [
        (("train.steps=1", *QUIET), 0.9997),  # the default: statistics and averages follow the run
        (("train.steps=255", "ema.decay=0.9999", "evaluation.weights=ema"), 0.9997),
        ((*PAPER, "train.steps=9985"), 0.9997),
        ((*PAPER, "train.steps=0"), 0.9997),
        (("ema.decay=0.9", "ema.warmup=false", "train.steps=29"), 0.95),
        (("early_stopping.patience=3", "evaluation.every_steps=10", "train.steps=41"), 0.95),
        (("model.batch_norm.warmup=false", "train.steps=59"), 0.95),
        (("train.steps=8", "checkpoint.every_steps=100", "evaluation.every_steps=100"), 0.95),  # both come at the end
    ],
)
def test_a_run_that_is_long_enough_says_nothing(overrides: tuple[str, ...], momentum: float) -> None:
    assert said(*overrides, momentum=momentum) == ""


def test_a_resumed_run_is_given_commands_that_it_can_follow() -> None:
    text = said(*PAPER, "train.steps=255", momentum=0.9997, resumed=RUN)
    assert f"train on: python -m trainer resume run_dir={RUN.absolute()} train.steps=9985" in text
    text = said("ema.decay=0.9999", "ema.warmup=false", "train.steps=50", *QUIET, resumed=RUN)
    assert f"python -m trainer resume run_dir={RUN.absolute()} ema.warmup=true 'allow=[ema.warmup]'" in text


def test_a_run_from_other_weights_keeps_their_statistics_and_says_at_its_start_what_it_is_too_short_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # this process has used TensorFlow already, so its threads stay
    monkeypatch.setattr(assembly.execution, "configure", lambda config: None)
    weights = save_with_saver(tmp_path / "model.ckpt-5", slim(narrow_arrays()))
    config = compose(*NARROW, "train.steps=40", "schedule.warmup_steps=100")
    start = FromNothing(False, WarmStart(warm_start.find(weights), (), classes_follow_data=True))
    process = Process(StopRequest(), None)
    with lock.writing(tmp_path / "run"):
        prepared = prepare(tmp_path / "run", config, start, process)
        assert prepared is not None
        assert prepared.config.model.batch_norm.initial_updates == SETTLED
        with taking(
            tmp_path / "run", prepared, process, Watchdog(process, None, ends_process=False), process.stop.began
        ):
            pass
    log = (tmp_path / "run" / "train.log").read_text()
    assert "warning: the learning rate rises until the last step, 40, where it has 40 % of its peak" in log
    assert "of the way" not in log
