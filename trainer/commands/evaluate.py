"""``evaluate``: the results of a checkpoint over a whole split, class by class."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.commands.arguments import refuse_rest, take_choice, take_list, take_text
from trainer.commands.consenting import offering
from trainer.commands.newest import read_newest
from trainer.commands.wrapping import wrapped
from trainer.config.arguments import parse_arguments
from trainer.config.contracts import Split
from trainer.config.schema.sources import root_of
from trainer.config.schema.training import WeightsName
from trainer.errors import RestoreRefused, measure
from trainer.runtime.importing import importing_tensorflow
from trainer.runtime.streams import json_text, on_stdout

if TYPE_CHECKING:
    from trainer.inference.evaluate import Evaluation

FORMATS = ("table", "json")
SHOWN_IN_MATRIX = 12  # classes
SHOWN_CONFUSIONS = 10
HELP = f"""Evaluate a checkpoint exactly, over every example of a split once.

  python -m trainer evaluate run_dir=DIR [checkpoint=latest|best|step-N|PATH] [split=validation|test|train]
                             [weights=raw|ema] [flip=true] [data.root=… data=…] [evaluation.batch_size=N]
                             [format=table|json] [allow=[behaviour,step]]

Shows loss, top-1 and top-5 accuracy, macro F1, balanced accuracy, AUROC of each class against the rest, expected
calibration error, accuracy of each class and the confusion matrix; top-5 accuracy only where the network has more than
five classes.
Everything is rebuilt from the configuration in the checkpoint; data.* may point to other data, whose classes are
matched by name. By default, the split is validation; of an image folder without splits that the run was not trained
on, such as a test set, every image is evaluated. By default, weights are those that the run's validations use.
flip=true takes the mean of the probabilities of each image and its mirror image. Nothing is written, and the run may be
training meanwhile. format=json writes one JSON object with everything. Exit status {RestoreRefused.exit_status} when
the data has classes that the checkpoint does not know, or the program does not match the checkpoint."""
TAKEN = ("run_dir", "checkpoint", "split", "weights", "flip", "format", "allow")


def main(arguments: Sequence[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(wrapped(HELP))
        return 0
    overrides = [argument for argument in arguments if _is_override(argument)]
    values = parse_arguments([argument for argument in arguments if argument not in overrides])
    run_dir = Path(take_text(values, "run_dir", "evaluate"))
    checkpoint = str(values.pop("checkpoint", "latest"))
    split = take_choice(values, "split", (None, *typing.get_args(Split)))
    weights = take_choice(values, "weights", (None, *typing.get_args(WeightsName)))
    flip = take_choice(values, "flip", (False, True))
    form = take_choice(values, "format", FORMATS)
    allow = take_list(values, "allow")
    refuse_rest(values, (*TAKEN, "data.…", "evaluation.batch_size"), "evaluate")
    with importing_tensorflow():
        from trainer.inference.evaluate import Request, evaluate_checkpoint  # imports TensorFlow, which is slow

    request = Request(run_dir, checkpoint, overrides, split, weights, flip, allow)
    with offering("evaluate", arguments):
        evaluation = read_newest(lambda: evaluate_checkpoint(request), run_dir)
    if form == "json":
        print(json_text(_facts(evaluation, flip=flip)))
    else:
        _print(evaluation)
    return 0


def _is_override(argument: str) -> bool:
    key = argument.partition("=")[0]
    return key in ("data", "evaluation.batch_size") or key.startswith("data.")


def _facts(evaluation: Evaluation, *, flip: bool) -> dict[str, Any]:
    restored, report = evaluation.restored, evaluation.report
    classes = zip(report.class_names, report.class_examples, report.class_accuracy, strict=True)
    return {
        "checkpoint": str(restored.path),
        "checkpoint_digest": restored.digest,
        "step": restored.manifest.step,
        "data": evaluation.config.data.name,
        "data_root": root_of(evaluation.config.data),
        "split": evaluation.data.split,
        "examples_there": evaluation.data.source.whole,
        "notes": list(evaluation.notes),
        "weights": evaluation.weights,
        "flip": flip,
        "batch_size": evaluation.config.evaluation.batch_size,
        "examples": report.examples,
        "not_finite": report.not_finite,
        "loss": report.loss,
        "accuracy": report.accuracy,
        "top_5_accuracy": report.top_5_accuracy,
        "macro_f1": report.macro_f1,
        "balanced_accuracy": report.balanced_accuracy,
        "auroc": report.auroc,
        "expected_calibration_error": report.expected_calibration_error,
        "recorded": evaluation.recorded,
        "classes": [{"name": name, "examples": count, "accuracy": accuracy} for name, count, accuracy in classes],
        "confusion": report.confusion.entries(),
    }


def _print(evaluation: Evaluation) -> None:
    restored, report, recorded = evaluation.restored, evaluation.report, evaluation.recorded
    lines = {
        "checkpoint": f"{restored.path} ({evaluation.weights} weights)",
        "data": f"{evaluation.config.data.name} {evaluation.data.split}: {_examples(evaluation)}",
        **{name: f"{measure(value)}{_beside(recorded, name)}" for name, value in report.scores().items()},
    }
    if report.not_finite:
        affected = f"{report.not_finite} of {report.examples} examples"
        lines["not finite"] = f"the loss of {affected}; they count as wrong"
    width = max(map(len, lines)) + 2
    for name, text in lines.items():
        print(f"{name:<{width}}{text}")
    for note in evaluation.notes:
        print(f"note: {note}")
    console = Console(highlight=False)
    console.print(_class_table(evaluation))
    confusions = report.confusions()
    if len(report.class_names) <= SHOWN_IN_MATRIX:
        console.print(_confusion_table(evaluation))
    elif confusions:
        print("most frequent confusions")
        for count, true, predicted in confusions[:SHOWN_CONFUSIONS]:
            print(f"  {count:>6}  {report.class_names[true]} taken for {report.class_names[predicted]}")


def _examples(evaluation: Evaluation) -> str:
    """How many were evaluated, of how many, and where they are."""
    examples, there, root = evaluation.report.examples, evaluation.data.source.whole, root_of(evaluation.config.data)
    text = f"{examples} examples, all there are" if examples == there else f"{examples} examples of {there}"
    return text if root is None else f"{text} in {root}"


def _beside(recorded: dict[str, float] | None, name: str) -> str:
    key = name.lower().replace(" ", "_")
    return "" if recorded is None or key not in recorded else f"   recorded in training: {measure(recorded[key])}"


def _class_table(evaluation: Evaluation) -> Table:
    """Accuracy by class; with many classes, only the worst."""
    title, rows = evaluation.report.shown_classes()
    table = Table("class", title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in ("examples", "accuracy"):
        table.add_column(column, justify="right")
    for name, count, accuracy in rows:
        table.add_row(Text(on_stdout(name)), str(count), accuracy)
    return table


def _confusion_table(evaluation: Evaluation) -> Table:
    report = evaluation.report
    table = Table("true class", title="true and predicted class", title_justify="left", box=SIMPLE_HEAD)
    for index in range(len(report.class_names)):
        table.add_column(str(index), justify="right")
    matrix = report.confusion.rows(len(report.class_names))
    for index, (name, row) in enumerate(zip(report.class_names, matrix, strict=True)):
        table.add_row(Text(on_stdout(f"{index} {name}")), *(str(count) if count else on_stdout("·") for count in row))
    return table
