"""The same images written for every source of stored images, and opened: what they promise is tried on each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from composing import compose
from image_data import CLASSES, example, folder_source, jpeg, shard_source, write, write_shard
from parquet_files import parquet_source, write_table
from tar_shards import tar_source, write_samples

from trainer.config.arguments import parse_arguments
from trainer.config.contracts import Split
from trainer.config.override import override
from trainer.data.sources.source import Source, open_source

COUNT = 60
IMAGES = [jpeg(number) for number in range(COUNT)]


class Kind(NamedTuple):
    """Writes training images with labels of three classes, and opens them. ``record`` is the number of the image that
    was written as a number, because folders are sorted by class.
    """

    write: Callable[[Path, Sequence[bytes]], object]
    source: Callable[..., Source]
    record: Callable[[int], int]


def as_folder(root: Path, images: Sequence[bytes]) -> None:
    for split in ("train", "val"):
        for number, image in enumerate(images):
            write(root / split / CLASSES[number % 3] / f"{number:03d}.jpg", image)


def as_table(root: Path, images: Sequence[bytes]) -> None:
    rows = ["path,label,split\n"]
    for split in ("train", "validation"):
        for number, image in enumerate(images):
            write(root / split / f"{number:03d}.jpg", image)
            rows.append(f"{split}/{number:03d}.jpg,{CLASSES[number % 3]},{split}\n")
    write(root / "labels.csv", "".join(rows).encode())


def table(root: object, split: Split = "train", *overrides: str) -> Source:
    values = {"data.file": f"{root}/labels.csv", **parse_arguments(overrides)}
    config = compose("data=table", "data.file=x.csv", "data.split_column=split")
    return open_source(override(config, values).data, split)


def as_tfrecord(root: Path, images: Sequence[bytes]) -> None:
    for split in ("train", "validation"):
        write_shard(root / f"{split}-0", [example(image, number % 3) for number, image in enumerate(images)])


def as_tar(root: Path, images: Sequence[bytes]) -> None:
    for split in ("train", "val"):
        samples = [{"__key__": f"{number:03d}", "jpg": image, "cls": number % 3} for number, image in enumerate(images)]
        write_samples(root / f"{split}-0.tar", samples)


def as_parquet(root: Path, images: Sequence[bytes]) -> None:
    for split in ("train", "validation"):
        labels = [number % 3 for number in range(len(images))]
        how = {"compression": "none", "use_dictionary": False}
        write_table(root / f"{split}-0.parquet", list(images), labels, **how)


def parquet(root: Any, split: str = "train", *overrides: str) -> Source:
    return parquet_source(root, split, "data.num_classes=3", *overrides)


KINDS = {
    "image_folder": Kind(as_folder, folder_source, lambda number: number % 3 * (COUNT // 3) + number // 3),
    "table": Kind(as_table, table, lambda number: number),
    "tfrecord": Kind(as_tfrecord, shard_source, lambda number: number),
    "webdataset": Kind(as_tar, tar_source, lambda number: number),
    "parquet": Kind(as_parquet, parquet, lambda number: number),
}
