"""A process that holds a run directory and commits checkpoints there, without TensorFlow.

    writing.py RUN_DIR TAKEN_AFTER

It says "holding", and does what its standard input says, a line each: "commit STEP"; "begin STEP", after which it says
"begun" with the files written and the commit still to be made, at the next line. At the end of the input it ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

from trainer.checkpoint import directory, manifest
from trainer.checkpoint.manifest import Manifest, RecordedMetrics
from trainer.errors import TrainerError
from trainer.run_directory import layout, lock
from trainer.storage import lease


def describe(step: int, files: dict[str, str], sizes: dict[str, int]) -> Manifest:
    metrics = RecordedMetrics(0, "0" * 64)
    facts = (step, step * 8, 0.0, "0" * 16, None, ("a", "b"), {}, {}, None, "", (), metrics, files, sizes)
    return Manifest(manifest.FORMAT_VERSION, *facts)


def commit(run_dir: Path, word: str, step: int) -> None:
    def fill(place: Path) -> None:
        (place / "host").write_text(lease.this_process().host)
        if word == "begin":
            print("begun", flush=True)
            sys.stdin.readline()

    fence = lease.Fence(run_dir / layout.LOCK)
    checkpoints = run_dir / layout.CHECKPOINTS
    directory.commit(checkpoints, step, fill, lambda files, sizes: describe(step, files, sizes), fence)
    print(f"committed {step}", flush=True)


def main(run_dir: Path, taken_after: float) -> int:
    lease.TAKEN_AFTER, lease.RENEWED_EVERY, lease.LOOK_EVERY = taken_after, taken_after / 6, taken_after / 20
    try:
        with lock.writing(run_dir):
            print("holding", flush=True)
            for line in iter(sys.stdin.readline, ""):
                word, step = line.split()
                commit(run_dir, word, int(step))
    except TrainerError as error:
        print(error, flush=True)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
