"""README and docs, and the commands that are written in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *ROOT.glob("docs/*.md")]
)
TRANSCRIPT = ROOT / "docs" / "first-hour.md"  # whose lines without a prompt were printed
BEFORE = r"^\s*(?:\$ )?(?:[A-Z_]+=\S+ |exec |sbatch .*)*(?:\.venv/bin/)?"
COMMAND = re.compile(BEFORE + r"(python -m trainer|scripts/slurm/train\.sbatch|scripts/\w+)\b(.*)$")


def blocks(document: Path) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> Iterator[tuple[str, list[str]]]:
    """``(document, words)`` of every command line in a block, with the values of variables that the document sets."""
    for document in DOCUMENTS:
        variables = re.findall(r'^(?:\$ )?([A-Z]+)="(.*)"$', document.read_text(), re.MULTILINE)
        for block in blocks(document):
            text = block.replace("\\\n", " ")
            for name, value in variables:
                text = text.replace(f"${name}", value)
            for line in text.splitlines():
                found = COMMAND.match(line)
                if found is None or (document == TRANSCRIPT and not line.startswith("$ ")):
                    continue
                words = shlex.split(f"{found[1]} {found[2]}", comments=True)
                end = next((index for index, word in enumerate(words) if word in ("&", "|", ">", "&&")), len(words))
                yield document.name, [word for word in words[:end] if "…" not in word]


TRAINER = [(name, words[3:]) for name, words in commands() if words[0] == "python"]
PLUGINS = "plugins.md"  # its commands want a plug-in, see tests/test_api.py
