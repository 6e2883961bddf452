"""A result that appears when it is complete: it is made beside its place, and renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import UsageError


def refuse_existing(output: Path) -> None:
    """
    Raises:
        UsageError: there is something at ``output``.
    """
    if os.path.lexists(output):
        raise UsageError(f"output={output} exists, and is not overwritten; choose another, or remove it")


def refuse_place(output: Path) -> None:
    """
    Raises:
        UsageError: there is something at ``output``, or its directory cannot be made.
    """
    refuse_existing(output)
    above = next(path for path in output.absolute().parents if os.path.lexists(path))
    if not above.is_dir():
        raise UsageError(f"output={output}: {above} is not a directory")


@contextlib.contextmanager
def appearing(output: Path) -> Iterator[Path]:
    """A path of the same name, in a new directory beside ``output``, at which the block makes a file or a directory. It
    becomes ``output`` when the block has ended well; else nothing is left. The directory of ``output`` is made too.

    Raises:
        UsageError: ``output`` has appeared meanwhile, or its directory cannot be made.
        OSError: nothing can be written there, or the result cannot be renamed.
    """
    with _directory_made(output.absolute().parent) as directory:
        beside = Path(tempfile.mkdtemp(prefix=".writing-", dir=directory))
        try:
            yield beside / output.name
            refuse_existing(output)
            (beside / output.name).rename(output)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def _directory_made(place: Path) -> Iterator[Path]:
    """A directory, made with its parents; what was made is removed again where the block fails."""
    missing = [path for path in (place, *place.parents) if not os.path.lexists(path)]
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the directory {place} cannot be made: {error.strerror}") from error
    try:
        yield place
    except BaseException:
        for path in missing:
            path.rmdir()
        raise
