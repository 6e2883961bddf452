"""Metrics that count every class alike, beside scikit-learn's, from batches of any size."""

from __future__ import annotations

import math
import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest
from composing import compose
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from trainer.config.complete import complete, with_leaves
from trainer.config.metrics import counts_by
from trainer.errors import UsageError
from trainer.run.suitability import refuse_too_many_scores
from trainer.training.class_metrics import MOST_SCORES, UNASKED_SCORES, Collected, auroc, scores_kept

CASES: dict[str, tuple[int, int, dict[str, Any]]] = {
    # what is special: (examples, classes, how they are drawn)
    "balanced": (400, 5, {}),
    "two classes": (300, 2, {"shares": [0.97, 0.03]}),
    "rare classes": (900, 6, {"shares": [0.9, 0.05, 0.02, 0.01, 0.01, 0.01]}),
    "equal scores": (400, 4, {"digits": 1}),
    "classes that are never predicted": (200, 8, {"favoured": 0}),
    "classes without an example": (200, 7, {"shares": [0.5, 0.3, 0.2, 0.0, 0.0, 0.0, 0.0]}),
    "many classes": (3000, 150, {}),
}


def drawn(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels int64 ``[n]``, and probabilities float32 ``[n, classes]`` that are right more often than not."""
    count, classes, how = CASES[case]
    random = np.random.Generator(np.random.PCG64(len(case)))
    labels = random.choice(classes, count, p=how.get("shares"))
    logits = random.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels]
    if "favoured" in how:
        logits[:, how["favoured"]] += 3.0
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if "digits" in how:
        scores = np.round(scores, how["digits"])
        scores[:, -1] = np.maximum(1.0 - scores[:, :-1].sum(1), 0.0)
        scores /= scores.sum(1, keepdims=True)
    return labels, scores.astype(np.float32)


def collected(labels: np.ndarray, scores: np.ndarray, batch: int, most: int | None = None) -> dict[str, float]:
    found = Collected(scores.shape[1], scores_kept("accuracy") if most is None else most)
    for begin in range(0, len(labels), batch):
        part = slice(begin, begin + batch)
        there = len(labels[part])
        found.add(labels[part], scores[part].argmax(1), np.ones(there, bool), scores[part])
    return found.metrics()


@pytest.mark.parametrize("case", CASES)
def test_macro_f1_balanced_accuracy_and_auroc_are_those_of_scikit_learn(case: str) -> None:
    labels, scores = drawn(case)
    predicted = scores.argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about predictions of classes that do not occur
        expected = {
            "macro_f1": f1_score(labels, predicted, average="macro"),
            "balanced_accuracy": balanced_accuracy_score(labels, predicted),
        }
    there = np.unique(labels)
    areas = [roc_auc_score(labels == label, scores[:, label]) for label in there]
    if len(there) == scores.shape[1] > 2:
        whole = roc_auc_score(labels, scores.astype(np.float64), multi_class="ovr", average="macro")
        assert whole == pytest.approx(np.mean(areas), abs=1e-12)
    expected["auroc"] = np.mean(areas)
    for batch in (7, 64, len(labels)):
        found = collected(labels, scores, batch)
        assert found == pytest.approx(expected, abs=1e-9)


def test_parts_of_several_processes_add_up_whatever_their_order() -> None:
    labels, scores = drawn("rare classes")
    order = np.random.Generator(np.random.PCG64(1)).permutation(len(labels))
    assert collected(labels[order], scores[order], 33) == collected(labels, scores, 100)


def test_what_is_not_defined_is_nan_and_decides_nothing() -> None:
    scores = np.array([[0.75, 0.25], [0.5, 0.5]], np.float32)
    found = collected(np.array([0, 0]), scores, 2)
    assert math.isnan(found["auroc"])
    assert (found["balanced_accuracy"], found["macro_f1"]) == (1.0, 1.0)
    assert math.isnan(auroc(np.array([0, 1]), [np.array([[0.5, np.nan], [0.5, 0.5]], np.float32)]))
    validation = {"loss": 1.0, "accuracy": 1.0, "skipped": 0.0, **found}
    assert counts_by(validation, "macro_f1")
    assert not counts_by(validation, "auroc")
    assert not counts_by({"loss": 1.0, "accuracy": 1.0}, "auroc"), "a validation of an earlier version"


def test_an_example_without_a_finite_loss_is_a_miss_and_no_prediction() -> None:
    found = Collected(2, 100)
    scores = np.array([[0.75, 0.25], [0.25, 0.75]], np.float32)
    found.add(np.array([0, 1]), np.array([0, 1]), np.array([True, False]), scores)
    metrics = found.metrics()
    assert (metrics["balanced_accuracy"], metrics["macro_f1"]) == (0.5, 0.5)


def test_scores_beyond_the_limit_are_not_kept_and_an_auroc_that_decides_is_refused() -> None:
    labels, scores = drawn("balanced")
    found = collected(labels, scores, 10, 100 * 5)
    assert math.isnan(found["auroc"])
    assert not math.isnan(collected(labels, scores, 10, 400 * 5)["auroc"])
    assert found["macro_f1"] == pytest.approx(f1_score(labels, scores.argmax(1), average="macro"), abs=1e-12)
    config = with_leaves(complete(compose("checkpoint.best_metric=auroc"), 100, 1000), {"model.num_classes": 1000})
    refuse_too_many_scores(config, 268_435)
    with pytest.raises(
        UsageError, match=r"auroc needs the scores of 268436 validation images for 1000 classes, and at"
    ):
        refuse_too_many_scores(config, 268_436)


def test_only_an_auroc_that_decides_keeps_a_gigabyte_of_scores() -> None:
    assert scores_kept("accuracy", "auroc") == scores_kept("auroc", "loss") == MOST_SCORES
    assert scores_kept("accuracy", "macro_f1") == UNASKED_SCORES
    assert UNASKED_SCORES * 4 == 256 * 2**20


def test_an_auroc_copies_a_few_columns_of_the_scores() -> None:
    """The scores of 10,000 classes: 40 MB, whose copy would be as much again."""
    random = np.random.Generator(np.random.PCG64(0))
    parts = [random.random((50, 10_000), np.float32) for _ in range(20)]
    labels = random.integers(0, 10_000, 1000)
    tracemalloc.start()
    try:
        auroc(labels, parts)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4e6
