"""Installing tests/small_plugin where processes of a test start, and nowhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import NARROW, SMOOTH

from trainer.config import plugins

PACKAGE = Path(__file__).parents[1] / "small_plugin" / "trainer_small"
ENTRY_POINTS = """\
[trainer.models]
small = trainer_small:SmallNetwork

[trainer.sources]
paced = trainer_small:PacedDigits

[trainer.trackers]
journal = trainer_small.journal:Journal
"""
# As NARROW, but of two convolutions instead of Inception V3.
SMALL = ("model=small", *(key for key in NARROW if key.partition("=")[0] not in ("model.width", "model.min_depth")))


# As SMOOTH: a difference in the last bit stays one.
SMALL_SMOOTH = tuple(key.replace("model.batch_norm.epsilon", "model.epsilon") for key in SMOOTH)


def install(place: Path) -> None:
    """``python -m trainer`` and ``python -c`` find the plug-ins when they start in ``place``."""
    (place / PACKAGE.name).symlink_to(PACKAGE)
    facts = place / f"{PACKAGE.name}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE.name}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(ENTRY_POINTS)


@contextlib.contextmanager
def installed_here(place: Path) -> Iterator[None]:
    """This process knows the plug-ins that are installed in ``place`` while the block runs."""
    plugins._installed.cache_clear()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(place)
            yield
    finally:
        plugins._installed.cache_clear()


def paced(seconds: float) -> tuple[str, str]:
    """Overrides with which no step takes less than about so many seconds, at NARROW's batch of 8."""
    return "data=paced", f"data.seconds={seconds / 8}"
