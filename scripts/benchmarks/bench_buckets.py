"""TFRecord shards in a bucket whose every answer takes 50 ms longer, beside the same shards on this disk, in turns.

A first epoch begins with nothing: the shards are opened and indexed, and their bytes come from the bucket. A later one
finds them on this disk. The server runs on the same cores.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from interleaved import Contender, measured, publish, rates
from photographs import CLASSES, HEIGHT, IMAGES, WIDTH, write_images

from trainer.config.complete import complete
from trainer.config.compose import compose
from trainer.config.schema import Config
from trainer.data.batches import training_batches
from trainer.data.sources.source import open_source

SIZE, BATCH, ROUNDS, LATENCY = 299, 32, 5, 0.05
FEW_GIGABYTES = 0.04  # about a third of the shards


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        (place / "shards").mkdir()
        write_images(place / "shards")
        shutil.rmtree(place / "shards" / "files")
        with _bucket(place / "shards") as url:
            rows = rates(_contenders(place, url), "this disk, first epoch", ROUNDS, "images")
        title = f"{WIDTH}x{HEIGHT} JPEG -> {SIZE}x{SIZE}, batches of {BATCH}, {1000 * LATENCY:.0f} ms of latency"
        publish("buckets", title, rows)


def _contenders(place: Path, url: str) -> list[Contender]:
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")

    def epoch(config: Config, *, first: bool) -> tuple[float, float]:
        for index in (place / "shards").glob(".trainer-*"):
            index.unlink()
        if first:
            shutil.rmtree(place / "cache", ignore_errors=True)

        def work() -> None:
            batches = iter(training_batches(open_source(config.data, "train"), config, 0, 1))
            for _ in range(IMAGES // BATCH):
                next(batches)

        return measured(work)

    def later(config: Config) -> tuple[float, float]:
        open_source(config.data, "train")  # to index them is to fetch them
        return epoch(config, first=False)

    here, there = _config(str(place / "shards")), _config(url)
    few = _config(url, f"data.disk_cache_gigabytes={FEW_GIGABYTES}")
    return [
        Contender("this disk, first epoch", lambda: epoch(here, first=True), IMAGES),
        Contender("bucket, first epoch", lambda: epoch(there, first=True), IMAGES),
        Contender("bucket, later epoch", lambda: later(there), IMAGES),
        Contender("bucket, a third kept", lambda: epoch(few, first=True), IMAGES),
    ]


def _config(root: str, *keys: str) -> Config:
    overrides = (f"data.root={root}", f"preprocess.image_size={SIZE}", f"train.global_batch_size={BATCH}", *keys)
    return complete(
        compose(["experiment=images", "data=tfrecord", f"data.num_classes={CLASSES}", *overrides]), IMAGES, CLASSES
    )


@contextlib.contextmanager
def _bucket(shards: Path) -> Iterator[str]:
    """The URL of a bucket with the files of ``shards``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    keys = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    os.environ.update({**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"})
    server = str(Path(__file__).with_name("slow_s3.py"))
    with subprocess.Popen(
        [sys.executable, server, str(shards.parent), str(port), str(LATENCY)], stderr=subprocess.DEVNULL
    ) as process:
        try:
            for _ in range(300):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.1)
            yield f"s3://bench/{shards.name}"
        finally:
            process.terminate()
