"""What a trial leaves behind when its training fails, and what becomes of it afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from trainer.config.compose import compose_run
from trainer.config.multirun import Job
from trainer.errors import NotSaved, TrainerError, TrainingFailed
from trainer.run import session
from trainer.runtime.signals import StopRequest
from trainer.sweeps import plan, running, trial
from trainer.sweeps.plan import Sweep

REASON = "the training loss is not finite at step 3, of training examples 16 to 23"


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    invocation, config = compose_run(["seed=1"])
    made = plan.plan([Job(0, tmp_path, "0", ("seed=1",), invocation, config, None)])
    plan.begin(tmp_path, made, "fail")
    return made


def fail(place: Path, sweep: Sweep, error: TrainerError, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the trial, whose run ends with ``error``."""

    def train(*arguments: object, **keywords: object) -> NoReturn:
        (place / "0").mkdir(exist_ok=True)
        raise error

    monkeypatch.setattr(session, "train", train)
    with pytest.raises(type(error)):
        trial.run(place, sweep.trials[0], StopRequest())


def test_a_trial_that_diverged_is_left_alone_until_its_directory_is_moved_away_or_its_run_goes_on(
    tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    (each,) = sweep.trials
    fail(tmp_path, sweep, TrainingFailed(f"{REASON}; nothing was committed since\ntry a lower rate"), monkeypatch)
    assert trial.why_diverged(tmp_path, each) == REASON
    with pytest.raises(TrainingFailed, match=f"^trial 0 diverged before: {REASON}\nto run .* again, move"):
        trial.run(tmp_path, each, StopRequest())

    (tmp_path / "0" / "checkpoints" / "step-00000002").mkdir(parents=True)  # its run went on
    assert trial.why_diverged(tmp_path, each) is None
    (tmp_path / "0").rename(tmp_path / "0-diverged")
    assert trial.why_diverged(tmp_path, each) is None


def test_any_other_failure_is_tried_again(tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(tmp_path, sweep, NotSaved("no space"), monkeypatch)
    assert trial.why_diverged(tmp_path, sweep.trials[0]) is None


def test_a_sweep_does_not_advise_to_repeat_what_diverged(
    tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(tmp_path, sweep, TrainingFailed(f"{REASON}; nothing was committed since"), monkeypatch)
    assert running.run(tmp_path, sweep, StopRequest()) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "diverged before" in said
    assert "0 of 1 trials are finished, 1 diverged to run a trial that diverged again, move its directory away:" in said
    assert "resume sweep_dir" not in said
