"""Which signals ask a run to stop."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.runtime.signals import EXIT_INTERRUPTED, EXIT_STOPPED, STOP_SIGNALS, StopRequest, exit_status


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_is_noted_and_has_the_status_of_a_stop(number: signal.Signals) -> None:
    stop = StopRequest()
    with stop.installed():
        os.kill(os.getpid(), number)
        assert stop.signal == number
    assert exit_status(number) == (EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_STOPPED)


def test_a_closed_terminal_stops_a_run_unless_the_run_was_started_to_outlive_it() -> None:
    assert signal.SIGHUP in STOP_SIGNALS
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        stop = StopRequest()
        with stop.installed():
            os.kill(os.getpid(), signal.SIGHUP)
            stop.install()  # again, as after TensorFlow has replaced a handler
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


FIRST = """
import os, signal, sys
from trainer.runtime import signals
if sys.argv[1] == "handled":
    signals.die_as_others_do()
assert os.getpid() == 1
os.write(1, b"ready")
signal.sigtimedwait([], 2)
os._exit(7)
"""


@pytest.mark.parametrize(("case", "status"), [("handled", 128 + signal.SIGTERM), ("ignored by the kernel", 7)])
def test_the_first_process_of_a_container_ends_at_a_signal_that_the_kernel_would_keep_from_it(
    case: str, status: int
) -> None:
    inside = ["unshare", "--pid", "--fork"]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], check=False).returncode != 0:
        pytest.skip("needs unshare and the right to make a namespace")
    with subprocess.Popen([*inside, sys.executable, "-c", FIRST, case], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"ready"
        (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(first), signal.SIGTERM)
        assert process.wait() == status
