"""The name of this host, as lock files, manifests and messages have it."""

from __future__ import annotations

import os
import socket

UNKNOWN = "unknown-host"


def host_name() -> str:
    """One printable word, whatever the kernel has: a name may be empty, hold blanks, or be no UTF-8. Two hosts may
    share it; what tells them apart is the start of their kernels.
    """
    text = os.fsencode(socket.gethostname()).decode("utf-8", errors="backslashreplace")
    return "".join(c if c.isprintable() and not c.isspace() else f"\\x{ord(c):02x}" for c in text) or UNKNOWN
