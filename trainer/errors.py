"""The errors that a user can cause or meet, each with the exit status of the contract.

For a ``TrainerError`` only the message is printed. Any other exception is a bug and shows its traceback.
"""

from __future__ import annotations

import codecs
import difflib
import math
import sys
from collections.abc import Collection, Iterable, Sequence

SPELLED = "trainer.spelled"  # for ``open(…, errors=SPELLED)``: what an encoding lacks is spelled in ASCII
IN_ASCII = {"·": ".", "…": "...", "–": "-", "—": "-", "−": "-", "→": "->", "×": "x", "≥": ">=", "≤": "<=", "≈": "~"}
NAMES_SHOWN = 5
LONGEST_SHOWN = 60  # characters of a text from a file
MOST_COMPARED = 50_000  # names; to compare a text with so many takes a second
MOST_TEXTS = 20  # that are compared with the same names; a message shows no more
LARGEST_WITH_DECIMALS = 1e5
SURROGATES = range(0xD800, 0xE000)
ESCAPED_BYTES = range(0xDC80, 0xDD00)  # Python's form of bytes in a file name that are not UTF-8 (PEP 383)


class TrainerError(Exception):
    """Base class. The message says what happened, where (both values) and what to do, in a few lines. It can be
    printed: bytes of a path that are not UTF-8 are spelled.
    """

    exit_status = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(spelled(each) if isinstance(each, str) else each for each in args))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in the place of a traceback: IPython asks an error for it."""
        return printable(f"{type(self).__name__}: {self}").split("\n")


class TrainingFailed(TrainerError):
    """Training itself cannot continue, e.g. the loss is no longer finite."""

    exit_status = 1


class Diverged(TrainingFailed):
    """A step has diverged, and ``train.on_divergence=rollback`` is set. ``step`` is its number; its examples are
    ``first`` to ``end - 1``.
    """

    def __init__(self, what: str, usual: str, step: int, first: int, end: int) -> None:
        super().__init__(f"{what} at step {step}, of training examples {first} to {end - 1}{usual}")
        self.step, self.first, self.end = step, first, end


class NotSaved(TrainerError):
    """The state or the history of a run cannot be written: disk full, broken, read-only, gone … The message names the
    last good checkpoint.
    """

    exit_status = 1


class UsageError(TrainerError):
    """A wrong command line or configuration."""

    exit_status = 2


class BadRecord(UsageError):
    """One record of the data cannot be used. The message names it and says why. Other records may be fine."""


class DataLost(UsageError):
    """Data that existed when a run began can no longer be read. Every completed step is committed."""


class RestoreRefused(TrainerError):
    """A checkpoint and the program, the overrides or the data do not match.

    ``consents`` are the names of ``allow`` with which the same command would go on. They are empty where no name helps,
    and where the message has the command already.
    """

    exit_status = 3

    def __init__(self, message: str, consents: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.consents = tuple(consents)


class ProcessesDiffer(TrainerError):
    """The processes of a run have different code, configurations, versions, environments or data."""

    exit_status = 3


class NoValidCheckpoint(TrainerError):
    """There is no checkpoint to continue from, or it is damaged and no other can replace it."""

    exit_status = 4


class RunDirectoryInUse(TrainerError):
    """Another process is writing to the run directory."""

    exit_status = 5


class NoSuchSplit(UsageError):
    """The data has no such split, or none that is apart from the others."""


class RunDirectoryLost(TrainerError):
    """The run directory was moved, deleted, replaced or hidden while the run was using it."""

    exit_status = 5


class LaunchFailed(TrainerError):
    """A launcher plug-in of Hydra could not run the trials of a sweep, or lost one of its processes."""

    exit_status = 1


class NotSent(TrainerError):
    """A tracker of experiments could not be told of a run. Nothing is lost."""

    exit_status = 1


class PeerLost(TrainerError):
    """Another process of the run is gone. The exit status is the one that it announced, else 75 ("run it again")."""

    exit_status = 75

    def __init__(self, message: str, exit_status: int = exit_status) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class Stopped(TrainerError):
    """A signal ended the run after a checkpoint was committed."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def spelled(text: str) -> str:
    """``text`` that every UTF-8 stream takes: a byte of a file name that is not UTF-8 is ``\\xNN``."""
    if not any(ord(character) in SURROGATES for character in text):
        return text
    return "".join(_in_ascii(character) if ord(character) in SURROGATES else character for character in text)


def one_line(name: str) -> str:
    """A name from a disk or a foreign file, for messages: what cannot be printed is escaped, line ends too."""
    return printable(name).replace("\n", "\\n")


def brief(text: str) -> str:
    """The begin of a text from a foreign file, which may be of any length, on one line."""
    return one_line(text[:LONGEST_SHOWN]) + ("…" if len(text) > LONGEST_SHOWN else "")


def _in_ascii(character: str) -> str:
    if character in IN_ASCII:
        return IN_ASCII[character]
    if ord(character) in ESCAPED_BYTES:
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("ascii", "backslashreplace").decode()


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_in_ascii, error.object[error.start : error.end])), error.end


codecs.register_error(SPELLED, _spelled)


def printable(message: str) -> str:
    """``message`` with control characters escaped, except line ends: parts of it may come from a foreign file."""
    lines = spelled(message).split("\n")
    return "\n".join("".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in lines)


def warn(text: str) -> None:
    """Print a warning to stderr, for events before a run has a log."""
    print(printable(f"warning: {text}"), file=sys.stderr, flush=True)


def few(names: Sequence[str]) -> str:
    """The first of ``names``, and how many more there are."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return (", ".join(names[:NAMES_SHOWN]) or "none") + more


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def measure(value: float) -> str:
    """A loss or a share in four decimals; a number whose decimals say nothing in two digits, ``6.2e18``."""
    if abs(value) < LARGEST_WITH_DECIMALS or not math.isfinite(value):
        return f"{value:.4f}"
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits}e{int(exponent)}"


def nearest(name: str, candidates: Iterable[str]) -> str:
    """``"; did you mean X?"`` for the most similar candidate, or an empty text when none is similar, or there are more
    than ``MOST_COMPARED``.
    """
    known = sorted(candidates)
    if len(known) > MOST_COMPARED:
        return ""
    # The last part of a dotted key carries most of its meaning, so a right leaf in a wrong section also counts.
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        leaf = name.rpartition(".")[2]
        leaves = {key.rpartition(".")[2]: key for key in reversed(known)}
        close = [leaves[match] for match in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.75)]
    return f"; did you mean {close[0]}?" if close else ""


class Nearest:
    """The most similar of ``names``, of which there may be many, to each of many texts: see ``nearest``. A text costs a
    comparison with every name, so only the first ``MOST_TEXTS`` different ones get an answer.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._found: dict[str, str] = {}

    def to(self, text: str) -> str:
        """``"; did you mean X?"``, or an empty text."""
        if text not in self._found and len(self._found) < MOST_TEXTS:
            self._found[text] = nearest(text[:LONGEST_SHOWN], self._names)
        return self._found.get(text, "")
