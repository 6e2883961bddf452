"""A table that pandas wrote, from end to end: trained, killed, resumed bit for bit, edited and refused, evaluated."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from image_data import jpeg, png, write
from killed_runs import KILLED, NO_SUBSET, STEPS
from processes import Trainer, assert_same_run, checkpoint_names
from small_plugin import SMALL, install, installed_here

from trainer.run_directory.metrics import read_validations
from trainer.sweeps import cross_validation, plan


def patients(folder: Path) -> pandas.DataFrame:
    """Sixty images of twenty patients, three each; the last four patients are the test set."""
    rows = []
    for number in range(60):
        patient = number // 3
        name = f"scan {number:03d}.{'png' if number % 2 else 'jpg'}"
        write(folder / "images" / name, png(number) if number % 2 else jpeg(number))
        split = "train" if patient < 12 else "validation" if patient < 16 else "test"
        rows.append({"image": f"images/{name}", "grade": [10, 9, 2][patient % 3], "patient": patient, "split": split})
    return pandas.DataFrame(rows)


def evaluated(trainer: Trainer, *arguments: str) -> Any:
    said = trainer.run("evaluate", "run_dir=killed", *arguments, "format=json")
    return json.loads(said[said.index("{\n") :])


def test_a_table_that_pandas_wrote_is_trained_killed_resumed_and_evaluated(trainer: Trainer) -> None:
    install(trainer.cwd)
    frame = patients(trainer.cwd / "data")
    file = trainer.cwd / "data" / "labels.csv"
    frame.to_csv(file, index=False, encoding="utf-8-sig")
    columns = ("data.path_column=image", "data.label_column=grade", "data.split_column=split")
    data = ("data=table", "data.file=data/labels.csv", *columns, "data.group_column=patient")
    train = ("train", *SMALL, *NO_SUBSET, *STEPS, *data, "checkpoint.best_metric=macro_f1")
    trainer.run(*train, "run_dir=straight")
    killed = trainer.start_python("-c", KILLED, *train, "run_dir=killed", "checkpoint.async_save=false")
    assert killed.wait() == -signal.SIGKILL, killed.output
    assert checkpoint_names(trainer.cwd / "killed") == ["step-00000003"]
    frame.assign(grade=frame.grade.replace(9, 2)).to_csv(file, index=False)
    assert "data" in trainer.run("resume", "run_dir=killed", status=3)
    frame.to_csv(trainer.cwd / "data" / "again.tsv", sep="\t", index=False)  # the same rows in another dialect
    file.unlink()
    said = trainer.run("resume", "run_dir=killed", "data.file=data/again.tsv")
    assert "resuming killed at step 3 of 7" in said
    assert_same_run(trainer.cwd / "straight", trainer.cwd / "killed")
    manifest = json.loads((trainer.cwd / "killed" / "checkpoints" / "step-00000007" / "manifest.json").read_text())
    assert manifest["class_names"] == ["2", "9", "10"]
    facts = evaluated(trainer, "split=test")
    assert (facts["split"], facts["examples"]) == ("test", 12)
    validated = evaluated(trainer)
    assert validated["examples"] == 12
    for name in ("loss", "macro_f1", "balanced_accuracy", "auroc"):
        assert validated["recorded"][name] == validated[name]


def test_a_sweep_over_the_folds_of_a_table_is_a_cross_validation(trainer: Trainer) -> None:
    install(trainer.cwd)
    frame = patients(trainer.cwd / "data")
    frame.to_csv(trainer.cwd / "data" / "labels.csv", index=False)
    columns = ("data.path_column=image", "data.label_column=grade", "data.group_column=patient")
    data = ("data=table", "data.file=data/labels.csv", *columns, "data.folds=2", "data.fold=0,1")
    train = ("train", "--multirun", *SMALL, *NO_SUBSET, *STEPS, *data, "hydra.sweep.dir=sweep")
    said = trainer.run(*train)
    validations = [read_validations(trainer.cwd / "sweep" / str(fold)) for fold in range(2)]
    last = [each[7]["accuracy"] for each in validations]
    best = [max(values["accuracy"] for values in each.values()) for each in validations]
    expected = (
        f"cross-validation of 2 folds: accuracy {np.mean(last):.4f} ± {np.std(last, ddof=1):.4f} at the last step, "
        f"{np.mean(best):.4f} ± {np.std(best, ddof=1):.4f} at the best step of each (mean ± standard deviation)"
    )
    assert expected in said
    (trainer.cwd / "sweep" / "1" / "finished.json").unlink()
    with installed_here(trainer.cwd):
        sweep = plan.read(trainer.cwd / "sweep")
        (line,) = cross_validation.lines(trainer.cwd / "sweep", sweep)
    assert line == "cross-validation of 2 folds: 1 of them have a result, and a mean needs all"
