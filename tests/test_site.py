"""The site of the documents is made of all of them, has no dead link, and loads nothing from outside."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs", "scripts/site")
# what a browser fetches by itself when it shows a page
FETCHED = re.compile(r'<(?:script|img|iframe)\b[^>]*\bsrc="([^"]+)"|<link\b[^>]*\bhref="([^"]+)"')


def make(tree: Path, output: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(tree / "scripts" / "site" / "make.py"), str(output)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("site")
    process = make(ROOT, output)
    assert process.returncode == 0, process.stderr
    return output


def test_every_document_is_a_page_and_in_the_menu(site: Path) -> None:
    menu = (site / "index.html").read_text()
    for document in [*ROOT.glob("docs/*.md"), *(ROOT / name for name in PARTS[1:4])]:
        assert (site / f"{document.stem}.html").is_file()
        assert f'href="{document.stem}.html"' in menu, f"{document.name} is in no chapter of scripts/site/make.py"


def test_nothing_is_loaded_from_outside(site: Path) -> None:
    pages = list(site.glob("*.html"))
    assert len(pages) > 25
    for page in pages:
        for source in filter(None, (name for pair in FETCHED.findall(page.read_text()) for name in pair)):
            assert "//" not in source, f"{page.name} loads {source}"
            target = source.partition("?")[0].partition("#")[0]
            assert not target or (site / target).is_file(), f"{page.name} loads {target}"
    for style in site.glob("_static/*.css"):
        assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style.read_text()), style.name


def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    for part in PARTS:
        source, target = ROOT / part, tmp_path / "tree" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    tutorial = tmp_path / "tree" / "docs" / "tutorial.md"
    tutorial.write_text(tutorial.read_text() + "\nSee [the rest](resume.md#no-such-heading) and [more](nothing.md).\n")
    process = make(tmp_path / "tree", tmp_path / "site")
    assert process.returncode != 0
    assert "no-such-heading" in process.stderr
    assert "nothing.md" in process.stderr
