"""Keeping TensorFlow's start-up chatter off the terminal without losing what matters."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

# glog lines of level INFO and WARNING, absl's line about them, and the probe for a GPU on a machine that has none
CHATTER = re.compile(r"[IW]\d{4} |WARNING: All log messages before absl|To enable the following instructions|.*cuInit")


def _in_memory() -> TextIO:
    """A file for text that needs no disk, where the system offers one; the temporary directory may be full."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("stderr"), "w+", encoding="utf-8", errors="surrogateescape")
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogateescape")


@contextmanager
def quiet_startup() -> Iterator[None]:
    """Hold back what the block writes to stderr, and pass on at its end what is not chatter.

    TensorFlow writes some of it before any log level is in force. When the block raises, everything is passed on.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with held_back(CHATTER):
        yield


@contextmanager
def held_back(lines: re.Pattern[str]) -> Iterator[list[str]]:
    """Hold back what the block writes to stderr, from C++ too, so the descriptor itself is redirected.

    At the end of the block, the list has the lines that ``lines`` matches at their beginning, and all others are passed
    on. When the block raises, everything is passed on.
    """
    sys.stderr.flush()
    kept: list[str] = []
    with _in_memory() as held, os.fdopen(os.dup(2), "w", encoding="utf-8", errors="surrogateescape") as stderr:
        os.dup2(held.fileno(), 2)
        expected = lines
        try:
            yield kept
        except BaseException:
            expected = re.compile(r"(?!)")  # matches nothing
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr.fileno(), 2)
            held.seek(0)
            with contextlib.suppress(OSError):  # nobody can read it
                for line in held:
                    if expected.match(line):
                        kept.append(line.rstrip("\n"))
                    else:
                        stderr.write(line)
                stderr.flush()
