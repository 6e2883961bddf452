"""Photographs of 12 megapixels as network input: decoded whole, decoded as small as resize allows, and prepared copies.

All read the same images in the same order, of two class folders or of the shards that ``prepare-data`` made of them:
decode, random area crop as ``experiment=images`` has it, resize to 299x299, mirror, normalize, in batches of 16.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from interleaved import Contender, measured, publish, rates, row
from photographs import camera_photographs

from trainer.__main__ import run
from trainer.config.complete import complete
from trainer.config.compose import compose
from trainer.data.batches import training_batches
from trainer.data.sources.source import open_source

IMAGES, WIDTH, HEIGHT = 64, 4000, 3000
BATCH, BLOCK_BATCHES, ROUNDS = 16, 4, 5
THREADS = 2
WHOLE = "a folder, decode=whole"


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        camera_photographs(place / "files", IMAGES, WIDTH, HEIGHT)
        folder = ("data=image_folder", f"data.root={place / 'files'}")
        began = time.perf_counter()
        status = run(["prepare-data", *folder, f"output={place / 'small'}", "max_side=512", "quality=95"])
        assert status == 0
        seconds = time.perf_counter() - began
        small = ("data=tfrecord", f"data.root={place / 'small'}", "data.labels_file=labels.json")
        opened = {
            WHOLE: _batches(*folder, "preprocess.decode=whole"),
            "a folder, decode=shrunk": _batches(*folder, "preprocess.decode=shrunk"),
            "prepared shards": _batches(*small, "preprocess.decode=shrunk"),
        }
        contenders = [Contender(name, _block(open_one), BATCH * BLOCK_BATCHES) for name, open_one in opened.items()]
        rows = rates(contenders, WHOLE, ROUNDS, "images")
    rows.append(row("prepare-data, once", [2 * IMAGES / seconds], "images/s"))
    publish("photos", f"{WIDTH}x{HEIGHT} JPEG -> 299x299, batches of {BATCH}, {THREADS} threads", rows)


def _batches(*overrides: str) -> Callable[[], Iterator[Any]]:
    sizes = (f"train.global_batch_size={BATCH}", "evaluation.batch_size=16", f"runtime.threads={THREADS}")
    config = compose(["experiment=images", *overrides, *sizes])
    source = open_source(config.data, "train")
    config = complete(config, source.count, len(source.class_names))
    return lambda: iter(training_batches(source, config, 0, 1))


def _block(open_one: Callable[[], Iterator[Any]]) -> Callable[[], tuple[float, float]]:
    """Some batches after a first one, whose cost is that of the start."""

    def block() -> tuple[float, float]:
        batches = open_one()
        next(batches)
        return measured(lambda: list(itertools.islice(batches, BLOCK_BATCHES)))

    return block
