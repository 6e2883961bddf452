"""HTML for notebooks. Every text in it is escaped: class names and paths come from data."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from trainer.errors import printable


def table(title: str, rows: Iterable[Sequence[object]], heads: Sequence[str] = ()) -> str:
    """A table with ``title`` above it and, where there are any, ``heads`` above its columns."""
    head = f"<thead><tr>{''.join(f'<th>{_text(each)}</th>' for each in heads)}</tr></thead>" if heads else ""
    body = "".join(f"<tr>{''.join(f'<td>{_text(each)}</td>' for each in row)}</tr>" for row in rows)
    return f"<table><caption>{_text(title)}</caption>{head}<tbody>{body}</tbody></table>"


def _text(value: object) -> str:
    return html.escape(printable(str(value)))
