"""One confusion matrix for TensorBoard, the report and ``evaluate``."""

from __future__ import annotations

import json

import numpy as np

from trainer.inference.classification_report import ClassificationReport
from trainer.monitoring.confusion import Confusion
from trainer.report import charts

MATRIX = np.array([[3, 1, 0], [2, 0, 2], [0, 0, 0]])
ENTRIES = ((0, 0, 3), (0, 1, 1), (1, 0, 2), (1, 2, 2))  # as predictions/step-N.json has them


def test_entries_and_matrix_are_the_same_confusion() -> None:
    found = Confusion.of_entries(ENTRIES)
    assert tuple(found.entries()) == ENTRIES
    assert found.rows(found.classes) == MATRIX.tolist()
    assert found.hits == MATRIX.trace()


def test_mistakes_come_by_frequency_then_by_class_and_without_hits() -> None:
    expected = [(2, 1, 0), (2, 1, 2), (1, 0, 1)]
    assert Confusion.of_entries(ENTRIES).mistaken() == expected
    report = ClassificationReport(
        class_names=("a", "b", "c"),
        examples=8,
        not_finite=0,
        loss=0.0,
        accuracy=0.375,
        top_5_accuracy=1.0,
        macro_f1=0.0,
        balanced_accuracy=0.0,
        auroc=0.5,
        expected_calibration_error=0.0,
        class_examples=(4, 4, 0),
        confusion=Confusion.of_entries(ENTRIES),
    )
    assert report.confusions() == expected
    assert report.class_accuracy == (0.75, 0.0, None)


def test_shares_are_those_of_the_true_class_and_a_class_without_examples_has_none() -> None:
    assert Confusion.of_entries(ENTRIES).shares(3) == [[0.75, 0.25, 0.0], [0.5, 0.0, 0.5], [None, None, None]]


def test_a_stored_class_number_beyond_all_bounds_allocates_nothing() -> None:
    found = Confusion.of_entries([(0, 10**12, 1), (1, 1, 4)])
    assert (found.hits, found.mistaken()) == (4, [(1, 0, 10**12)])
    assert charts.confusion(found, ("a", "b")) is None


def test_what_never_happened_has_no_colour_in_the_report() -> None:
    figure = charts.confusion(Confusion.of_entries(ENTRIES), ("a", "b", "c"))
    assert figure is not None
    assert json.loads(figure)["data"][0]["z"] == [[0.75, 0.25, None], [0.5, None, 0.5], [None, None, None]]
