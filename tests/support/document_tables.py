"""Tables of measured results in documents: where each stands, and how what long tests noted gets into it.

A long test notes each result in a file that a variable of the environment names, one JSON object a line. A script makes
the table of them.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

NOT_TRIED, NONE = "not tried", "–"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a table stands in the text of a document: between two comments."""

    begin: str
    end: str

    def shown(self, document: str) -> str:
        """The table in the text of a document."""
        return document.partition(self.begin)[2].partition(self.end)[0].strip("\n") + "\n"

    def replaced(self, document: str, table: str) -> str:
        """The text of a document with another table."""
        before, begin, rest = document.partition(self.begin)
        _, end, after = rest.partition(self.end)
        assert end, f"the document has no place for the table: {self.begin}{self.end}"
        return f"{before}{begin}\n\n{table}\n{end}{after}"


def keep(variable: str, entry: Mapping[str, str]) -> None:
    """Print a result, and keep it where ``variable`` of the environment says."""
    print(f"| {' | '.join(entry.values())} |")
    if variable in os.environ:
        with Path(os.environ[variable]).open("a", encoding="utf-8") as results:
            results.write(json.dumps(entry) + "\n")


def short(number: str) -> str:
    """``1e-6`` for ``1e-06``."""
    return number.replace("e-0", "e-") if float(number) else "0"


def rows(table: str) -> list[list[str]]:
    """The cells of a table, row by row, without its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
