"""The checksum of records in TFRecord and event files, and of values in checkpoints."""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np

CRC_MASK = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h


def masked_crc32c(data: bytes | np.ndarray[Any, Any]) -> int:
    """The CRC-32C of ``data``, rotated and shifted as in TFRecord files. An array is one of bytes that is read-only."""
    return masked(google_crc32c.value(data))


def masked(crc: int) -> int:
    """A CRC-32C, rotated and shifted as it is stored."""
    return ((crc >> 15 | crc << 17) + CRC_MASK) & 0xFFFFFFFF
