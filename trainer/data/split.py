"""The two parts of every data set."""

from __future__ import annotations

from typing import Literal

Split = Literal["train", "validation"]
