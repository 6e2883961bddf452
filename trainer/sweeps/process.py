"""The process of one trial.

TensorFlow sets its threads and its determinism once in a process, so a second trial in the same process could not have
its own. And whatever ends one trial, such as an operating system that runs out of memory, does not end the others.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

POLL_SECONDS = 0.2


def run_in_process(sweep_dir: Path, number: int, stopping: Callable[[], bool]) -> int:
    """Run one trial as ``resume sweep_dir=… trial=…`` and return its exit status. End it when ``stopping`` is true.

    The trial's process belongs to the group of this one, so a signal that ends the group ends both. A Ctrl-C reaches
    both as well, and a second one would end the trial at once. So the request is passed on as SIGTERM, which may come
    twice.
    """
    place = QuotedString(str(sweep_dir), Quote.single).with_quotes()
    arguments = ["resume", f"sweep_dir={place}", f"trial={number}"]
    process = subprocess.Popen([sys.executable, "-m", "trainer", *arguments])
    passed_on = False
    while True:
        try:
            return process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if not passed_on and stopping():
                process.terminate()
                passed_on = True
