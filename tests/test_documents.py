"""The program understands every command in README and docs, the tutorial works to its end, every path that a document
names exists, and README and tutorial are easy to read."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import DOCUMENTS, PLUGINS, ROOT, TRAINER, blocks, commands

from trainer.__main__ import COMMANDS, run
from trainer.config.arguments import parse_arguments
from trainer.config.compose import compose
from trainer.config.schema import Invocation

README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial.md"
LONGEST_SENTENCE = 30  # words
LONGEST_README = 200  # lines
PEERS = "## Peers"  # the section of design.md that names files of other projects


SCRIPTS = [(name, words) for name, words in commands() if words[0] != "python"]


def test_there_are_commands_to_look_at() -> None:
    assert len(TRAINER) > 40
    assert {arguments[0] for _, arguments in TRAINER if arguments} >= set(COMMANDS)


@pytest.mark.parametrize(
    ("document", "arguments"), [pair for pair in TRAINER if pair[1][:1] == ["train"] and pair[0] != PLUGINS]
)
def test_the_configuration_of_every_train_command_composes(document: str, arguments: list[str]) -> None:
    flags = ("--cfg", "job", "--help", "--multirun")
    overrides = [argument for argument in arguments[1:] if argument not in flags]
    if "--multirun" in arguments:  # of several values the first; hydra.* says where trials go
        overrides = [
            re.sub(r"=(?:tag\(\w+,)?(?:choice|range|interval)\(([\d.]+).*\)$", r"=\1", each)
            if "(" in each
            else each.split(",")[0]
            for each in overrides
            if not each.startswith(("hydra.", "hydra/"))
        ]
    assert all("=" in override for override in overrides), overrides
    compose([override for override in overrides if override.split("=")[0] not in Invocation.__annotations__])


@pytest.mark.parametrize(
    ("document", "arguments"),
    [pair for pair in TRAINER if pair[1][:1] not in ([], ["train"], ["help"], ["completion"])],
)
def test_every_argument_of_another_command_is_in_its_help(document: str, arguments: list[str]) -> None:
    command, *rest = arguments
    assert command in COMMANDS
    text = importlib.import_module(f"trainer.commands.{command.replace('-', '_')}").HELP
    for key in parse_arguments([argument for argument in rest if not argument.startswith("-")]):
        section = key.split(".")[0]
        assert f"{key}=" in text or f"{section}.…" in text or f"{section}.*" in text or "key=value" in text, key


@pytest.mark.parametrize("arguments", [arguments for _, arguments in TRAINER if arguments[:1] == ["help"]])
def test_what_the_documents_ask_help_for_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(("document", "words"), SCRIPTS)
def test_every_script_that_is_named_exists(document: str, words: list[str]) -> None:
    assert (ROOT / words[0]).is_file()
    assert words[0].endswith(".sbatch") or os.access(ROOT / words[0], os.X_OK)
    if words[0] == "scripts/bench" and len(words) > 1:
        assert (ROOT / "scripts" / "benchmarks" / f"bench_{words[1]}.py").exists()
    if words[0] in ("scripts/train", "scripts/slurm/train.sbatch"):
        given = [word.replace("$SLURM_ARRAY_TASK_ID", "1") for word in words[1:] if word != "--help"]
        compose([word for word in given if word.split("=")[0] not in (*Invocation.__annotations__, "sweep_dir")])


def prose(text: str) -> str:
    """``text`` without code blocks, tables, headings and the targets of links."""
    text = re.sub(r"^```.*?^```", "\n", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(?:\||#).*$", "\n", text, flags=re.MULTILINE)
    return re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)


def sentences(text: str) -> Iterator[str]:
    """Paragraphs and items of lists, split after a full stop, a question mark or an exclamation mark."""
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*- )", prose(text)):
        words = " ".join(paragraph.split())
        yield from filter(None, re.split(r"(?<=[.?!])(?:\*\*|\))?\s+(?=[A-Z`*\[(])", words))


def paths(document: Path) -> Iterator[str]:
    """Every path that begins with a folder of this project, in the text and in blocks."""
    text = document.read_text()
    if document.name == "design.md":
        before, _, after = text.partition(PEERS)
        assert after
        text = before
    for word in re.findall(r"(?<![\w./-])(?:\.ci|conf|docs|scripts|tests|trainer)/[\w./*-]*", text):
        yield word.rstrip(".")


@pytest.mark.parametrize("document", [README, TUTORIAL], ids=lambda path: path.name)
def test_no_sentence_is_longer_than_a_reader_can_hold(document: Path) -> None:
    found = list(sentences(document.read_text()))
    assert len(found) > 10
    assert [sentence for sentence in found if len(sentence.split()) > LONGEST_SENTENCE] == []


def test_the_first_hour_is_that_of_the_readme_in_six_commands() -> None:
    (typed,) = [block for block in blocks(README) if "images=new" in block]
    commands_of_readme = [re.sub(r"\s+#.*", "", line) for line in typed.splitlines()]
    page = (ROOT / "docs" / "first-hour.md").read_text()
    assert re.findall(r"^\$ (.*)$", page, re.MULTILINE) == commands_of_readme
    assert len(commands_of_readme) <= 6


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= LONGEST_README


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_that_a_document_names_exists(document: Path) -> None:
    if document.name == "extending.md":
        return  # its paths are those of new files: tests/test_extending.py makes them in a copy of the tree
    missing = []
    for path in sorted(set(paths(document))):
        there = ROOT.glob(path) if "*" in path else [ROOT / path] * (ROOT / path).exists()
        in_example = (ROOT / "tests" / "example_plugin" / "trainer_example" / path).exists()
        if not any(there) and not (document.name == PLUGINS and in_example):
            missing.append(path)
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        place = document.parent / name if name else document
        assert place.exists(), target
        headings = re.findall(r"^#+ (.*)$", place.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [slug(heading) for heading in headings], target


def slug(heading: str) -> str:
    """The anchor of a heading, as hosts of Markdown make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


CLUSTER = ROOT / "docs" / "cluster.md"
MARK = re.compile(r"<!-- (?:no promise|(\w+)::(\w+)) -->")


def parts(text: str) -> list[str]:
    """The paragraphs, items of lists and rows of tables of a document, with their comments."""
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^\|.*\n\|[-|]+\|\n", "", text, flags=re.MULTILINE)  # the heads of tables
    found = re.split(r"\n\s*\n|\n(?=\s*- |\|)", text)
    return [part for part in found if part.strip() and not part.lstrip().startswith("#")]


def test_the_document_of_clusters_names_a_test_beside_everything_it_promises() -> None:
    text = CLUSTER.read_text()
    first, *found = parts(text)
    assert "Beside each promise, the test that proves it" in first
    assert len(found) > 60
    assert [part for part in found if not MARK.search(part) and not part.endswith(":")] == []
    assert text.count("<!--") == len(MARK.findall(text)) + 1, "a comment in another form"


@pytest.mark.parametrize(
    ("file", "name"), sorted({(file, name) for file, name in MARK.findall(CLUSTER.read_text()) if file})
)
def test_every_test_that_the_document_of_clusters_names_exists(file: str, name: str) -> None:
    (path,) = (ROOT / "tests").glob(f"*/test_{file}.py")
    assert re.search(rf"^def test_{name}\(", path.read_text(), re.MULTILINE)


@pytest.mark.long
def test_the_tutorial_works_as_it_is_written(tmp_path: Path) -> None:
    """Its files, then every line after ``$``, one after the other in one shell."""
    text = TUTORIAL.read_text()
    for name, content in re.findall(r"^`(\w+\.py)`:\n\n```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(content)
    lines = [line[2:] for block in blocks(TUTORIAL) for line in block.splitlines() if line.startswith("$ ")]
    assert len(lines) > 8
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.run(
        ["bash", "-e", "-c", "\n".join(lines)],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "Traceback" not in process.stderr
    (accuracy,) = re.findall(r"^accuracy +([01]\.\d+)", process.stdout, re.MULTILINE)
    assert float(accuracy) > 0.9


def test_the_picture_of_the_terminal_shows_commands_as_in_an_environment_that_is_activated() -> None:
    """And so no path of the machine that made it."""
    picture = (ROOT / "docs" / "pictures" / "terminal.svg").read_text(encoding="utf-8")
    assert "trainer" in picture
    assert "/bin/python" not in picture
