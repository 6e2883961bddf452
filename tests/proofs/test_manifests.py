"""The manifests of docs/cluster/ before the real schemas, which are not kept here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BROKEN = {  # file, what stands there, what is put in its place
    "a key that no Job has": ("jobset.yaml", "maxFailedIndexes:", "maxFailingIndexes:"),
    "a word for a number": ("jobset.yaml", "backoffLimitPerIndex: 20", "backoffLimitPerIndex: twenty"),
    "a rule without its statuses": ("trainjob.yaml", "values: [75]", "value: [75]"),
    "a name that no TrainJob may have": ("trainjob.yaml", "metadata: {name: mine}", "metadata: {name: 2nd}"),
    "resources without a quota": ("kueue.yaml", "[nvidia.com/gpu]", "[nvidia.com/gpu, cpu]"),  # a rule in CEL
    "an unknown key of SkyPilot's": ("skypilot.yaml", "use_spot:", "use_spots:"),
    "a container without a name": ("../cluster.md", "- name: trainer\n          image", "- image"),
}


@pytest.mark.skipif(
    "SCHEMAS" not in os.environ or "ASKED" not in os.environ,
    reason="SCHEMAS names no directory of definitions, or ASKED no Python; see scripts/check_manifests",
)
def test_the_schemas_accept_the_manifests_and_refuse_what_is_broken_in_them(tmp_path: Path) -> None:
    def ask(tree: Path) -> subprocess.CompletedProcess[str]:
        command = [os.environ["ASKED"], str(tree / "scripts" / "check_manifests"), os.environ["SCHEMAS"]]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    whole = ask(ROOT)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert whole.stdout.count(": accepted\n") == 9, whole.stdout
    assert "not asked" not in whole.stdout
    assert "rule kept" in whole.stdout
    for number, (name, right, wrong) in enumerate(BROKEN.values()):
        tree = tmp_path / str(number)
        for place in ("scripts/check_manifests", "docs/cluster.md"):
            (tree / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / place, tree / place)
        shutil.copytree(ROOT / "docs" / "cluster", tree / "docs" / "cluster")
        file = tree / "docs" / "cluster" / name
        text = file.read_text()
        assert right in text
        file.write_text(text.replace(right, wrong))
        asked = ask(tree)
        assert asked.returncode == 1, f"{name}: {wrong}\n{asked.stdout}{asked.stderr}"
        assert ": refused\n" in asked.stdout
