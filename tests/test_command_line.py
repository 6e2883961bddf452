"""Every command that the program prints works when it is copied: from any directory, whatever the paths contain.

The places that print one are found in the source. Each has a case here, or names the test that runs what it prints.
"""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from composing import compose
from printed_commands import accepted, commands_in, executed

from trainer import api, command_line
from trainer.checkpoint import verification
from trainer.checkpoint.bundle_writer import BundleWriter
from trainer.checkpoint.manifest import PREFIX
from trainer.checkpoint.tensors import ATTRIBUTE, StoredValues
from trainer.command_line import argument as spelled
from trainer.commands import verify
from trainer.commands.consenting import offering
from trainer.config import reproduction, stored
from trainer.config.complete import complete
from trainer.config.override import changes, override
from trainer.config.schema import Config, Invocation
from trainer.data import batches
from trainer.diagnosis import prescription
from trainer.errors import RestoreRefused, TrainerError
from trainer.fingerprint.verdict import Request, judge
from trainer.interchange.contents import ORIGIN
from trainer.interchange.findings import DAMAGE, MISMATCH, Finding
from trainer.monitoring.trackers import following
from trainer.run import left_out, session, short_run, warm_start
from trainer.run_directory import layout, lost, occupancy, places
from trainer.runtime.signals import StopRequest
from trainer.sweeps import plan, trial

ROOT = Path(__file__).parents[1]
MAKERS = ("command_line", "resume_command", "changing_command", "with_variable", "tensorboard_command", "list_command")
MAKERS += ("move_command", "copy_command", "array_command", "python_command")
DIFFICULT = 'it\'s a=b [c], {d} $e `f` "g" é'
STEP = "checkpoints/step-00000004"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory with a difficult name, and what a message needs of a checkpoint."""
    place = tmp_path / DIFFICULT
    (place / STEP).mkdir(parents=True)
    for folder in (place, place / STEP):
        (folder / stored.FILE_NAME).write_text(stored.to_text(config_of()))
    return place


def config_of(*arguments: str) -> Config:
    return complete(compose("train.steps=4", *arguments), 40, 10)


def raised(call: Callable[[], object]) -> str:
    with pytest.raises(TrainerError) as error:
        call()
    return str(error.value)


def refused(run_dir: Path, **values: object) -> str:
    """What a resume says that asks for other values."""
    asked = {key.replace("__", "."): value for key, value in values.items()}
    there = stored.read(run_dir / stored.FILE_NAME)
    found = changes(there, override(there, asked))
    return raised(lambda: judge(run_dir / STEP, found, [], [], Request(run_dir, asked, ())))


def consented(command: str, *arguments: str) -> str:
    """What a command says that was refused, and that names of ``allow`` would lift."""

    def refuse() -> None:
        with offering(command, arguments):
            raise RestoreRefused("refused", ["behaviour"])

    said = raised(refuse)
    before = "step," if "allow=[step]" in arguments else ""
    assert said.startswith("refused\n  python -m trainer "), said
    assert said.endswith(f" 'allow=[{before}behaviour]'"), said
    return said


def next_of(run_dir: Path, *statuses: int, own: bool = False, overrides: tuple[str, ...] = ()) -> str:
    findings = [Finding("setting", status, "x") for status in statuses]
    checkpoint: Any = SimpleNamespace(run_dir=run_dir) if own else None
    return prescription.next_command(run_dir / STEP, checkpoint, overrides, findings, foreign=not own)


def lost_run(run_dir: Path, there: Path | None, part: str = "", *, deleted: bool = False) -> str:
    held: Any = SimpleNamespace(name=run_dir, whereabouts=lambda: there, is_deleted=deleted)
    inner: Any = SimpleNamespace(name=run_dir / part, whereabouts=lambda: there, is_deleted=deleted)
    return lost.way_on(held, inner if part else held, 4, 5, None)


def short(run_dir: Path, *overrides: str) -> str:
    said = short_run.warnings(config_of(*overrides), 4, 0.9997, run_dir)
    return next(line for line in said if "python -m" in line)


def own_contents(path: Path) -> Any:
    return SimpleNamespace(path=path, facts={ORIGIN: {}})


def linked(run_dir: Path) -> str:
    (run_dir / "metrics.jsonl").write_text("")
    os.link(run_dir / "metrics.jsonl", run_dir.parent / "elsewhere")
    return raised(lambda: layout.refuse_links(run_dir))


def other_body(run_dir: Path, patch: pytest.MonkeyPatch) -> str:
    patch.setattr(warm_start, "differing", lambda *arguments: [])
    patch.setattr(warm_start, "shapes_of", lambda *arguments: None)
    contents: Any = SimpleNamespace(path=run_dir / "x.h5")
    translation: Any = SimpleNamespace(weights={})
    nothing: Any = None
    return raised(
        lambda: warm_start._check_body(contents, translation, nothing, nothing, ["conv2d_1a_3x3/conv/kernel"])
    )


def older(run_dir: Path, patch: pytest.MonkeyPatch) -> str:
    patch.setattr(verification, "verify", lambda path, depth: SimpleNamespace(step=4))
    return verification._older([run_dir / STEP], "full")


def without_temporary(run_dir: Path, patch: pytest.MonkeyPatch) -> str:
    patch.setattr(tempfile, "tempdir", "/nonexistent")
    return raised(lambda: verify._temporary_directory(run_dir))


def changed_trial(run_dir: Path) -> str:
    other = plan.Trial(0, run_dir.name, (), None, (), stored.to_text(config_of("seed=1")), None)
    return raised(lambda: trial.refuse_changed(run_dir.parent, other))


def searching(run_dir: Path) -> str:
    search = plan.Search(("optimizer.learning_rate=0.1", "experiment=digits"), False, ())
    return plan.search_command(run_dir, search)


def planned(run_dir: Path) -> str:
    trials = tuple(
        plan.Trial(number, str(number), (), None, (), stored.to_text(config_of()), None) for number in (0, 1)
    )
    return plan.ways_to_run(run_dir, plan.Sweep(plan.FORMAT_VERSION, trials, None))


def existing(run_dir: Path) -> str:
    invocation = Invocation(str(run_dir), "fail", None, ())
    return raised(lambda: session.train(invocation, config_of(), StopRequest()))


NETWORK = ("model=keras_application", "model.name=MobileNet", "preprocess.image_size=75")
Case = Callable[[Path, pytest.MonkeyPatch], list[str]] | str


def damaged_value(run_dir: Path) -> str:
    writer = BundleWriter(run_dir / STEP / PREFIX)
    writer.add(f"a{ATTRIBUTE}", np.ones(4, np.float32))
    writer.finish()
    data = run_dir / STEP / f"{PREFIX}.data-00000-of-00001"
    data.write_bytes(bytes(data.stat().st_size))
    return raised(lambda: StoredValues(run_dir / STEP)["a"])


CASES: dict[str, tuple[Counter[str], Case]] = {
    # where: (the calls there, messages or the test that runs the commands)
    "api.resume": (Counter(resume_command=1), lambda r, p: [raised(lambda: api.resume(f"file://{r.parent}/a b"))]),
    "checkpoint.tensors.StoredValues.__getitem__": (Counter(command_line=1), lambda r, p: [damaged_value(r)]),
    "checkpoint.verification._older": (Counter(command_line=1), lambda r, p: [older(r, p)]),
    "data.sources.parquet.ParquetSplit._say_cost": (
        Counter(python_command=1),
        "tests/data/test_parquet.py::test_the_command_keeps_the_names_of_classes",
    ),
    "commands.verify._temporary_directory": (
        Counter(command_line=1, with_variable=1),
        lambda r, p: [without_temporary(r, p)],
    ),
    "commands.consenting._again": (
        Counter(command_line=1),
        lambda r, p: [
            consented("evaluate", f"run_dir={r.name}", "split=validation", f"data.root={r.parent}", "allow=[step]"),
            consented("evaluate", spelled("run_dir", str(r)), spelled("checkpoint", str(r / STEP)), "format=json"),
            consented("export", f"run_dir={r.name}", "checkpoint=latest", "format=keras", "output=it's here.keras"),
        ],
    ),
    "commands.prepare_data._training": (
        Counter(command_line=1),
        "tests/data/test_prepared.py::test_a_network_trains_on_what_was_prepared",
    ),
    "config.reproduction.command": (
        Counter(command_line=1),
        lambda r, p: [reproduction.command(config_of(*each), r) for each in ((), NETWORK, ("schedule=constant",))],
    ),
    "config.reproduction.command_with": (
        Counter(command_line=1),
        lambda r, p: [
            reproduction.command_with(config_of(*NETWORK), values, r, r / STEP)
            for values in (
                {"optimizer": "sgd", "optimizer.momentum": 0.5},
                {"model.name": "inception_v3", "train.epochs": 3.0},
                {"preprocess.normalize.mean": [0.5, 0.5, 0.5], "data": "image_folder", "data.root": str(r)},
            )
        ],
    ),
    "data.batches._check_command": (Counter(command_line=1), lambda r, p: [batches._check_command(config_of())]),
    "diagnosis.prescription.next_command": (
        Counter(command_line=2, list_command=3),
        lambda r, p: [
            next_of(r, DAMAGE),
            prescription.next_command(r, None, (), [Finding("pickle", MISMATCH, "x")], foreign=True).partition("   #")[
                0
            ],
            next_of(r),
            next_of(r, MISMATCH, overrides=("model.width=0.5",)),
            prescription.next_command(
                r, None, (), [Finding("foreign_directory", MISMATCH, "x")], foreign=True
            ).partition("   #")[0],
        ],
    ),
    "diagnosis.prescription._own": (
        Counter(command_line=2, list_command=1),
        lambda r, p: [next_of(r, own=True), next_of(r, MISMATCH, own=True), next_of(r, DAMAGE, own=True)],
    ),
    "diagnosis.prescription.look_command": (Counter(command_line=1), lambda r, p: [prescription.look_command(r)]),
    "fingerprint.verdict.Request.command": (
        Counter(changing_command=1),
        lambda r, p: [
            refused(r, optimizer__learning_rate=1e-5, train__steps=9),
            refused(r, schedule="constant"),
            refused(r, mixing="mixup", preprocess__normalize__mean=[0.5, 0.5, 0.5]),
            refused(r, optimizer="sgd", seed=4),
            refused(r, optimizer__name="rmsprop"),
            refused(r, data="synthetic", data__train_examples=64, data__validation_examples=64),
            refused(r, model__activation="sigmoid"),
            refused(r, model__name="ResNet50"),
            refused(r, ema__decay=0.5),
        ],
    ),
    "run.checkpointer.Checkpointer._command": (
        Counter(resume_command=1),
        "tests/proofs/test_data_lost.py::test_when_the_images_vanish_every_step_is_committed_and_the_command_of_the_"
        "message_goes_on_exactly",
    ),
    "commands.export._export_state": (
        Counter(resume_command=1),
        "tests/interchange/test_state_files.py::test_a_run_goes_on_from_its_state_as_if_it_had_never_stopped",
    ),
    "diagnosis.prescription.state_command": (
        Counter(resume_command=1),
        lambda r, p: [prescription.state_command(r.parent / "s.safetensors", (), ())],
    ),
    "inference.export.hub._card": (
        Counter(command_line=1),
        "tests/inference/test_export.py::test_a_hubs_directory_says_what_the_network_expects_where_it_comes_from_and_"
        "starts_a_run",
    ),
    "run.rate_range_test.command_for_run": (
        Counter(changing_command=1),
        "tests/commands/test_find_lr.py::test_the_command_for_a_run_gives_its_next_step_the_rate_that_was_found",
    ),
    "interchange.other_programs._converting": (
        Counter(python_command=1, command_line=1),
        "tests/interchange/test_other_programs.py::test_the_command_for_a_real_checkpoint_makes_weights_that_start_a_run",
    ),
    "interchange.other_programs._from_orbax": (
        Counter(python_command=1, command_line=1),
        "tests/interchange/test_other_programs.py::test_the_command_for_a_checkpoint_of_orbax_makes_a_file_of_its_values",
    ),
    "run.session.train": (Counter(resume_command=1), lambda r, p: [existing(r)]),
    "run.left_out._averages": (
        Counter(command_line=1),
        lambda r, p: [left_out._averages(own_contents(r / STEP)).partition("that file: ")[2]],
    ),
    "run.short_run._settle": (Counter(changing_command=1), lambda r, p: [short(r, "model.batch_norm.warmup=false")]),
    "run.short_run._override": (
        Counter(changing_command=1),
        lambda r, p: [short(r, "schedule.warmup_steps=100"), short(r, "ema.decay=0.9999", "ema.warmup=false")],
    ),
    "run.summary.summarize": (
        Counter(command_line=1, tensorboard_command=1),
        "tests/run/test_train_on.py::test_the_closing_lines_say_why_a_run_ended_and_their_command_trains_more",
    ),
    "run.train_on.longer": (
        Counter(changing_command=1),
        "tests/run/test_train_on.py::test_the_command_for_more_of_a_finished_run_trains",
    ),
    "run.train_on.check_continued": (
        Counter(changing_command=2),
        "tests/run/test_train_on.py::test_a_resume_past_the_end_of_its_schedule_is_refused_and_each_printed_command_"
        "trains",
    ),
    "run.warm_start._check_body": (Counter(command_line=1), lambda r, p: [other_body(r, p)]),
    "run_directory.foreign.Foreign.lines": (
        Counter(command_line=1),
        "tests/run_directory/test_foreign.py::test_every_command_names_what_the_directory_is_and_what_can_be_done",
    ),
    "run_directory.layout.refuse_links": (Counter(copy_command=1), lambda r, p: [linked(r)]),
    "run_directory.lost.way_on": (
        Counter(resume_command=4, move_command=1),
        lambda r, p: [
            lost_run(r, None, deleted=True),
            lost_run(r, None),
            lost_run(r, r.parent / "moved -away"),
            lost_run(r, r.parent, "checkpoints"),
        ],
    ),
    "monitoring.trackers.following.later": (Counter(command_line=1), lambda r, p: [following.later(r)]),
    "run_directory.occupancy.refuse_foreign": (
        Counter(resume_command=1),
        lambda r, p: [raised(lambda: occupancy.refuse_foreign(r.parent, continued=True))],
    ),
    "run_directory.places.refuse_in_checkpoint": (
        Counter(resume_command=1),
        lambda r, p: [raised(lambda: places.refuse_in_checkpoint(r / "checkpoints" / "x", "x"))],
    ),
    "run_directory.places._continuing": (
        Counter(resume_command=2),
        lambda r, p: [places._continuing(r / STEP), places._continuing(r / "superseded" / "step-00000001")],
    ),
    "sweeps.plan.resume_command": (Counter(command_line=1), lambda r, p: [plan.resume_command(r)]),
    "sweeps.plan.report_command": (Counter(command_line=1), lambda r, p: [plan.report_command(r)]),
    "sweeps.plan.ways_to_run": (Counter(array_command=1), lambda r, p: [planned(r)]),
    "sweeps.plan.search_command": (Counter(command_line=1), lambda r, p: [searching(r)]),
    "sweeps.trial.how_to_try_again": (Counter(move_command=1), lambda r, p: [trial.how_to_try_again(r)]),
    "sweeps.trial.left_pruned": (Counter(command_line=1), lambda r, p: [trial.left_pruned(r, "little promise")]),
    "sweeps.trial.refuse_changed": (Counter(command_line=1), lambda r, p: [changed_trial(r)]),
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("trainer", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("trainer.")
            if name != "command_line":
                yield name, ast.parse(path.read_text())


def calls(node: ast.AST, where: str, names: set[str]) -> Iterator[tuple[str, str]]:
    """Every call of a maker of commands, and the function that it is in."""
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, ast.FunctionDef | ast.ClassDef)
        inner = f"{where}.{child.name}" if named else where  # type: ignore[attr-defined]
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Name) and child.func.id in names:
            yield where, child.func.id
        yield from calls(child, inner, names)


def test_every_place_that_prints_a_command_has_a_case_here() -> None:
    found: dict[str, Counter[str]] = {}
    for name, tree in sources():
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        taken = {alias.name for node in imports if node.module == "trainer.command_line" for alias in node.names}
        for where, maker in calls(tree, name, taken & set(MAKERS)):
            found.setdefault(where, Counter())[maker] += 1
    assert found == {where: counted for where, (counted, _) in CASES.items()}
    public = {name for name in vars(command_line) if name.endswith(("_command", "command_line")) or name in MAKERS}
    assert public == set(MAKERS), "a maker of commands is not looked for"
    for _, case in CASES.values():
        if isinstance(case, str):
            file, _, test = case.partition("::")
            assert f"def {test}(" in (ROOT / file).read_text(), case


def test_no_command_is_written_out_elsewhere() -> None:
    """But in docstrings and in the help of the commands, which have placeholders for what the user knows."""
    for name, tree in sources():
        texts = {id(node): node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
                texts.pop(id(node.body[0].value))  # type: ignore[attr-defined]
            if isinstance(node, ast.Assign) and any("HELP" in ast.unparse(target) for target in node.targets):
                for inner in ast.walk(node):
                    texts.pop(id(inner), None)
        if name == "__main__":
            continue  # the list of the commands
        written = [text for text in texts.values() if isinstance(text, str)]
        assert not [text for text in written if "-m trainer " in text and text != "python -m trainer train"], name
        assert not [text for text in written if "allow=[" in text], f"{name}: command_line.consent makes it"


@pytest.mark.parametrize("where", [where for where, (_, case) in CASES.items() if not isinstance(case, str)])
def test_every_printed_command_is_accepted_from_another_directory(
    where: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, case = CASES[where]
    assert not isinstance(case, str)
    monkeypatch.chdir(run_dir.parent)
    for place in (run_dir, Path(run_dir.name)):  # as the user may have given it
        with monkeypatch.context() as patch:
            messages = case(place, patch)
        assert messages
        for message in messages:
            found = commands_in(message)
            assert found, message
            for command in found:
                monkeypatch.chdir("/")
                accepted(command)
                monkeypatch.chdir(run_dir.parent)
        for left in (run_dir.parent / "elsewhere", run_dir / "metrics.jsonl"):
            left.unlink(missing_ok=True)


def test_the_commands_of_the_shell_do_what_they_say(run_dir: Path) -> None:
    executed(command_line.list_command(run_dir))
    executed(command_line.copy_command(run_dir))
    copy = run_dir.with_name(f"{run_dir.name}-copy")
    assert (copy / STEP / stored.FILE_NAME).read_bytes() == (run_dir / STEP / stored.FILE_NAME).read_bytes()
    executed(command_line.move_command(copy, run_dir.parent / "-moved"))
    assert (run_dir.parent / "-moved" / STEP).is_dir()
    executed(command_line.with_variable("PLACE", run_dir, "sh -c 'test -d \"$PLACE\"'"))


def test_a_fixed_type_is_refused_for_what_it_is_and_its_new_run_has_it(run_dir: Path) -> None:
    for asked, name in (({"optimizer": "sgd"}, "sgd"), ({"optimizer__name": "sgd"}, "sgd")):
        message = refused(run_dir, **asked)
        assert f"  optimizer.name: adam -> {name}" in message
        (command,) = commands_in(message)
        words = accepted(command)
        assert words[3] == "train"
        assert "optimizer=sgd" in words
        assert f'init_from="{run_dir / STEP}"'.replace('"g"', '\\"g\\"') in words
    message = refused(run_dir, model__name="ResNet50")
    assert "init_from" not in message, "weights of another network do not fit"
    with pytest.raises(RestoreRefused, match=r"data\.name: digits -> image_folder; nothing was restored"):
        refused(run_dir, data="image_folder")


def test_where_the_environment_is_not_activated_a_command_names_its_interpreter_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after scripts/train in a fresh shell, whose ``python`` has none of what the program needs."""
    assert shlex.split(command_line.resume_command("runs/x"))[0] == "python", "the tests run in an activated one"
    other = tmp_path / "bin"
    other.mkdir()
    (other / "python").write_text("#!/bin/sh\nexit 9\n")
    (other / "python").chmod(0o755)
    monkeypatch.setenv("PATH", f"{other}:/usr/bin:/bin")
    assert shlex.split(command_line.tensorboard_command(tmp_path))[0] == f"{Path(sys.executable).parent}/tensorboard"
    for printed, status, said in (
        (command_line.resume_command(tmp_path / "none"), 2, "error: "),
        (command_line.python_command("print(6 * 7)"), 0, "42"),
    ):
        assert shlex.split(printed)[0] == sys.executable
        shell = subprocess.run(["sh", "-c", printed], cwd=ROOT, capture_output=True, text=True, check=False)
        assert shell.returncode == status, shell.stderr
        assert said in shell.stdout + shell.stderr
        assert "ModuleNotFoundError" not in shell.stderr
