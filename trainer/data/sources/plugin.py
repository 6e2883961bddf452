"""Sources from other distributions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from trainer.config.contracts import Split
from trainer.config.plugins import SOURCES, blamed, title
from trainer.config.schema.sources import SourcePlugin
from trainer.data.sources.labels import UNKNOWN
from trainer.errors import NoSuchSplit, UsageError

Numbers = npt.NDArray[np.int64]
T = TypeVar("T")


class PluggedSplit:
    """A split as a plug-in stores it. All its answers are checked, and any error in it names the plug-in."""

    def __init__(self, config: SourcePlugin, split: Split) -> None:
        """Raises ``UsageError`` when it opens something that is not a split."""
        self._name = config.name
        self._split = split
        self._may_skip = config.on_bad_record == "skip"
        self._repeated = False  # whether it has given the same answer twice
        splits = type(config).splits
        if split not in splits:
            raise NoSuchSplit(f"{title(SOURCES, self._name)} has no {split} split, only {' and '.join(splits)}")
        self._stored = self._asked(lambda: config.open(split))
        absent = [name for name in ("read", "labels", "place", "listing", "part") if not hasattr(self._stored, name)]
        if absent:
            self._refuse(f"has no {absent[0]}()")
        self.count = self._asked(lambda: self._stored.count)
        self.class_names = self._asked(lambda: self._stored.class_names)
        if type(self.count) is not int or self.count < 1:
            self._refuse(f"has {self.count!r} records, but must have an int of 1 or more")
        names = self.class_names
        texts = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
        if not texts or len(set(names)) != len(names) or len(names) < 2:
            self._refuse(f"has the classes {names!r}, but must have a tuple of two texts or more, each once")

    def read(self, records: Numbers) -> tuple[list[bytes], Numbers]:
        """
        Raises:
            UsageError: it answers something other than an image and a label for each record.
            BadRecord: as the plug-in raises it.
        """
        answer = self._asked(lambda: self._stored.read(records))
        asked = f"read() of {len(records)} records"
        if not isinstance(answer, tuple) or len(answer) != 2:
            self._refuse(f"answers {asked} with {_kind(answer)}, but must answer with a tuple of images and labels")
        images, labels = answer
        if not isinstance(images, list) or len(images) != len(records):
            self._refuse(
                f"answers {asked} with {_kind(images)} for images, but must answer with a list of {len(records)}"
            )
        for image, record in zip(images, records, strict=True):
            if not isinstance(image, bytes):
                self._refuse(
                    f"answers {asked} with {_kind(image)} for {self.place(int(record))}, but must answer with "
                    "the bytes of an image file"
                )
        self._check_labels(asked, labels, len(records), lowest=0)
        if not self._repeated:
            self._repeated = True
            again = self.read(records)
            if images != again[0] or (labels != again[1]).any():
                self._refuse(
                    f"answers {asked} with other images or labels the second time, so a resumed run could "
                    "not be the same"
                )
        return images, labels

    def labels(self) -> Numbers:
        labels = self._asked(self._stored.labels)
        self._check_labels("labels()", labels, self.count, lowest=UNKNOWN if self._may_skip else 0)
        return labels

    def place(self, record: int) -> str:
        place = self._asked(lambda: self._stored.place(record))
        if not isinstance(place, str):
            self._refuse(f"answers place({record}) with {_kind(place)}, but must answer with a text")
        return place

    def listing(self, records: Numbers) -> str | None:
        listing = self._asked(lambda: self._stored.listing(records))
        if listing is not None and not isinstance(listing, str):
            self._refuse(f"answers listing() with {_kind(listing)}, but must answer with a text or None")
        return listing

    def part(self, records: Numbers, count: int) -> Numbers:
        chosen = self._asked(lambda: self._stored.part(records, count))
        fits = isinstance(chosen, np.ndarray) and chosen.dtype == np.int64 and chosen.shape == (count,)
        if not fits or (np.diff(chosen) <= 0).any() or not np.isin(chosen, records).all():
            self._refuse(
                f"answers part() of {len(records)} records with {_kind(chosen)}, but must answer with int64 [{count}], "
                "that many of them in their order"
            )
        return chosen

    def _check_labels(self, asked: str, labels: object, count: int, lowest: int) -> None:
        if not isinstance(labels, np.ndarray) or labels.dtype != np.int64 or labels.shape != (count,):
            self._refuse(
                f"answers {asked} with {_kind(labels)} for labels, but must answer with an array int64 [{count}]"
            )
        wrong = labels[(labels < lowest) | (labels >= len(self.class_names))]
        if len(wrong):
            self._refuse(f"answers {asked} with a label {wrong[0]}, but has {len(self.class_names)} classes")

    def _asked(self, ask: Callable[[], T]) -> T:
        with blamed(SOURCES, self._name):
            return ask()

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(f"{title(SOURCES, self._name)}, opened for {self._split}, {what}")


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype} {list(value.shape)}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{type(value).__name__} {value!r}"[:100]
