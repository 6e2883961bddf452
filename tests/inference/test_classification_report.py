"""The counts behind ``evaluate``: what occurs is counted, whatever the number of classes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.inference.classification_report import Tally


def add(tally: Tally, rows: list[tuple[int, int, float, bool, bool]]) -> None:
    label, predicted, confidence, in_top_5, finite = zip(*rows, strict=True)
    tally.add(
        np.array(label), np.array(predicted), np.array(confidence, np.float32), np.array(in_top_5), np.array(finite)
    )


def test_two_hundred_thousand_classes_take_the_memory_of_what_occurs() -> None:
    tally = Tally(200_000)  # its square in int64 would be 320 GB
    add(tally, [(199_999, 199_999, 0.9, True, True), (5, 199_999, 0.8, True, True), (5, 5, 0.7, True, True)])
    add(tally, [(5, 199_999, 0.8, False, True)])
    assert tally.confusion.entries() == [(5, 5, 1), (5, 199_999, 2), (199_999, 199_999, 1)]
    assert (tally.examples, int(tally.class_examples[5])) == (4, 3)
    assert tally.top_5_accuracy == 0.75


def test_an_example_without_a_finite_loss_is_counted_as_wrong_and_has_no_predicted_class() -> None:
    tally = Tally(3)
    add(tally, [(0, 0, math.nan, True, False), (0, 0, 0.9, True, True), (1, 0, 0.6, False, True)])
    assert (tally.examples, tally.not_finite) == (3, 1)
    assert tally.confusion.entries() == [(0, 0, 1), (1, 0, 1)]
    assert tally.top_5_accuracy == pytest.approx(1 / 3)
    assert tally.expected_calibration_error == pytest.approx((abs(1 - 0.9) + abs(0 - 0.6)) / 2)


def test_a_network_that_predicts_nothing_has_no_calibration_error() -> None:
    tally = Tally(2)
    add(tally, [(0, 0, math.nan, False, False), (1, 0, math.nan, False, False)])
    assert math.isnan(tally.expected_calibration_error)
    assert tally.top_5_accuracy == 0.0
