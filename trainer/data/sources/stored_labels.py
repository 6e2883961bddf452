"""From what a file holds as a label, a number or a text, to the label of a class."""

from __future__ import annotations

import dataclasses
import functools
import json
import unicodedata
from collections.abc import Callable

from trainer.data.sources.class_names import labels_by_text
from trainer.errors import LONGEST_SHOWN, Nearest, brief, nearest, one_line


class NoLabel(Exception):
    """What is stored is no label; says why. ``hint`` makes the end of the message, when it is read: an index meets
    labels by the million, and says nothing of them.
    """

    def __init__(self, reason: str, hint: Callable[[], str] = str) -> None:
        super().__init__(reason)
        self._hint = hint

    def __str__(self) -> str:
        return f"{super().__str__()}{self._hint()}"


@dataclasses.dataclass(frozen=True)
class StoredLabels:
    """``offset`` is the stored label of the first class. ``names`` are the classes where they are known by name."""

    num_classes: int
    offset: int
    names: tuple[str, ...] | None

    def of_number(self, stored: int) -> int:
        """The label, in [0, num_classes).

        Raises:
            NoLabel: it is out of range.
        """
        if not self.offset <= stored < self.offset + self.num_classes:
            offset = f" with data.label_offset={self.offset}" if self.offset else ""
            raise NoLabel(
                f"has label {stored}, but {self.num_classes} classes{offset} are labels {self.offset} to "
                f"{self.offset + self.num_classes - 1}"
            )
        return stored - self.offset

    def of_text(self, data: bytes) -> int:
        """The label that a text means: a whole number, or the name of a class where names are known.

        Raises:
            NoLabel: it is neither, or both with different meanings.
        """
        text = unicodedata.normalize("NFC", data.decode("utf-8", "backslashreplace").removeprefix("\ufeff").strip())
        named = self._labels.get(text)
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
            if named is not None:
                return named
            raise self._not_a_label(text)
        if named is None:
            return self.of_number(int(text))
        if named != int(text) - self.offset:
            raise NoLabel(
                f"has label {text}, which is the number of one class and the name of another in data.labels_file"
            )
        return named

    def of_json(self, data: bytes, field: str | None) -> int:
        """The label in a JSON object's ``field``, or that is the whole JSON value where ``field`` is None.

        Raises:
            NoLabel: it is not JSON, has no such field, or that is not a number or a name.
        """
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise NoLabel(f"has a label that is not JSON: {one_line(str(error))[:LONGEST_SHOWN]}") from error
        if field is not None:
            if not isinstance(value, dict) or field not in value:
                there = sorted(map(str, value)) if isinstance(value, dict) else []
                shown = one_line(", ".join(there)[:LONGEST_SHOWN]) or "none"
                raise NoLabel(
                    f"has no field {field} (data.label_field) in its JSON; it has {shown}{nearest(field, there)}"
                )
            value = value[field]
        if isinstance(value, str):
            return self.of_text(value.encode("utf-8", "surrogatepass"))
        if isinstance(value, int) and not isinstance(value, bool):
            return self.of_number(value)
        where = "" if field is None else f" in its field {field} (data.label_field)"
        set_it = "; set data.label_field to the field that holds it" if isinstance(value, dict) else ""
        raise NoLabel(
            f"must have a whole number or the name of a class as its label{where}, but has {_kind(value)}{set_it}"
        )

    def _not_a_label(self, text: str) -> NoLabel:
        shown = brief(text) or "(no text)"
        if self.names is None:
            return NoLabel(
                f"has label {shown}, which is not a number\nif labels are names of classes, list them in "
                "data.labels_file"
            )
        return NoLabel(f"has label {shown}, which is not a name in data.labels_file", lambda: self._nearest.to(text))

    @functools.cached_property
    def _nearest(self) -> Nearest:
        return Nearest(self.names or ())

    @functools.cached_property
    def _labels(self) -> dict[str, int]:
        return labels_by_text(self.names or ())


def _kind(value: object) -> str:
    if isinstance(value, float):
        return f"the number {value}"
    kinds = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return kinds[type(value)]
