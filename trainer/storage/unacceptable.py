"""The error of this package. Callers turn it into an error with an exit status."""

from __future__ import annotations


class Unacceptable(Exception):
    """A file or a text is not one that this program would have written. The message says where and why."""
