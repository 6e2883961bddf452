"""What a step and a save cost, in counts: unlike times they are the same on every machine, so they guard in CI what
``scripts/bench`` has measured.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import interposed
import pytest
from processes import NARROW

LOG, SAVE, STEPS = 4, 6, 11
# The narrow network has the operations of the full one; 5,603 were measured.
MOST_NODES = 5_900
MOST_WRITES = 16  # to five files of a small state; 11 were measured


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("costs")


@pytest.fixture(scope="module")
def counts(root: Path) -> dict[str, Any]:
    """What ``counting.py`` has counted in a run of its own, whose calls are in ``root/trace``."""
    arguments = (
        *NARROW,
        f"train.log_every_steps={LOG}",
        f"checkpoint.every_steps={SAVE}",
        f"train.steps={STEPS}",
        "evaluation.every_steps=1000",
    )
    program = Path(__file__).parents[1] / "support" / "counting.py"
    printed = interposed.run(program, *arguments, root=root, trace=root.parent / f"{root.name}.trace")
    return json.loads(printed.splitlines()[-1])


def test_the_graph_of_a_step_stays_small(counts: dict[str, Any]) -> None:
    assert counts["nodes"] <= MOST_NODES


def test_the_loop_waits_for_the_device_at_log_steps_and_saves_only(counts: dict[str, Any]) -> None:
    assert counts["traces"] == 1
    waited = {step for step, reads in enumerate(counts["reads"], 1) if reads}
    assert waited == {LOG, 2 * LOG, SAVE, STEPS}


def test_a_save_writes_every_byte_once_and_syncs_every_file_once(counts: dict[str, Any], root: Path) -> None:
    calls = interposed.read_trace(root.parent / f"{root.name}.trace", root)
    committed = root / "run" / "checkpoints" / f"step-{SAVE:08d}"
    (renamed,) = [call for call in calls if call.name == "rename" and call.other == str(committed.relative_to(root))]
    within = [call for call in calls if call.path.startswith(renamed.path)]
    names = {call.path: Path(call.other).name for call in within if call.name == "rename"}  # TensorFlow's own
    written: Counter[str] = Counter()
    for call in within:
        if call.name == "write":
            written[names[call.path] if call.path in names else Path(call.path).name] += len(call.data)
    assert written == {file.name: file.stat().st_size for file in committed.iterdir()}
    synced = Counter(call.path for call in within if call.name == "fsync")
    assert set(synced.values()) == {1}
    assert len(synced) == len(written) + 1  # and the directory
    assert sum(call.name == "write" for call in within) <= MOST_WRITES
