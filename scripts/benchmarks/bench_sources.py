"""Every source of stored images beside TFRecord files, in turns: the same images, decoded to 299x299.

The other formats are written by the programs that people write them with: webdataset, and Hugging Face's datasets.
Their images are compressed already, so compression by Parquet only costs time; it is measured because it is common.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import webdataset
from interleaved import Contender, Row, measured, publish, rates, row
from photographs import CLASSES, HEIGHT, IMAGES, SHARDS, VALIDATED, WIDTH, write_images

from trainer.config.complete import complete
from trainer.config.compose import compose
from trainer.config.schema import Config
from trainer.data.batches import training_batches
from trainer.data.sources.source import Source, open_source

SIZE, BATCH = 299, 32
WARM_BATCHES, BLOCK_BATCHES, ROUNDS, READ_BATCHES = 8, 24, 7, 60
BASELINE = "TFRecord"
SMALL_GROUP = 8  # images, about a megabyte
KEYS = {
    BASELINE: ("data=tfrecord", f"data.num_classes={CLASSES}"),
    "files": ("data=image_folder",),
    "tar shards": ("data=webdataset", f"data.num_classes={CLASSES}"),
    "Parquet, by datasets": ("data=parquet",),
    f"Parquet, compressed, row groups of {SMALL_GROUP}": ("data=parquet", "data.cache_megabytes=10"),
}


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        write_images(place)
        publish("sources", f"{WIDTH}x{HEIGHT} JPEG -> {SIZE}x{SIZE}, batches of {BATCH}", rows(place))


def rows(place: Path) -> list[Row]:
    """``place`` has the images of ``write_images``."""
    _write_others(place)
    roots = dict(zip(KEYS, (place, place / "files", place / "tar", place / "parquet", place / "packed"), strict=True))
    configs = {name: _config(root, KEYS[name]) for name, root in roots.items()}
    sources = {name: open_source(config.data, "train") for name, config in configs.items()}

    def block(name: str) -> tuple[float, float]:
        pipeline = iter(training_batches(sources[name], configs[name], 0, 1))

        def take(count: int) -> None:
            for _ in range(count):
                next(pipeline)

        take(WARM_BATCHES)
        return measured(lambda: take(BLOCK_BATCHES))

    contenders = [Contender(name, functools.partial(block, name), BLOCK_BATCHES * BATCH) for name in sources]
    return [*rates(contenders, BASELINE, ROUNDS, "images"), *_reading(sources)]


def _reading(sources: Mapping[str, Source]) -> list[Row]:
    """The CPU time that an image takes before it is decoded: batches of random records are read in turns."""
    generator = np.random.Generator(np.random.PCG64(0))
    spent: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(READ_BATCHES):
        for name, source in sources.items():
            records = generator.integers(source.count, size=BATCH)
            before = time.process_time()
            source.read(records)
            spent[name].append(1e6 * (time.process_time() - before) / BATCH)
    return [row(f"{name}: reading alone, CPU", each, "µs/image", spent[BASELINE]) for name, each in spent.items()]


def _config(root: Path, keys: tuple[str, ...]) -> Config:
    overrides = (f"data.root={root}", f"preprocess.image_size={SIZE}", f"train.global_batch_size={BATCH}")
    return complete(compose(["experiment=images", *keys, *overrides]), IMAGES, CLASSES)


def _write_others(place: Path) -> None:
    """The images of ``files`` as tar shards, as Parquet, and as Parquet in small compressed row groups."""
    files = sorted((place / "files").rglob("*.jpg"), key=lambda path: path.name)
    parts = [("train", number, files[number::SHARDS]) for number in range(SHARDS)]
    for folder in ("tar", "parquet", "packed"):
        (place / folder).mkdir()
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[f"class_{n}" for n in range(CLASSES)])}
    )
    datasets.disable_progress_bars()
    for split, number, images in [*parts, ("validation", 0, files[:VALIDATED])]:
        labels = [int(image.parent.name[-1]) for image in images]
        with webdataset.TarWriter(str(place / "tar" / f"{split.replace('validation', 'val')}-{number:06d}.tar")) as tar:
            for image, label in zip(images, labels, strict=True):
                tar.write({"__key__": image.stem, "jpg": image.read_bytes(), "cls": label})
        name = f"{split}-{number:05d}.parquet"
        content = {"image": [{"bytes": image.read_bytes(), "path": image.name} for image in images], "label": labels}
        datasets.Dataset.from_dict(content, features=features).to_parquet(str(place / "parquet" / name))
        table = pyarrow.parquet.read_table(place / "parquet" / name)
        pyarrow.parquet.write_table(table, place / "packed" / name, row_group_size=SMALL_GROUP)
