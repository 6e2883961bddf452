"""How many operations a second a GPU can make at best."""

from __future__ import annotations

# Dense 10^12 operations/s of float32 (TF32 where the GPU has it, which TensorFlow uses by itself) and of 16 bits, from
# NVIDIA's data sheets, by a part of the name that TensorFlow reports; the first that fits
PEAKS = {
    "P100": (10.6, 21.2),
    "V100": (15.7, 125.0),
    "T4": (8.1, 65.0),
    "A100": (156.0, 312.0),
    "A10": (62.5, 125.0),
    "L40S": (183.0, 362.0),
    "L4": (60.0, 121.0),
    "H100 PCIe": (378.0, 756.0),
    "H100": (494.7, 989.4),
    "H200": (494.7, 989.4),
}


def peak_flops(device: str, *, sixteen_bits: bool) -> float | None:
    """Floating-point operations a second of one device; None where its data sheet is not in the table."""
    found = next((peaks for part, peaks in PEAKS.items() if part in device), None)
    return None if found is None else 1e12 * found[sixteen_bits]
