"""A lack of memory is a message with the status of a configuration that does not fit the machine, and no traceback."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from trainer.__main__ import run
from trainer.commands import inspect as command
from trainer.runtime.shortage import shortage

SHORTAGES = [
    MemoryError(),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ImportError("libtensorflow_cc.so.2: failed to map segment from shared object"),
    ImportError("/usr/lib/x.so: cannot open shared object file: Cannot allocate memory"),
    RuntimeError("can't start new thread"),
    tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[8,299,299,32]"),
]


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: type(error).__name__)
def test_every_lack_of_memory_is_a_message_and_status_2(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(arguments: list[str]) -> int:
        if isinstance(error, ImportError):
            raise ImportError("TensorFlow cannot be imported") from error  # as its loader puts it
        raise error

    monkeypatch.setattr(command, "main", failing)
    assert run(["inspect"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: there is not enough memory, or no thread: ")
    assert "what was committed is untouched" in said


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), RuntimeError("a bug"), KeyError("a bug")])
def test_no_other_error_is_taken_for_one(error: Exception) -> None:
    assert shortage(error) is None


def test_a_limit_too_small_for_tensorflow_is_refused_before_it_aborts(tmp_path: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1600 << 20, 1600 << 20))

    for arguments in (["train"], ["resume", "run_dir=run"]):
        process = subprocess.run(
            [sys.executable, "-m", "trainer", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=limited,
        )
        assert process.returncode == 2, process.stderr
        assert process.stderr.startswith("error: this process may map 1.6 GiB of address space (ulimit -v)")
        assert len(process.stderr.splitlines()) == 2
