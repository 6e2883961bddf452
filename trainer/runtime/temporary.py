"""Where temporary files go on a machine that has no writable place for them, such as a container with a read-only root.

Importing TensorFlow asks for the temporary directory (through ``absl.testing``) and fails where Python finds none,
although nothing is written there.
"""

from __future__ import annotations

import os
import tempfile

IN_MEMORY = "/dev/shm"  # Linux; a container has its own, also with a read-only root
USUAL = "/tmp"


def settle() -> None:
    """Choose a temporary directory where Python finds none: in memory, or else one that every write to it fails in."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        writable = os.access(IN_MEMORY, os.W_OK | os.X_OK)
        tempfile.tempdir = IN_MEMORY if writable else USUAL
