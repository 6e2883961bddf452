"""Processes that are forked for the tests are what a fresh interpreter would be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import pythons
from processes import SECONDS_ALLOWED, Trainer, assert_same_run

SURROUNDINGS = """
import json, os, signal, sys, threading
mask = os.umask(0)
facts = {
    "variables": {name: value for name, value in os.environ.items() if name != "LC_CTYPE"},
    "directory": os.getcwd(),
    "arguments": sys.argv,
    "original arguments": sys.orig_argv,
    "path": sys.path,
    "parent": os.getppid(),
    "leads its session and group": os.getpid() == os.getsid(0) == os.getpgid(0),
    "descriptors": sorted(os.listdir("/proc/self/fd"))[:-1],
    "signals": [str(signal.getsignal(number)) for number in signal.valid_signals()],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "threads": threading.active_count(),
    "umask": mask,
    "module": __name__,
    "buffered": [sys.stdout.line_buffering, sys.stderr.line_buffering],
    "ours": [name for name in sys.modules if name.partition(".")[0] in ("trainer", "conftest", "pytest")],
}
print(json.dumps([os.getpid(), facts]))
"""


def started(tmp_path: Path, program: str, fresh: bool, *arguments: str, **options: Any) -> subprocess.Popen[Any]:
    environment = pythons.ENVIRONMENT | {"TF_CONFIG": "a value"}
    return pythons.start(
        ["-c", program, *arguments],
        cwd=tmp_path,
        environment=environment,
        fresh=fresh,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        **options,
    )


def test_a_forked_process_has_the_surroundings_of_a_fresh_one(tmp_path: Path) -> None:
    found = []
    for fresh in (True, False):
        with started(tmp_path, SURROUNDINGS, fresh, "one", "two words") as process:
            output, _ = process.communicate(timeout=SECONDS_ALLOWED)
            assert process.returncode == 0, output
        assert isinstance(process, pythons.Forked) != fresh
        number, facts = json.loads(output)
        assert number == process.pid
        found.append(facts)
        for name in pythons.SET_BY_IMPORTS:
            facts["variables"].pop(name, None)  # the forked one has imported already
    assert found[0] == found[1]
    assert found[1]["parent"] == os.getpid()
    assert found[1]["ours"] == []


@pytest.mark.parametrize("fresh", [True, False])
def test_it_ends_as_a_fresh_one(fresh: bool, tmp_path: Path) -> None:
    for program, status, printed in (
        ("import sys; sys.exit(7)", 7, ""),
        ("import os; os._exit(75)", 75, ""),
        ("import atexit; atexit.register(print, 'late'); print('early')", 0, "early\nlate\n"),
        ("raise ValueError('wrong')", 1, "ValueError: wrong\n"),
        ("import os; os.kill(os.getpid(), 15)", -signal.SIGTERM, ""),
    ):
        with started(tmp_path, program, fresh) as process:
            output, _ = process.communicate(timeout=SECONDS_ALLOWED)
        assert process.returncode == status, output
        assert output.endswith(printed)
    with started(
        tmp_path, "import os, time; os.fork() and os.write(1, b'there\\n'); time.sleep(600)", fresh
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(SECONDS_ALLOWED) == -signal.SIGKILL
        assert process.stdout.read() == "", "the group is gone, so nobody holds the pipe"


def test_what_is_read_while_things_are_imported_asks_for_a_fresh_interpreter(tmp_path: Path) -> None:
    here = pythons.ENVIRONMENT
    assert pythons.may_be_forked(tmp_path, here | {"TF_CONFIG": "{}", "XDG_CACHE_HOME": "/nowhere"})
    for name in ("TF_CPP_MIN_LOG_LEVEL", "TF_XLA_FLAGS", "ONEDNN_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES", "LD_PRELOAD"):
        assert not pythons.may_be_forked(tmp_path, here | {name: "1"})
    for name in ("PYTHONPATH", "PYTHONHASHSEED", "PATH", "HOME"):
        assert not pythons.may_be_forked(tmp_path, here | {name: "another"})
    assert not pythons.may_be_forked(tmp_path, {name: value for name, value in here.items() if name != "PATH"})
    (tmp_path / "trainer").mkdir()
    assert not pythons.may_be_forked(tmp_path, here)


def test_what_a_worker_has_imported_itself_asks_for_nothing(tmp_path: Path) -> None:
    import h5py
    import tensorflow as tf

    from trainer.__main__ import run

    assert run(["train", "--cfg", "job"]) == 0
    assert tf.__version__
    assert h5py.__version__
    assert pythons.may_be_forked(tmp_path, pythons.without_tensorflow(os.environ))


def test_a_directory_that_is_none_is_the_error_of_a_fresh_start(tmp_path: Path) -> None:
    for fresh in (True, False):
        with pytest.raises(FileNotFoundError):
            started(tmp_path / "nowhere", "", fresh)


def test_a_forked_trainer_ends_in_the_bits_of_a_fresh_one(small: tuple[str, ...], tmp_path: Path) -> None:
    """That it does with Inception V3 too is seen where fresh ones resume what is compared with a forked one:
    tests/proofs/test_resume.py.
    """
    for name, fresh in (("fresh", True), ("forked", False)):
        trainer = Trainer(tmp_path, fresh)
        try:
            trainer.run("train", f"run_dir={name}", *small, "train.steps=3", "train.log_every_steps=1")
        finally:
            trainer.close()
    assert_same_run(tmp_path / "fresh", tmp_path / "forked")
