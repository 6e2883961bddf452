"""What a search learns from a trial that has ended."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from trainer.errors import UsageError
from trainer.run_directory.layout import METRICS
from trainer.run_directory.metrics import VALIDATION, Record
from trainer.runtime.signals import StopRequest
from trainer.sweeps import plan, searching
from trainer.sweeps.plan import Trial
from trainer.sweeps.searching import best_validation
from trainer.sweeps.trial import FAILED, FINISHED, Failed, Finished

TRIAL = Trial(0, "0", (), None, (), None, None)


def ended(sweep_dir: Path, losses: list[float], best: float | None) -> None:
    place = sweep_dir / TRIAL.directory
    place.mkdir()
    (place / FINISHED).write_text(json.dumps(dataclasses.asdict(Finished(4, "loss", best))))
    records = [
        Record(step, VALIDATION, {"loss": loss, "accuracy": 0.0, "skipped": 0}, {}) for step, loss in enumerate(losses)
    ]
    (place / METRICS).write_text("".join(record.line() for record in records))


ARGUMENTS = (
    "--multirun",
    "train.steps=4",
    "hydra/sweeper=optuna",
    "hydra.sweeper.sampler.seed=1",
    "hydra.sweeper.n_trials=3",
    "hydra.sweeper.direction=maximize",
    "optimizer.learning_rate=tag(log,interval(0.001,0.1))",
    "on_existing=resume",
)
REASON = "the training loss is not finite at step 3"


def searched(
    sweep_dir: Path, statuses: Mapping[int, int], failures: Mapping[int, str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, list[int]]:
    """The exit status of a search whose trials end with ``statuses`` (0 where none is given) and leave a note of the
    ``failures``, and the trials that were run.
    """
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra trainer[sweeps]")
    begun = []

    def end(sweep_dir: Path, number: int, stopping: object) -> int:
        begun.append(number)
        place = sweep_dir / str(number)
        place.mkdir(exist_ok=True)
        if number in failures:
            (place / FAILED).write_text(json.dumps(dataclasses.asdict(Failed(None, failures[number]))))
        else:
            (place / FINISHED).write_text(json.dumps(dataclasses.asdict(Finished(4, "accuracy", 0.5))))
        return statuses[number] if number in statuses else 0

    monkeypatch.setattr(searching, "run_in_process", end)
    monkeypatch.setattr("sys.argv", [])
    status = searching.run([*ARGUMENTS, f"hydra.sweep.dir={sweep_dir}"], StopRequest())
    return status, begun


def test_a_search_goes_on_past_a_trial_that_diverged_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, begun = searched(tmp_path, {0: 1}, {0: REASON}, monkeypatch)
    assert (status, begun) == (1, [0, 1, 2])
    said = " ".join(capsys.readouterr().out.split())
    assert " diverged " in said
    assert "2 of 3 trials are finished, 1 diverged" in said
    assert f"to compare the trials on one page: python -m trainer report sweep_dir={tmp_path}" in said
    assert "to continue the search" not in said, "nothing of it is left to do"
    search = plan.read(tmp_path).search
    assert search is not None
    assert (search.failed, search.ended) == ((0,), True)
    chosen = plan.read(tmp_path).trials

    assert searched(tmp_path, {}, {}, monkeypatch)[1] == [1, 2], "what diverged is not a trial to repeat for ever"
    assert "diverged before" in capsys.readouterr().out
    assert plan.read(tmp_path).trials == chosen


def test_another_failure_ends_a_search_which_then_tries_that_trial_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert searched(tmp_path, {1: 1}, {}, monkeypatch) == (1, [0, 1])
    assert "to continue the search:" in capsys.readouterr().out
    assert searched(tmp_path, {}, {}, monkeypatch) == (0, [0, 1, 2])


def test_a_trial_whose_validations_are_all_not_finite_has_no_result_and_is_no_usage_error(tmp_path: Path) -> None:
    ended(tmp_path, [math.nan, math.inf], best=None)
    assert best_validation(tmp_path, TRIAL) is None


def test_a_trial_without_any_validation_is_a_mistake_of_the_settings(tmp_path: Path) -> None:
    ended(tmp_path, [], best=None)
    with pytest.raises(UsageError, match="ended without a validation"):
        best_validation(tmp_path, TRIAL)


def test_the_result_is_the_best_of_the_finite_validations(tmp_path: Path) -> None:
    ended(tmp_path, [math.nan, 0.5], best=0.5)
    assert best_validation(tmp_path, TRIAL) == 0.5
