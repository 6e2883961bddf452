"""The error of this package; its readers turn it into one with an exit status."""

from __future__ import annotations


class Unacceptable(Exception):
    """A file or a text is not what a program would have written; the message says where and why."""
