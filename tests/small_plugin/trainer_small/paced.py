"""The embedded digits, slowly."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.config.contracts import Split
from trainer.config.schema.sources import DigitsConfig
from trainer.data.sources.digits import DigitsSplit

Numbers = npt.NDArray[np.int64]
CONFIG = DigitsConfig("digits", None, None, None, None, "fail")


class PacedSplit:
    """A split of the digits that takes its time."""

    def __init__(self, seconds: float, split: Split) -> None:
        self._digits = DigitsSplit(CONFIG, split)
        self._seconds = seconds
        self._one_reader = threading.Lock()

    def read(self, records: Numbers) -> tuple[list[bytes], Numbers]:
        with self._one_reader:
            time.sleep(self._seconds * len(records))
        return self._digits.read(records)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._digits, name)
