"""What decoders write to stderr, from TensorFlow's threads, about images without their names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from trainer.runtime.quiet import held_back

# libjpeg's, about images that it repairs: JWRN_… in its jerror.h
WARNINGS = re.compile(
    r"Corrupt JPEG data|Premature end of JPEG file|Invalid SOS parameters|Inconsistent progression|"
    r"Unknown Adobe color|Warning: unknown JFIF|Application transferred too"
)
# TensorFlow's, about images that it refuses: an error that names the record says so, too
REFUSALS = r"[EW]\d{4} .* (?:jpeg_mem|jpeg_handle|png_io|gif_io|decode_image_op|decode_webp_op)\.cc:"


@contextmanager
def listening() -> Iterator[list[str]]:
    """Hold back all of this while the block runs; at its end the list has libjpeg's warnings. Other lines come out."""
    warnings: list[str] = []
    with held_back(re.compile(f"{WARNINGS.pattern}|{REFUSALS}")) as held:
        yield warnings
    warnings += [line for line in held if WARNINGS.match(line)]
