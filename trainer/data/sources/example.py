"""Image and label of a ``tf.train.Example``, the record of TFRecord files and of tensorflow-datasets."""

from __future__ import annotations

import dataclasses
import functools
import unicodedata
from collections.abc import Callable

from google.protobuf.message import DecodeError
from tensorflow.core.example.example_pb2 import Example

from trainer.data.sources.class_names import labels_by_text
from trainer.errors import BadRecord, Nearest, brief

NAMES_SHOWN = 8
VALUES_OF = {"bytes_list": "bytes", "int64_list": "an integer"}


@dataclasses.dataclass(frozen=True)
class ExampleReader:
    """Where an example holds its image and label. ``label_offset`` is the stored label of the first class, None where
    the data itself says that it is 0. ``names`` are the classes where a label may also be the name of its class, as a
    text; None where names are unknown.
    """

    image_key: str
    label_key: str
    label_offset: int | None
    num_classes: int
    names: tuple[str, ...] | None

    def read(self, data: bytes, place: Callable[[], str]) -> tuple[bytes, int]:
        """The encoded image and the label, in [0, num_classes), of a serialized example.

        Raises:
            BadRecord: it is not an example, lacks a feature, or has a label out of range; begins with ``place()``.
        """
        try:
            example = Example.FromString(data)
        except DecodeError as error:
            raise BadRecord(f"{place()} is not a tf.train.Example: {error}") from error
        image = self._value(place, example, "image_key", self.image_key, "bytes_list")
        assert isinstance(image, bytes)
        if not image:
            raise BadRecord(f"{place()} has an empty image in {self.image_key}")
        if self.names is not None and self._is_text(example, self.label_key):
            return image, self._named(place, self._value(place, example, "label_key", self.label_key, "bytes_list"))
        stored = self._value(place, example, "label_key", self.label_key, "int64_list")
        assert isinstance(stored, int)
        first = self.label_offset or 0
        if not first <= stored < first + self.num_classes:
            offset = "" if self.label_offset is None else f" with data.label_offset={first}"
            raise BadRecord(
                f"{place()} has label {stored}, but {self.num_classes} classes{offset} are labels {first} to "
                f"{first + self.num_classes - 1}"
            )
        return image, stored - first

    @staticmethod
    def _is_text(example: Example, name: str) -> bool:
        features = example.features.feature
        return name in features and features[name].WhichOneof("kind") == "bytes_list"  # [] would add what is missing

    def _named(self, place: Callable[[], str], text: object) -> int:
        """The label of the class with this name."""
        assert isinstance(text, bytes)
        name = unicodedata.normalize("NFC", text.decode("utf-8", "backslashreplace").strip())
        if name not in self._labels:
            raise BadRecord(
                f"{place()} has label {brief(name) or '(no text)'}, which is not a name in data.labels_file"
                f"{self._nearest.to(name)}"
            )
        return self._labels[name]

    @functools.cached_property
    def _nearest(self) -> Nearest:
        return Nearest(self._labels)

    @functools.cached_property
    def _labels(self) -> dict[str, int]:
        return labels_by_text(self.names or ())

    def _value(self, place: Callable[[], str], example: Example, key: str, name: str, kind: str) -> object:
        """The only value of a feature."""
        features = example.features.feature
        if name not in features:
            there = sorted(features)
            listed = ", ".join(there[:NAMES_SHOWN]) + (", …" if len(there) > NAMES_SHOWN else "")
            raise BadRecord(f"{place()} has no feature {name} (data.{key}); it has {listed or 'none'}")
        values = getattr(features[name], kind).value
        if len(values) != 1:
            found = features[name].WhichOneof("kind") or "nothing"
            is_name = kind == "int64_list" and found == "bytes_list" and self.label_offset is not None
            raise BadRecord(
                f"{place()} must have one value ({VALUES_OF[kind]}) in feature {name} (data.{key}), "
                f"but has {len(values)} (it holds {found})"
                + ("\nif these are names of classes, list them in data.labels_file" if is_name else "")
            )
        return values[0]
