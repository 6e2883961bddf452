"""The name of this host, as lock files, manifests and messages give it."""

from __future__ import annotations

import os
import socket

UNKNOWN = "unknown-host"


def host_name() -> str:
    """One printable word, whatever the kernel returns: a name may be empty, contain blanks, or not be UTF-8. Two hosts
    may share a name. The boot ids of their kernels distinguish them.
    """
    text = os.fsencode(socket.gethostname()).decode("utf-8", errors="backslashreplace")
    return "".join(c if c.isprintable() and not c.isspace() else f"\\x{ord(c):02x}" for c in text) or UNKNOWN
