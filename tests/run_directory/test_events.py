"""Events of TensorBoard whose texts come from the names of files."""

from __future__ import annotations

import os
from pathlib import Path

from trainer.run_directory.events import Events


def test_a_name_that_is_not_utf_8_is_spelled(tmp_path: Path) -> None:
    events, name = Events(tmp_path), os.fsdecode(b"caf\xe9")
    events.text(1, "starts", f"start 1: from {name}/checkpoints/step-00000004")
    events.hyperparameters({"data.root": name})
    events.close()
    (file,) = tmp_path.glob("events.out.tfevents.*")
    assert b"caf\\xe9/checkpoints" in file.read_bytes()
