"""Text for a terminal of any width."""

from __future__ import annotations

import re
import shutil
import textwrap

WIDEST = 100  # longer lines are hard to follow
NARROWEST = 40


def width() -> int:
    """Columns that text may fill: those of the terminal, within reason."""
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))


def wrapped(text: str) -> str:
    """``text`` with its paragraphs filled to the width of the terminal. Lines that are indented, and lines in columns,
    stay as they are.
    """
    return "\n\n".join(_filled(paragraph) for paragraph in text.split("\n\n"))


def _filled(paragraph: str) -> str:
    lines = paragraph.splitlines()
    if any(line.startswith(" ") or re.search(r"\S {2,}\S", line) for line in lines):
        return paragraph
    return textwrap.fill(" ".join(lines), width(), break_long_words=False, break_on_hyphens=False)


def beside(name: str, text: str, column: int) -> str:
    """``text`` wrapped in a column to the right of ``name``, which has ``column`` characters."""
    room = max(NARROWEST, width() - column)
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
    rest = "".join(f"\n{' ' * column}{line}" for line in lines[1:])
    return f"{name:<{column}}{lines[0]}{rest}" if len(name) < column else f"{name}\n{' ' * column}{lines[0]}{rest}"
