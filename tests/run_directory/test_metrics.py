"""What a line of metrics.jsonl may hold."""

from __future__ import annotations

import json
import math

import pytest

from trainer.run_directory.metrics import VALIDATION, record_of, validations_in
from trainer.storage.unacceptable import Unacceptable


def line(loss: object) -> bytes:
    return json.dumps({"step": 3, "split": VALIDATION, "loss": loss, "accuracy": 0.5, "skipped": 0}).encode() + b"\n"


@pytest.mark.parametrize("loss", [0.25, 1, math.nan, math.inf, None])
def test_a_validation_has_numbers_and_null_for_one_that_is_not_finite(loss: float | None) -> None:
    found = validations_in([line(loss)])[3]["loss"]
    assert found == loss or (math.isnan(found) and not math.isfinite(loss or math.nan))


@pytest.mark.parametrize("loss", [True, "0.25"])
def test_a_truth_value_or_a_text_is_no_number_of_a_validation(loss: object) -> None:
    with pytest.raises(Unacceptable, match="it lacks loss"):
        record_of(line(loss))
    assert validations_in([line(loss)]) == {}
