"""Make the site: the documents as they are in the repository, with their links made those of one folder.

Usage: make.py OUTPUT [options of sphinx-build …]
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.cmd.build import main as sphinx_build

ROOT = Path(__file__).resolve().parents[2]
AT_THE_TOP = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
# chapters of the menu, each with its pages in the order in which they are best read
CHAPTERS = {
    "Begin": ("first-hour", "tutorial", "results"),
    "How to": (
        *("data", "preprocessing", "fine-tuning", "keras-applications", "resume", "evaluation", "report", "sweeps"),
        *("trackers", "cluster", "container", "operations", "python", "plugins", "extending"),
    ),
    "Reference": ("configuration", "checkpoints", "checkpoint-format", "ecosystem", "CHANGELOG", "SECURITY"),
    "Why": ("design", "comparison", "durability", "performance", "scaling", "precision", "CONTRIBUTING"),
}
SETTINGS = {
    "project": "trainer",
    "extensions": "myst_parser",
    "root_doc": "index",
    "html_theme": "alabaster",
    "html_theme_options.page_width": "1240px",
    "html_copy_source": "0",
    "html_show_copyright": "0",
    "myst_heading_anchors": "4",
    "pygments_style": "sphinx",
    "highlight_language": "none",  # of blocks that name none: shells and their output
}


def main(output: Path, options: list[str]) -> int:
    with tempfile.TemporaryDirectory() as temporary:
        pages = Path(temporary)
        gather(pages)
        settings = [word for name, value in SETTINGS.items() for word in ("-D", f"{name}={value}")]
        return sphinx_build(["-C", "-q", "-W", "--keep-going", *settings, *options, str(pages), str(output)])


def gather(pages: Path) -> None:
    """Copy the documents into one folder. README is the first page, and has the menu."""
    shutil.copytree(ROOT / "docs", pages, dirs_exist_ok=True)
    for name in AT_THE_TOP:
        (pages / name).write_text(from_the_top((ROOT / name).read_text()))
    for page in pages.glob("*.md"):
        page.write_text(re.sub(r"\]\(\.\./README\.md", "](index.md", page.read_text()))
    menus = [
        f"```{{toctree}}\n:caption: {chapter}\n:maxdepth: 1\n:hidden:\n\n" + "\n".join(names) + "\n```\n"
        for chapter, names in CHAPTERS.items()
    ]
    (pages / "index.md").write_text("\n".join([from_the_top((ROOT / "README.md").read_text()), *menus]))


def from_the_top(text: str) -> str:
    """A document of the repository's top, with links that hold in ``docs/``."""
    return text.replace("](docs/", "](").replace("](README.md", "](index.md")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
