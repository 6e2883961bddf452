"""What a search learns from a trial that has ended."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from trainer.errors import UsageError
from trainer.run_directory.layout import METRICS
from trainer.run_directory.metrics import VALIDATION, Record
from trainer.sweeps.plan import Trial
from trainer.sweeps.searching import best_validation
from trainer.sweeps.trial import FINISHED, Finished

TRIAL = Trial(0, "0", (), None, (), None, None)


def ended(sweep_dir: Path, losses: list[float], best: float | None) -> None:
    place = sweep_dir / TRIAL.directory
    place.mkdir()
    (place / FINISHED).write_text(json.dumps(dataclasses.asdict(Finished(4, "loss", best))))
    records = [
        Record(step, VALIDATION, {"loss": loss, "accuracy": 0.0, "skipped": 0}, {}) for step, loss in enumerate(losses)
    ]
    (place / METRICS).write_text("".join(record.line() for record in records))


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
