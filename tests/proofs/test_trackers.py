"""Trackers beside real runs: killed, blocked, and later told the rest."""

from __future__ import annotations

import fcntl
import json
import re
import shlex
import signal
import time
from pathlib import Path

from processes import Trainer, wait_for_step
from small_plugin import paced
from tracked_runs import Series, wanted

SECONDS_ALLOWED = 120


def journals(place: Path) -> list[Path]:
    return sorted(place.glob("*.jsonl"))


def told(journal: Path, what: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    return [line for line in lines if line["what"] == what]


def series(journal: Path) -> Series:
    """The points of a journal. One that was told twice, with the same time, counts once."""
    points = {
        (line["step"], name, 0.5 if value is None else value, line["time"])
        for line in told(journal, "point")
        for name, value in line["values"].items()  # type: ignore[attr-defined]
    }
    return sorted((step, name, value) for step, name, value, _ in points)  # type: ignore[misc]


def wait_until_nobody_tells(run_dir: Path) -> None:
    """Return when the process that told the tracker has ended, as it does with the run that was killed."""
    deadline = time.monotonic() + SECONDS_ALLOWED
    with (run_dir / "tracking" / ".journal.lock").open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                assert time.monotonic() < deadline, "it goes on without the run"
                time.sleep(0.1)
            else:
                return


def test_a_tracker_that_blocks_for_ever_costs_no_step_and_no_kill_or_failure_costs_a_point(
    trainer: Trainer, small: tuple[str, ...], tmp_path: Path
) -> None:
    place, run_dir = tmp_path / "journal", tmp_path / "run"
    place.mkdir()
    run = (*small, "run_dir=run", "train.steps=30", "checkpoint.every_steps=4", "tracking.trackers=[journal]")
    run = (*run, "tracking.wait_seconds=1", "tracking.register=digits", *paced(0.1))
    process = trainer.start("train", *run)
    wait_for_step(process, run_dir, 10)
    process.signal_group(signal.SIGKILL)
    process.wait()
    wait_until_nobody_tells(run_dir)
    (place / "blocked").touch()
    output = trainer.run("resume", "run_dir=run", "data.seconds=0.0")
    assert "done at step 30" in output
    (command,) = re.findall(r"^  (python -m trainer track .*)$", output, re.MULTILINE)
    assert "of the records; nothing is lost, and this sends the rest" in output
    (place / "blocked").unlink()
    (place / "down").touch()
    arguments = shlex.split(command)[3:]
    refused = trainer.run(*arguments, status=1)
    assert "journal was not told all of" in refused
    assert "ConnectionError: the journal is closed" in refused
    (place / "down").unlink()
    trainer.run(*arguments)
    (journal,) = journals(place)
    assert series(journal) == wanted(run_dir / "metrics.jsonl")
    (upload,) = told(journal, "upload")
    assert (upload["checkpoint"], upload["model"]) == ("step-00000030", "digits")
    assert told(journal, "close")[-1]["how"] == "finished"
    assert trainer.run(*arguments).splitlines()[-1].startswith("journal: 0 new records, ")


def test_a_run_is_refused_at_once_when_its_tracker_is_not_installed(
    trainer: Trainer, small: tuple[str, ...], tmp_path: Path
) -> None:
    message = trainer.run("train", *small, "run_dir=run", "tracking.trackers=[jurnal]", status=2)
    assert "error: tracking.trackers has jurnal, which no installed plug-in has" in message
    assert "did you mean journal?" in message
    assert not (tmp_path / "run").exists()
