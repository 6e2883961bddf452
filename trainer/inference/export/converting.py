"""Converters and runtimes of others: what they write to the terminal, and what they cannot convert."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from trainer.errors import UsageError, one_line
from trainer.runtime.quiet import held_back

ANYTHING = re.compile("")
REASON_SHOWN = 500  # characters


@contextmanager
def silent() -> Iterator[None]:
    """For a block in which another program tells its progress on stderr: it is shown only where the block fails."""
    with held_back(ANYTHING):
        yield


@contextmanager
def converting(form: str) -> Iterator[None]:
    """For a block in which a network is converted to ``form``.

    Raises:
        UsageError: the converter does not know something of which the network consists; has its reason.
    """
    try:
        with silent():
            yield
    except UsageError:
        raise
    except Exception as error:  # a converter raises whatever its parts raise, for whatever it was not made for
        reason = one_line(f"{type(error).__name__}: {error}")[:REASON_SHOWN]
        raise UsageError(f"format={form}: this network cannot be converted: {reason}") from error
