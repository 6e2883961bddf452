"""The checksum of records in TFRecord and event files, and of values in checkpoints."""

from __future__ import annotations

import google_crc32c

CRC_MASK = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h


def masked_crc32c(data: bytes) -> int:
    """The CRC-32C of ``data``, rotated and shifted as in TFRecord files."""
    return masked(google_crc32c.value(data))


def masked(crc: int) -> int:
    """A CRC-32C, rotated and shifted as it is stored."""
    return ((crc >> 15 | crc << 17) + CRC_MASK) & 0xFFFFFFFF
