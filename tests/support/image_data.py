"""Small image folders and TFRecord files, and the sources that read them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from composing import compose

from trainer.config.arguments import parse_arguments
from trainer.config.complete import complete, with_leaves
from trainer.config.override import override
from trainer.config.schema import Config
from trainer.data.sources.source import Source, open_source

CLASSES = ("cat", "dog", "ox")


@functools.cache
def composed(*arguments: str) -> Config:
    return compose(*arguments)


def pixels(number: int) -> tf.Tensor:
    return tf.constant(np.random.Generator(np.random.PCG64(number)).integers(0, 256, (10, 12, 3), np.uint8))


def png(number: int) -> bytes:
    return bytes(tf.io.encode_png(pixels(number)).numpy())


def jpeg(number: int) -> bytes:
    return bytes(tf.io.encode_jpeg(pixels(number)).numpy())


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def make_tree(folder: Path, count: int, classes: Sequence[str] = CLASSES) -> Path:
    """``count`` images a class, PNG and JPEG by turns."""
    for label, name in enumerate(classes):
        for number in range(count):
            content, suffix = (png, "png") if number % 2 else (jpeg, "jpg")
            write(folder / name / f"{number:03d}.{suffix}", content(1000 * label + number))
    return folder


def make_splits(root: Path, train: int = 4, validation: int = 2) -> Path:
    make_tree(root / "train", train)
    make_tree(root / "val", validation)
    return root


def folder_source(root: object, split: Any = "train", *overrides: str) -> Source:
    values = {"data.root": str(root), **parse_arguments(overrides)}
    return open_source(override(composed("data=image_folder", "data.root=x"), values).data, split)


def everything(source: Source) -> tuple[list[bytes], list[int]]:
    images, labels = source.read(np.arange(source.count))
    return images, labels.tolist()


def feature(value: Any) -> tf.train.Feature:
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value] if isinstance(value, int) else value))


def example(image: Any, label: Any, names: tuple[str, str] = ("image/encoded", "image/class/label")) -> bytes:
    features = {name: feature(value) for name, value in zip(names, (image, label), strict=True) if value is not None}
    return bytes(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def write_shard(path: Path, records: Sequence[bytes], compression: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)
    return path


def make_shards(root: Path, train: int = 6, validation: int = 3) -> Path:
    """Two shards for training and one for validation; every third record has the same of three labels."""
    for name, count, start in (
        ("train-00000-of-00002", train, 0),
        ("train-00001-of-00002", train, train),
        ("validation-00000-of-00001", validation, 900),
    ):
        write_shard(root / name, [example(jpeg(n) if n % 2 else png(n), n % 3) for n in range(start, start + count)])
    return root


def shard_source(root: object, split: Any = "train", *overrides: str) -> Source:
    values = {"data.root": str(root), **parse_arguments(overrides)}
    if "data.labels_file" in values:
        values["data.num_classes"] = None
    return open_source(override(composed("data=tfrecord", "data.root=x", "data.num_classes=3"), values).data, split)


def damage(name: str, offset: int, value: int) -> Callable[[Path], object]:
    def apply(root: Path) -> None:
        data = bytearray((root / name).read_bytes())
        data[offset] ^= value
        (root / name).write_bytes(bytes(data))

    return apply


T1 = "train-00001-of-00002"


def narrow(*arguments: str) -> Config:
    config = compose(*arguments, "train.global_batch_size=4", "evaluation.batch_size=4")
    return with_leaves(complete(config, 12, 3), {"runtime.threads": 2})
