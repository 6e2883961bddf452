"""``help`` explains every key from the schema, and names what may be meant by a name that there is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import small_plugin
from composing import compose

from trainer.__main__ import COMMANDS, run, usage
from trainer.commands.wrapping import wrapped
from trainer.config.described import kind
from trainer.config.keys import KeyFacts
from trainer.config.parse import leaves
from trainer.config.reference import entries, sections

REFERENCE = Path(__file__).parents[2] / "docs" / "configuration.md"


def told(capsys: pytest.CaptureFixture[str], *names: str, status: int = 0) -> str:
    assert run(["help", *names]) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def test_every_key_of_the_reference_and_of_a_configuration_is_known() -> None:
    known = {each.path for each in entries()}
    listed = set(re.findall(r"^\| `([\w.]+)` \|", REFERENCE.read_text(), re.MULTILINE))
    assert len(listed) > 100
    assert listed <= known
    assert {path for path, _, _ in leaves(compose())} <= known
    assert {path.rpartition(".")[0] for path in known if "." in path} <= set(sections())


def test_a_key_is_explained_with_its_value_and_what_a_resume_may_do(capsys: pytest.CaptureFixture[str]) -> None:
    said = told(capsys, "train.aux_weight")
    for text in (
        "meaning    weight of the auxiliary classifier's loss",
        "type       number, ≥ 0.0",
        "value      0.4",
        "'allow=[train.aux_weight]'",
    ):
        assert text in said, said
    said = told(capsys, "train.epochs", "run_dir", "data.root", "runtime.threads", "model.width")
    for text in (
        "value      20",
        "fashion_mnist 36",
        "belongs to one command line",
        "has to be set with data=image_folder",
    ):
        assert text in said, said
    assert "may change: it does not change the result of a step" in said
    assert "null; filled in when a run starts" in said
    assert "cannot change: it decides which variables exist" in said
    assert told(capsys, "optimizer.momentum").count("decay of the ") == 2, "two options have such a key"


def test_a_section_an_option_and_every_command_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    said = told(capsys, "optimizer")
    assert "optimizer=adam, optimizer=adamw, optimizer=rmsprop, optimizer=sgd" in said
    assert "decay of the velocity (sgd)" in said
    assert "0.9: decay of the velocity" in told(capsys, "optimizer=sgd")
    both = told(capsys, "train")
    assert "train is a command: start a run\n  python -m trainer train [key=value …]" in both
    assert "  train.steps " in both
    for name in COMMANDS:
        assert f"python -m trainer {name}" in told(capsys, name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("train.aux_wieght", "train.aux_weight"),
        ("lr", "optimizer.learning_rate"),
        ("evalute", "evaluate"),
        ("optimizer=sdg", "optimizer=sgd"),
        ("early_stoping", "early_stopping"),
    ],
)
def test_what_may_be_meant_is_named(name: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = told(capsys, name, status=2)
    assert said == f"error: there is no key, section, option or command {name}; did you mean {meant}?\n"


def test_the_keys_of_a_plug_in_are_explained(small: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert small == small_plugin.SMALL
    said = told(capsys, "data.seconds")
    assert "that reading a record takes" in said
    assert "data=paced" in said


def test_a_range_says_every_bound() -> None:
    assert kind(float | None, KeyFacts("x", "free", minimum=0.0, below=1.0)) == "number, ≥ 0.0 < 1.0, null"
    assert kind(tuple[int, ...], KeyFacts("x", "free", above=2, maximum=3, length=2)) == "list of 2 (integer), > 2 ≤ 3"


@pytest.mark.parametrize("columns", [60, 80, 400])
def test_paragraphs_fill_the_terminal_and_usage_lines_stay(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    words = " ".join(["word"] * 60)
    text = f"{words}\nmore {words}\n\n  python -m trainer train {words}\n\nkeras   a column\nweights one\n"
    paragraph, command, table = wrapped(text).split("\n\n")
    lines = paragraph.splitlines()
    assert max(map(len, lines)) <= min(columns, 100)
    assert min(map(len, lines[:-1])) > min(columns, 100) - 10
    assert " ".join(lines) == f"{words} more {words}"
    assert (command, table) == (f"  python -m trainer train {words}", "keras   a column\nweights one\n")
    filled = [line for line in usage().splitlines() if line and not line.startswith(" ")]
    assert max(map(len, filled)) <= min(columns, 100)
