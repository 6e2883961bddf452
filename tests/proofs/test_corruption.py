"""Damage at random places of a run directory: what a resume would use is unchanged, or the damage is reported.

The directory is written by the real code (``saving.py``). What a resume reads of it is read before and after each
damage: the checkpoint that is chosen and every byte of its files, the configuration and fingerprint as objects, the
history, the choice of the best checkpoint, the events. If any of it differs, something must have been said.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damages import delete, flip, grow, truncate, zero
from saving import Run

from trainer.checkpoint import directory
from trainer.checkpoint.retention import described, ranked
from trainer.checkpoint.verification import newest_valid
from trainer.config import stored
from trainer.errors import TrainerError
from trainer.fingerprint import facts
from trainer.run_directory.history import keep_readable
from trainer.run_directory.layout import CHECKPOINTS, METRICS
from trainer.run_directory.metrics import read_metrics, read_validations

CASES_IN_CI = 100
CASES = 1_000
LOCK = ".lock"  # holds nothing that is read but the name of a living holder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with three checkpoints, a history, events, a log and a configuration."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    run_dir.mkdir()
    run = Run(run_dir, 0, 0, asynchronous=False, keep_last=3)
    for step in (1, 2, 3):
        run.step(step)
        run.checkpointer.save()
        run.checkpointer.finish()
    run.close()
    last = directory.committed(run_dir / CHECKPOINTS)[-1]
    shutil.copy(last / stored.FILE_NAME, run_dir / stored.FILE_NAME)
    return run_dir


# ---- damage


def swap(path: Path, draw: random.Random) -> None:
    """Exchange the file with another one: of the same name in another checkpoint, or any."""
    run_dir = next(parent for parent in path.parents if (parent / CHECKPOINTS).is_dir())
    others = [other for other in files_of(run_dir) if other != path]
    namesakes = [other for other in others if other.name == path.name]
    other = draw.choice(namesakes or others)
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (flip, truncate, delete, grow, swap, zero)


def files_of(run_dir: Path) -> list[Path]:
    return sorted(path for path in run_dir.rglob("*") if path.is_file() and path.stat().st_size and path.name != LOCK)


# ---- what a resume reads


@dataclasses.dataclass(frozen=True)
class Seen:
    """Everything that what a resume does depends on, and what it says of damage."""

    what: tuple[Any, ...]
    said: tuple[str, ...]


def look(run_dir: Path) -> Seen:
    said: list[str] = []
    try:
        found = newest_valid(run_dir / CHECKPOINTS, "full", said.append)
        files = {path.name: path.read_bytes() for path in found.path.iterdir()}
        config = stored.read(found.path / stored.FILE_NAME)
        fingerprint = facts.read(found.path / facts.FILE_NAME)
        keep_readable(run_dir, found.manifest.metrics, said.append)
        metrics = list(read_metrics(run_dir / METRICS)) if (run_dir / METRICS).exists() else []
        usable = described(run_dir / CHECKPOINTS, said.append)
        best = ranked(usable, read_validations(run_dir), config.checkpoint.best_metric)
        chosen = [path.name for path in best]
        what = (found.path.name, found.manifest, files, config, fingerprint, metrics, chosen)
    except TrainerError as error:
        return Seen((), (*said, str(error)))
    return Seen(what, tuple(said))


def damage_and_look(whole: Path, place: Path, cases: range) -> Counter[str]:
    expected = look(whole)
    assert expected.said == ()
    outcomes: Counter[str] = Counter()
    for case in cases:
        draw = random.Random(case)
        shutil.copytree(whole, place)
        path, damage = draw.choice(files_of(place)), draw.choice(DAMAGES)
        name = f"case {case}: {damage.__name__} {path.relative_to(place)}"
        before = {path: path.read_bytes() for path in files_of(place)}
        damage(path, draw)
        unchanged = {path: path.read_bytes() for path in files_of(place)} == before
        seen = look(place)
        if seen.said:
            outcomes["reported"] += 1
            assert seen.what or len(directory.committed(place / CHECKPOINTS)) == 0, f"{name}: nothing to fall back to"
        else:
            difference = differing(expected, seen)
            assert difference == [], f"{name} was not noticed: {difference} differ"
            outcomes["no change" if unchanged else "harmless"] += 1
        shutil.rmtree(place)
    return outcomes


PARTS = ("checkpoint", "manifest", "files", "configuration", "fingerprint", "history", "best")


def differing(expected: Seen, seen: Seen) -> list[str]:
    return [part for part, left, right in zip(PARTS, expected.what, seen.what, strict=True) if left != right]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "damaged"


def test_random_damage_is_reported_or_changes_nothing_that_a_resume_uses(whole: Path, place: Path) -> None:
    outcomes = damage_and_look(whole, place, range(CASES_IN_CI))
    print(outcomes)
    assert outcomes["reported"] >= CASES_IN_CI // 5


@pytest.mark.torture
def test_a_thousand_random_damages(whole: Path, place: Path) -> None:
    outcomes = damage_and_look(whole, place, range(CASES))
    print(outcomes)
    assert sum(outcomes.values()) == CASES
