"""What decides the instructions that a machine runs: its processor and its kernels' package."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import tensorflow as tf


def digest() -> str:
    """16 hexadecimal digits for TensorFlow's version and the instruction sets of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else platform.processor()
    features = [line for line in text.splitlines() if line.startswith(("flags", "Features", "model name"))][:2]
    return hashlib.sha256("\n".join([tf.__version__, platform.machine(), *features]).encode()).hexdigest()[:16]
