"""A refusal that a name in ``allow`` lifts prints the whole command with that name, and the command works."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from printed_commands import accepted, commands_in
from processes import NARROW
from stored_runs import keep_this_process, store_run

from trainer.__main__ import run
from trainer.checkpoint import manifest as manifests
from trainer.config import plugins
from trainer.config.plugins import OPTIMIZERS, TRANSFORMS
from trainer.run import session
from trainer.training.interfaces import Run

MADE_BY = {f"plug-in {OPTIMIZERS} lion": "example 1.0", f"plug-in {TRANSFORMS} grain": "example 1.0"}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_run(tmp_path_factory.mktemp("stored") / "run", nothing)


def nothing(run: Run) -> None:
    """The first state is stored as it is."""


@pytest.fixture
def made(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run at a place with a difficult name whose manifest names version 1.0 of plug-ins; 1.1 is installed here."""
    keep_this_process(monkeypatch)
    place = tmp_path / "it's a=b [c]"
    shutil.copytree(stored, place)
    path = place / "checkpoints" / "step-00000000" / manifests.FILE_NAME
    manifest = manifests.read(path)
    manifests.write(dataclasses.replace(manifest, versions={**manifest.versions, **MADE_BY}), path)
    install(monkeypatch, "1.1", "lion", "grain")
    monkeypatch.chdir(tmp_path)
    return place


def install(monkeypatch: pytest.MonkeyPatch, version: str, *names: str) -> None:
    there = plugins._installed
    point: Any = SimpleNamespace(module="json", dist=SimpleNamespace(name="example", version=version))
    here: dict[str, dict[str, metadata.EntryPoint]] = {OPTIMIZERS: {"lion": point}, TRANSFORMS: {"grain": point}}

    @functools.cache
    def installed(group: str) -> dict[str, metadata.EntryPoint]:
        kept = {name: point for name, point in here.get(group, {}).items() if name in names}
        return {**there(group), **kept}

    monkeypatch.setattr(plugins, "_installed", installed)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(list(arguments)) == 3
    return capsys.readouterr().err


def printed(message: str) -> list[str]:
    (command,) = commands_in(message)
    return accepted(command)[3:]


def test_other_plug_ins_are_refused_with_the_command_that_accepts_them(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refused(capsys, "evaluate", f"run_dir={made.name}", "format=json", "evaluation.batch_size=200")
    assert message.splitlines()[1:4] == [
        "  plug-in lion (trainer.optimizers): example 1.0 -> example 1.1",
        "  plug-in grain (trainer.transforms): example 1.0 -> example 1.1",
        "install the version that made it, or accept the other one: allow=[example]",
    ]
    monkeypatch.chdir("/")
    assert run(printed(message)) == 0
    assert '"weights": "raw"' in capsys.readouterr().out
    monkeypatch.chdir(made.parent)
    message = refused(capsys, "export", f"run_dir={made.name}", "format=weights", "output=a b.safetensors")
    monkeypatch.chdir("/")
    assert run(printed(message)) == 0
    assert (made.parent / "a b.safetensors").exists()


def test_a_resume_with_other_plug_ins_is_refused_with_the_whole_command(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    began = []
    monkeypatch.setattr(session, "_run", lambda run_dir, config, start, *others: began.append((config, start)))
    asked = ("train.steps=7", "optimizer.learning_rate=0.5", "allow=[optimizer.learning_rate]")
    whole = printed(refused(capsys, "resume", f"run_dir={made.name}", *asked))
    assert whole[-1] == "allow=[optimizer.learning_rate,example]"
    assert whole[2:-1] == ["train.steps=7", "optimizer.learning_rate=0.5"]
    again = printed(refused(capsys, "train", f"run_dir={made.name}", *NARROW, "train.steps=8", "on_existing=resume"))
    assert again[0] == "resume"
    assert "train.steps=8" in again
    assert again[-1] == "allow=[example]"
    monkeypatch.chdir("/")
    for command, steps in ((whole, 7), (again, 8)):
        assert run(command) == 0
        config, start = began.pop()
        assert config.train.steps == steps
        assert start.other_plugins == [f"plug-in {name}: example 1.0 -> example 1.1" for name in ("lion", "grain")]


def test_a_plug_in_that_is_not_installed_is_named_and_no_name_accepts_it(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "_installed", functools.cache(lambda group: {}))
    message = refused(capsys, "resume", f"run_dir={made.name}", "allow=[example]")
    assert "  plug-in lion (trainer.optimizers): example 1.0 -> not installed\n" in message
    assert "install example 1.0, and run the same command again" in message
    assert commands_in(message) == []
