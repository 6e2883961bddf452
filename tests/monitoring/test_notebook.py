"""In a notebook a run is one block of output, written anew, and a user's mistake is a few lines."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from small_plugin import SMALL, install

from trainer.errors import UsageError
from trainer.monitoring.notebook import LINES, Block
from trainer.monitoring.terminal import Terminal

ROOT = Path(__file__).parents[2]
VALUES = {"loss": 1.25, "accuracy": 0.5, "learning_rate": 0.1, "images_per_second": 80.0}


class ZMQInteractiveShell:
    """What IPython's shell is called in the kernel of a notebook."""


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A notebook that keeps what the browser would show: an entry for each block of output, as it is now."""
    blocks: list[str] = []

    class Handle:
        def __init__(self) -> None:
            self._number = len(blocks)
            blocks.append("")

        def update(self, block: Any) -> None:
            blocks[self._number] = block._repr_html_()

    def display(block: Any, *, display_id: bool) -> Handle:
        assert display_id
        handle = Handle()
        handle.update(block)
        return handle

    package, inner = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    package.get_ipython = ZMQInteractiveShell  # type: ignore[attr-defined]
    inner.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", inner)
    return blocks


def test_a_run_is_one_block_with_a_bar(tmp_path: Path, shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(tmp_path / "train.log", 0, 100)
    terminal.stage("tracing the step")
    assert "tracing the step" in shown[0]
    terminal.line("training in <b>mine</b>")
    terminal.step(50)
    terminal.training(50, 100, 0.5, VALUES, 61.0)
    terminal.committed(50)
    terminal.warn("something")
    (block,) = shown
    assert '<progress value="50" max="100"' in block
    for text in ("step 50/100", "ETA 0:01:01", "checkpoint 50", "loss 1.2500", "80 images/s", "warning: something"):
        assert text in block, text
    assert "tracing" not in block
    assert "training in &lt;b&gt;mine" in block
    terminal.closing("done at step 100", [("run", "a<b")])
    terminal.close()
    (block,) = shown
    assert "done at step 100" in block
    assert "a&lt;b" in block
    assert "loss 1.2500" not in block
    assert capsys.readouterr().out == "", "and nothing beside it"
    assert "loss 1.2500" in (tmp_path / "train.log").read_text()


def test_a_block_stays_small_and_is_text_where_there_is_no_html(shown: list[str]) -> None:
    block = Block(0, 10)
    for number in range(LINES + 50):
        block.line(f"line {number}")
    assert shown[0].count("line ") == LINES
    assert repr(block).splitlines()[-2:] == [f"line {LINES + 49}", "step 0/10"]


def test_a_terminal_of_ipython_is_a_terminal(
    tmp_path: Path, shown: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", object)
    terminal = Terminal(tmp_path / "train.log", 0, 10)
    terminal.line("here")
    terminal.close()
    assert shown == []
    assert capsys.readouterr().out == "here\n"


def test_a_notebook_shows_the_message_of_an_error_and_no_traceback() -> None:
    error = UsageError("data.root is not set\ngive it: data.root=DIR\x1b[2J")
    assert error._render_traceback_() == ["UsageError: data.root is not set", "give it: data.root=DIR\\x1b[2J"]


def test_a_program_sees_no_frame_of_hydra_for_a_wrong_key(tmp_path: Path) -> None:
    program = "from trainer import train\ntrain(['optimizer.momentun=0.5'])\n"
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 1
    assert "hydra" not in finished.stderr.lower()
    assert "UsageError" in finished.stderr.splitlines()[-2] + finished.stderr.splitlines()[-1]


@pytest.mark.skipif(importlib.util.find_spec("nbclient") is None, reason="there is no nbclient here")
def test_a_real_notebook_has_one_output_of_a_run_and_three_lines_of_an_error(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    install(tmp_path)
    cells = [
        "import sys, warnings; warnings.simplefilter('ignore'); import tensorflow",
        f"from trainer import train\nresult = train(['run_dir=mine', 'train.steps=6', *{SMALL!r}])",
        "train(['optimizer.momentun=0.5'])",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(notebook, timeout=300, allow_errors=True, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    _, run, error = notebook.cells
    blocks = [output for output in run.outputs if output.output_type == "display_data"]
    assert [output for output in run.outputs if output.get("name") == "stdout"] == []
    (block,) = blocks
    assert '<progress value="6" max="6"' in block.data["text/html"]
    assert "done at step 6" in block.data["text/html"]
    (failure,) = [output for output in error.outputs if output.output_type == "error"]
    assert failure.ename == "UsageError"
    assert len(failure.traceback) <= 3, failure.traceback
