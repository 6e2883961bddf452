"""What a search learns from a trial that has ended."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from trainer.config.search import Choices, Floats, Integers, assignments, values_in
from trainer.errors import UsageError
from trainer.run_directory.layout import METRICS
from trainer.run_directory.metrics import VALIDATION, Record
from trainer.runtime.signals import StopRequest
from trainer.sweeps import plan, searching
from trainer.sweeps.plan import Trial
from trainer.sweeps.searching import best_validation
from trainer.sweeps.trial import FAILED, FINISHED, Failed, Finished

pytest.importorskip("optuna", minversion="4.9", reason="needs the extra resumable-trainer[sweeps]")
from trainer.sweeps import study

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
    "hydra.sweeper.sampler.n_startup_trials=1",
    "hydra.sweeper.n_trials=3",
    "hydra.sweeper.direction=maximize",
    "optimizer.learning_rate=tag(log,interval(0.001,0.1))",
    "on_existing=resume",
)
REASON = "the training loss is not finite at step 3"


class Killed(BaseException):
    """Ends a search as SIGKILL would: nothing of it handles this."""


def searched(
    sweep_dir: Path,
    statuses: Mapping[int, int],
    failures: Mapping[int, str],
    monkeypatch: pytest.MonkeyPatch,
    *more: str,
    killed_in: int | None = None,
) -> tuple[int, list[int]]:
    """The exit status of a search whose trials end with ``statuses`` (0 where none is given) and leave a note of the
    ``failures``, and the trials that were run.
    """
    begun = []

    def end(sweep_dir: Path, number: int, stopping: object) -> int:
        begun.append(number)
        place = sweep_dir / str(number)
        place.mkdir(exist_ok=True)
        if number == killed_in:
            raise Killed
        if number in failures:
            (place / FAILED).write_text(json.dumps(dataclasses.asdict(Failed(None, failures[number]))))
        else:
            (place / FINISHED).write_text(json.dumps(dataclasses.asdict(Finished(4, "accuracy", 0.5))))
        return statuses[number] if number in statuses else 0

    monkeypatch.setattr(searching, "run_in_process", end)
    monkeypatch.setattr("sys.argv", [])
    status = searching.run([*ARGUMENTS, *more, f"hydra.sweep.dir={sweep_dir}"], StopRequest())
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


def test_a_killed_search_takes_up_what_was_begun_and_chooses_what_it_would_have_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is killed where a trial is in the study and not yet in sweep.yaml, then in that trial; then its study is lost,
    as if another program had begun the search.
    """
    undisturbed, sweep_dir = tmp_path / "undisturbed", tmp_path / "sweep"
    assert searched(undisturbed, {}, {}, monkeypatch) == (0, [0, 1, 2])

    def kill(*arguments: object) -> NoReturn:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(plan, "propose", kill)
        with pytest.raises(Killed):
            searched(sweep_dir, {}, {}, monkeypatch)
    with pytest.raises(Killed):
        searched(sweep_dir, {}, {}, monkeypatch, killed_in=0)
    assert plan.read(sweep_dir).trials == plan.read(undisturbed).trials[:1]
    with pytest.raises(Killed):
        searched(sweep_dir, {}, {}, monkeypatch, killed_in=1)

    (sweep_dir / study.FILE_NAME).unlink()
    assert searched(sweep_dir, {}, {}, monkeypatch) == (0, [0, 1, 2]), "without checkpoints none is known to have ended"
    assert f"the study of {sweep_dir} lacks the trials 0 to 1" in capsys.readouterr().err
    assert plan.read(sweep_dir) == plan.read(undisturbed)
    summaries = [(place / searching.BEST).read_text() for place in (undisturbed, sweep_dir)]
    assert summaries[0] == summaries[1]

    with pytest.raises(UsageError, match=r"has another search: hydra\.sweeper\.sampler\.n_ei_candidates: 24 -> 9"):
        searched(sweep_dir, {}, {}, monkeypatch, "hydra.sweeper.sampler.n_ei_candidates=9")
    (sweep_dir / study.FILE_NAME).write_bytes(b"SQLite format 3" + bytes(100))
    with pytest.raises(UsageError, match=r"study\.db cannot be used: .*\nmove the file away"):
        searched(sweep_dir, {}, {}, monkeypatch)


REFUSED = {
    "hydra.sweeper.storage=sqlite:///a": "add hydra.sweeper.study_name=NAME",
    "hydra.sweeper.n_jobs=2": "start the same command several times",
    "hydra.sweeper.direction=up": "allowed: minimize, maximize",
    "optimizer.learning_rate=tag(log,interval(0.0,1.0))": "Optuna refuses these settings",
    "optimizer.learning_rate=0.1": "this search varies nothing",
    "hydra/sweeper/sampler=grit": "allowed: tpe, random, cmaes, nsgaii",
}


@pytest.mark.parametrize("argument", REFUSED)
def test_a_search_that_cannot_be_writes_nothing(argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = argument.partition("=")[0]
    kept = [each for each in ARGUMENTS if each.partition("=")[0] != key and "n_startup" not in each]
    monkeypatch.setattr("sys.argv", [])
    with pytest.raises(UsageError, match=REFUSED[argument]):
        searching.run([*kept, argument, f"hydra.sweep.dir={tmp_path / 'sweep'}"], StopRequest())
    assert not (tmp_path / "sweep" / plan.FILE_NAME).exists()
    assert not (tmp_path / "sweep" / study.FILE_NAME).exists()


def test_the_password_of_a_database_is_not_kept() -> None:
    assert study.hidden("hydra.sweeper.storage=postgresql://me:se:cret@host/db") == (
        "hydra.sweeper.storage=postgresql://me:***@host/db"
    )
    assert study.hidden("mysql://host/db?password=secret&ssl=1") == "mysql://host/db?password=***&ssl=1"
    assert study.hidden("sqlite:////data/study.db") == "sqlite:////data/study.db"


SPACE = {
    "optimizer": Choices(("adam", "sgd")),
    "model.dropout": Choices((None, 0.5, 1)),
    "seed": Integers(1, 4, 1, log=False),
    "optimizer.learning_rate": Floats(1e-4, 0.1, None, log=True),
}


def test_values_are_read_back_from_the_overrides_that_they_made() -> None:
    values = {"optimizer": "sgd", "model.dropout": None, "seed": 4, "optimizer.learning_rate": 0.1 / 3}
    overrides = assignments(values)
    assert overrides[1] == "model.dropout=null"
    assert values_in(("train.steps=4", *overrides), SPACE) == values
    for other in ("optimizer=adamw", "seed=5", "optimizer.learning_rate=fast"):
        name = other.partition("=")[0]
        changed = [other if each.startswith(f"{name}=") else each for each in overrides]
        assert values_in(changed, SPACE) is None
    assert values_in(overrides[1:], SPACE) is None


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
