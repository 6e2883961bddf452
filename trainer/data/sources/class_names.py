"""Names of classes for data that holds labels as numbers."""

from __future__ import annotations

from pathlib import Path

from trainer.errors import UsageError


def numbered(count: int) -> tuple[str, ...]:
    """``class_000``, ``class_001`` …"""
    return tuple(f"class_{number:03d}" for number in range(count))


def read_labels_file(path: Path) -> tuple[str, ...]:
    """The names in ``data.labels_file``, one a line, in label order.

    Raises:
        UsageError: the file cannot be read, has an empty or repeated line, or has fewer than two names.
    """
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"data.labels_file={path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"data.labels_file={path} is not UTF-8: {error.reason} at byte {error.start}") from error
    stripped = [name.strip() for name in names]
    for line, name in enumerate(stripped, 1):
        if not name:
            raise UsageError(f"data.labels_file={path} has no name in line {line}; every line is a class")
        if name in stripped[: line - 1]:
            raise UsageError(f"data.labels_file={path} has {name} in lines {stripped.index(name) + 1} and {line}")
    if len(stripped) < 2:
        raise UsageError(f"data.labels_file={path} has {len(stripped)} lines, but at least two classes are needed")
    return tuple(stripped)
