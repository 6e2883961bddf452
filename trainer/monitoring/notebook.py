"""A run in a notebook: one block of output with a bar, which is written anew, instead of a line for each record.

The block is shown by IPython, which a notebook has; this program does not need it otherwise.
"""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Sequence
from typing import Any

KERNELS = ("ZMQInteractiveShell", "Shell")  # of Jupyter, and of Google Colab; a terminal's IPython has a terminal
INTERVAL_SECONDS = 0.5  # between two updates: each is a message to a browser
LINES = 200  # that the block keeps
STYLE = "max-height:14em;overflow:auto;margin:.5em 0;white-space:pre-wrap"


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    module = sys.modules.get("IPython")
    shell = None if module is None else module.get_ipython()
    return shell is not None and type(shell).__name__ in KERNELS


class Block:
    """The block of one run of ``total`` steps, from ``step`` on."""

    def __init__(self, step: int, total: int) -> None:
        self._step, self._total = step, total
        self._values, self._checkpoint, self._left = "", "", ""
        self._lines: list[str] = []
        self._rows: Sequence[tuple[str, str]] = ()
        self._title = ""
        self._shown = 0.0
        self._handle = self._display()

    def _display(self) -> Any:
        from IPython.display import display  # there is one: this is a notebook

        return display(self, display_id=True)

    def step(self, step: int) -> None:
        """A step was made."""
        self._step = step
        if time.monotonic() - self._shown >= INTERVAL_SECONDS:
            self._update()

    def values(self, text: str, left: str) -> None:
        """The values of the newest record, or what the run does before it, and the time that is left."""
        self._values, self._left = text, left
        self._update()

    def committed(self, step: int) -> None:
        """The checkpoint of ``step`` is on disk."""
        self._checkpoint = f"checkpoint {step}"
        self._update()

    def line(self, text: str) -> None:
        """A line of its own."""
        self._lines = [*self._lines, text][-LINES:]
        self._update()

    def closing(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """How the run ended."""
        self._title, self._rows, self._values, self._left = title, rows, "", ""
        self._update()

    def _update(self) -> None:
        self._shown = time.monotonic()
        self._handle.update(self)

    def _status(self) -> str:
        parts = (f"step {self._step}/{self._total}", self._left and f"ETA {self._left}", self._checkpoint)
        return "  ".join(part for part in parts if part)

    def __repr__(self) -> str:
        width = max((len(name) for name, _ in self._rows), default=0)
        rows = [f"  {name:<{width}}  {text}" for name, text in self._rows]
        return "\n".join(text for text in (*self._lines, self._status(), self._values, self._title, *rows) if text)

    def _repr_html_(self) -> str:
        """Everything in it is text: names may come from anywhere."""
        parts = []
        if self._lines:
            parts.append(f'<pre style="{STYLE}">{_text(chr(10).join(self._lines))}</pre>')
        bar = f'<progress value="{self._step}" max="{self._total}" style="width:16em"></progress>'
        parts.append(f"<div>{bar} {_text(self._status())}</div>")
        if self._values:
            parts.append(f"<div>{_text(self._values)}</div>")
        if self._title:
            rows = "".join(
                f'<tr><th style="text-align:left">{_text(name)}</th><td style="text-align:left">{_text(text)}</td></tr>'
                for name, text in self._rows
            )
            parts.append(f"<div><b>{_text(self._title)}</b></div><table>{rows}</table>")
        return "".join(parts)


def _text(text: str) -> str:
    return html.escape(text)
