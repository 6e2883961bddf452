"""A fingerprint: an ordered list of facts about everything that decides the result of a step.

A fact has a place (``layer mixed_5b.branch_0.conv2d_0a_1x1.conv``), an attribute and a value. It names the
configuration keys and the file behind it. So code that knows nothing about the kind of fact can explain a difference.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.checkpoint.manifest import ManifestError
from trainer.errors import NoValidCheckpoint
from trainer.storage.documents import parse_json, shown
from trainer.storage.guarded import read_text
from trainer.storage.unacceptable import Unacceptable
from trainer.storage.unreadable import readable

FILE_NAME = "fingerprint.json"
SIZE_LIMIT = 64 << 20  # bytes; the fingerprint of Inception V3 has about 300 KB
STEP = "step"
KINDS = ("data", "structure", "optimizer", "schedule", "behaviour", STEP)
# Relative to the largest of a fact's numbers. In other kinds of facts, numbers are the configuration's or shortened
# digests, and must be equal.
TOLERANCE = 5e-5
MIXING = "mixing"  # where the facts about mixing are
# What mixes with what share is drawn from a beta distribution, by powers and logarithms that processors round
# differently. So a digest of mixed images says nothing on another one; this is how their summary begins.
MIXED = re.compile(r"(?P<shape>\[.*\]) mean (?P<mean>\S+) digest ")


@dataclasses.dataclass(frozen=True)
class Fact:
    """``value`` is JSON: scalars and lists. ``keys`` are the configuration keys or sections that decide it."""

    kind: str
    where: str
    attribute: str
    value: Any
    keys: tuple[str, ...]
    file: str


@dataclasses.dataclass(frozen=True)
class FactDifference:
    """One fact whose value differs between the sides; ``None`` stands for a fact that one side lacks."""

    fact: Fact
    stored: Any
    found: Any

    def __str__(self) -> str:
        return f"{self.fact.where}: {self.fact.attribute} {_shown(self.stored)} -> {_shown(self.found)}"


def _shown(value: Any) -> str:
    return "(absent)" if value is None else str(value)


def differences(stored: Sequence[Fact], found: Sequence[Fact]) -> list[FactDifference]:
    """Every difference, in the order of ``stored``, then the facts that only ``found`` has. Facts about what a step
    does come last, because their differences may follow from the others.
    """
    before = {(fact.kind, fact.where, fact.attribute): fact for fact in stored}
    after = {(fact.kind, fact.where, fact.attribute): fact for fact in found}
    result = []
    keys = [*before, *(key for key in after if key not in before)]
    for key in sorted(keys, key=lambda key: key[0] == STEP):
        old = before[key].value if key in before else None
        new = after[key].value if key in after else None
        if not _agree(key[0], key[1], old, new):
            result.append(FactDifference(after[key] if key in after else before[key], old, new))
    return result


def _agree(kind: str, where: str, old: Any, new: Any) -> bool:
    """Whether values are the same. Rounding may differ in facts about what a step does, and in those about mixing."""
    if where == MIXING:
        old, new = _numbers(old), _numbers(new)
    elif kind != STEP:
        return bool(old == new)
    if old == new or not isinstance(old, list) or not isinstance(new, list) or len(old) != len(new):
        return bool(old == new)
    numbers = [abs(value) for value in (*old, *new) if isinstance(value, float)]
    allowed = TOLERANCE * max(numbers, default=0.0)
    return all(
        abs(before - after) <= allowed if isinstance(before, float) and isinstance(after, float) else before == after
        for before, after in zip(old, new, strict=True)
    )


def _numbers(value: Any) -> Any:
    """A value about mixing, with numbers where it has the text of numbers, and without a digest."""
    if isinstance(value, str) and (match := MIXED.match(value)) is not None:
        return [match["shape"], _number(match["mean"])]
    if isinstance(value, list):
        return [_number(each) for each in value]
    return value


def _number(value: Any) -> Any:
    """The number that a text is, or else the value itself."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def comparable(left: Sequence[Fact], right: Sequence[Fact]) -> tuple[list[Fact], list[Fact]]:
    """Both sides without the facts about a step that only one of them has: another version of the program may record
    more such facts, or fewer. For this reason a changed probe gets another name.
    """
    names = [{(fact.where, fact.attribute) for fact in side if fact.kind == STEP} for side in (left, right)]
    both = names[0] & names[1]

    def kept(side: Sequence[Fact]) -> list[Fact]:
        return [fact for fact in side if fact.kind != STEP or (fact.where, fact.attribute) in both]

    return kept(left), kept(right)


def digests(facts: Sequence[Fact]) -> dict[str, str]:
    """A SHA-256 for each kind of fact, for the manifest. There is none for what a step does, whose last digits vary."""
    return {
        kind: hashlib.sha256(to_text([fact for fact in facts if fact.kind == kind]).encode()).hexdigest()
        for kind in KINDS
        if kind != STEP
    }


def to_text(facts: Sequence[Fact]) -> str:
    """The contents of ``fingerprint.json``: one fact a line."""
    return "[\n" + ",\n".join(json.dumps(_row(fact)) for fact in facts) + "\n]\n"


def _row(fact: Fact) -> list[Any]:
    """The fields in order. ``dataclasses.astuple`` would copy every value, which takes longer than writing it."""
    return [getattr(fact, field.name) for field in dataclasses.fields(fact)]


def from_text(text: str) -> list[Fact]:
    """The facts that ``to_text`` wrote.

    Raises:
        Unacceptable: the text is something else.
    """
    rows = parse_json(text)
    if not isinstance(rows, list):
        raise Unacceptable("it is not a list of facts")
    return [_fact(row) for row in rows]


def read(path: Path) -> list[Fact]:
    """Read a stored fingerprint.

    Raises:
        ManifestError: it does not exist or cannot be understood.
        Unreadable: the system cannot read it now.
    """
    try:
        with readable(path):
            text = read_text(path, SIZE_LIMIT)
        return from_text(text)
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from error
    except Unacceptable as error:
        raise ManifestError(f"{path} cannot be read: {error}") from error


def of_checkpoint(checkpoint: Path) -> list[Fact]:
    """The facts stored in a checkpoint directory.

    Raises:
        NoValidCheckpoint: they do not exist or cannot be understood.
    """
    try:
        return read(checkpoint / FILE_NAME)
    except ManifestError as error:
        raise NoValidCheckpoint(str(error)) from error


def records_steps(facts: Sequence[Fact]) -> bool:
    """Whether the facts describe what a step does; those of an older program do not."""
    return any(fact.kind == STEP for fact in facts)


def _fact(row: Any) -> Fact:
    if not isinstance(row, list) or len(row) != len(dataclasses.fields(Fact)):
        raise Unacceptable(f"{shown(row)} is not a fact")
    kind, where, attribute, value, keys, file = row
    texts = isinstance(keys, list) and all(isinstance(text, str) for text in (where, attribute, file, *keys))
    if kind not in KINDS or not texts or isinstance(value, dict):
        raise Unacceptable(f"{shown(row)} is not a fact")
    return Fact(kind, where, attribute, value, tuple(keys), file)
