"""A validation whose loss is not finite is worth less than any other: state, files, choice and words agree on that."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from composing import compose
from stored_runs import keep_this_process, store_run

from trainer.__main__ import run as command
from trainer.checkpoint import directory
from trainer.checkpoint.manifest import FILE_NAME
from trainer.checkpoint.retention import described, ranked
from trainer.report.contents import read as read_report
from trainer.run_directory import which_checkpoint
from trainer.run_directory.layout import CHECKPOINTS, METRICS
from trainer.run_directory.metrics import best_step, read_validations
from trainer.training.due import Standing
from trainer.training.interfaces import Run
from trainer.training.state import Progress
from trainer.training.step import make_evaluation_step
from trainer.training.validation import _note_validation, patience_is_exhausted, recount, validate

BROKEN = {1: math.nan, 3: math.inf}  # what the classifier's bias has while the step is validated
STEPS = 4
METRICS_TRIED = ("accuracy", "loss", "macro_f1", "auroc")


def validated(run: Run) -> None:
    """Validate at steps 1 to 4; at two of them, the network's outputs are not finite. Commit each."""
    evaluation_step, progress = make_evaluation_step(run.state, run.config, scores=True), run.state.progress
    bias = run.state.variables["logits/logits/bias"]
    whole = np.array(bias.numpy())  # a copy: the array may be the memory of the variable
    for step in range(1, STEPS + 1):
        progress.step.assign(step)
        progress.examples.assign_add(run.config.train.global_batch_size)
        bias.assign(whole * 0 + BROKEN[step] if step in BROKEN else whole)
        standing = Standing(step, step - 1, None, False, False, False, False)
        validate(run, standing, evaluation_step, closing=False)
        bias.assign(whole)  # a checkpoint takes finite values only
        if step < STEPS:  # store_run commits the last one
            run.checkpointer.save()
        assert not patience_is_exhausted(progress, run.config), step


@pytest.fixture(scope="module", params=METRICS_TRIED)
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    metric = request.param
    settings = (f"checkpoint.best_metric={metric}", f"early_stopping.metric={metric}", "early_stopping.patience=3")
    with pytest.MonkeyPatch.context() as patch:
        keep_this_process(patch)
        yield store_run(tmp_path_factory.mktemp(metric) / "run", validated, *settings)


def test_the_best_is_the_first_finite_validation_in_state_history_checkpoints_and_report(stored: Path) -> None:
    found = which_checkpoint.find(stored, "best", "full", print)
    validations = read_validations(stored)
    assert [math.isfinite(validations[step]["loss"]) for step in sorted(validations)] == [False, True, False, True]
    assert found.path.name == directory.name_of(2)
    metric = next(name for name in METRICS_TRIED if stored.parent.name.startswith(name))
    assert best_step(validations, metric) == 2
    assert [path.name for path in ranked(described(stored / CHECKPOINTS, print), {}, metric)] == [
        directory.name_of(2),
        directory.name_of(4),
    ]
    assert read_report(stored, "run", print).best_step == 2


def test_a_recount_reads_only_where_the_ranking_changed_and_counts_only_what_the_state_knows_of() -> None:
    """The validation of step 3 is made again: a stop came before it, and a kill after it."""
    before = compose("checkpoint.best_metric=accuracy", "early_stopping.metric=accuracy")
    by_loss = compose("checkpoint.best_metric=loss", "early_stopping.metric=loss")
    losses = {1: 2.0, 2: 2.5, 3: 0.5}
    progress = Progress(1.0)
    progress.evaluated_step.assign(2)

    def unread() -> dict[int, dict[str, float]]:
        raise AssertionError("nothing has changed")

    assert recount(progress, unread, before, before) == []
    earlier = {step: {"loss": loss, "accuracy": 0.5, "skipped": 0} for step, loss in losses.items()}
    said = recount(progress, lambda: earlier, before, by_loss)
    assert [line.partition("counted again")[2] for line in said] == [" from 2 earlier validations"] * 2
    found = (progress.best_step, progress.best_value, progress.patience_value, progress.patience_used)
    assert [float(value.numpy()) for value in found] == [1.0, 2.0, 2.0, 1.0]


@pytest.mark.parametrize("undefined", [{"auroc": math.nan}, {}], ids=["not defined", "not recorded"])
def test_patience_ends_where_no_validation_can_be_the_best(undefined: dict[str, float]) -> None:
    """As long as there is no best, each validation was taken for the first, and patience began anew."""
    chosen = ("checkpoint.best_metric=auroc", "early_stopping.metric=loss", "early_stopping.patience=2")
    config, by_loss = compose(*chosen), compose("checkpoint.best_metric=loss", *chosen[1:])
    losses = (math.nan, 2.0, 2.5, 2.25)
    noted = [{"loss": loss, "accuracy": 0.5, "skipped": 0, **undefined} for loss in losses]
    progress = Progress(1.0)
    for step, validation in enumerate(noted, 1):
        _note_validation(progress, step, validation, config)
    assert (int(progress.best_step.numpy()), float(progress.patience_value.numpy())) == (0, 2.0)
    assert patience_is_exhausted(progress, config)

    resumed = Progress(1.0)  # of a run that was ranked by its loss before
    for step, validation in enumerate(noted[:3], 1):
        _note_validation(resumed, step, validation, by_loss)
    recount(resumed, lambda: dict(enumerate(noted[:3], 1)), by_loss, config)
    assert not patience_is_exhausted(resumed, config)
    _note_validation(resumed, 4, noted[3], config)
    assert (int(resumed.best_step.numpy()), float(resumed.patience_value.numpy())) == (0, 2.0)
    assert patience_is_exhausted(resumed, config)


def test_examples_without_a_finite_loss_are_wrong(stored: Path) -> None:
    validations = read_validations(stored)
    assert [validations[step]["accuracy"] for step in BROKEN] == [0.0, 0.0]


def test_every_file_that_the_run_writes_is_json_without_nan(stored: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    lines = (stored / METRICS).read_text().splitlines()
    records = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [record["loss"] is None for record in records] == [True, False, True, False]
    for path in sorted(stored.rglob("*.json")):
        json.loads(path.read_text(), parse_constant=refuse)
    first = json.loads((stored / CHECKPOINTS / directory.name_of(1) / FILE_NAME).read_text())
    assert first["validation"]["loss"] is None


def test_the_manifest_of_such_a_step_is_valid_and_its_loss_is_read_as_nan(stored: Path) -> None:
    manifest = directory.manifest_of(stored / CHECKPOINTS / directory.name_of(1))
    assert manifest.validation is not None
    assert np.isnan(manifest.validation["loss"])


def test_the_lines_of_the_run_say_that_such_a_validation_does_not_count(stored: Path) -> None:
    lines = (stored / "train.log").read_text().splitlines()
    said = [line for line in lines if re.search(r"step \d+/\d+ .* validation loss", line)]
    assert len(said) == STEPS
    for step, line in enumerate(said, 1):
        assert ("does not count: the loss is not finite" in line) == (step in BROKEN)
        assert ("best so far" in line) == (step == 2)


def test_no_command_that_reads_the_run_prints_nan_as_json(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    place = stored / CHECKPOINTS / directory.name_of(1)
    assert command(["inspect", f"checkpoint={place}", "format=json"]) == 0
    json.loads(capsys.readouterr().out, parse_constant=refuse)
