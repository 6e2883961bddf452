"""The input pipeline against the best plain ``tf.data`` pipeline, Keras and Grain, on 500x375 JPEG files.

All do the same: random order, decode, random area crop, resize to 299x299, mirror, scale to [-1, 1], batches of 32.
Keras's loader neither crops nor mirrors, so it decodes and resizes whole images, and does less afterwards.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bench_sources
import grain
import keras
import numpy as np
import tensorflow as tf
from absl import flags
from interleaved import Contender, Row, measured, publish, rates, row
from photographs import CLASSES, HEIGHT, IMAGES, WIDTH, write_images
from PIL import Image

from trainer.config.complete import complete
from trainer.config.compose import compose
from trainer.config.schema import Config
from trainer.data.batches import training_batches
from trainer.data.images.decoding import DCT_METHOD
from trainer.data.images.windows import random_window
from trainer.data.sources.source import Source, open_source
from trainer.data.sources.tfrecord import index_records

SIZE, BATCH = 299, 32
WARM_BATCHES, BLOCK_BATCHES, ROUNDS = 8, 24, 7
THREADS = 2
MIN_AREA, MAX_ASPECT = 0.05, 4 / 3
FAR_POSITION = 10**9
INDEXED_RECORDS = 1_280_000
PLAIN = "tf.data, TFRecord (sequential, shuffle buffer)"
TRANSFORMS = "[decode,random_area_crop,resize,horizontal_flip,normalize]"


def main() -> None:
    flags.FLAGS.mark_as_parsed()  # Grain reads absl's flags, and expects that the program has parsed them
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        write_images(place)
        rows = [*_throughput(place), *bench_sources.rows(place), *_first_batch(place), *_index(place)]
    publish("input", f"{WIDTH}x{HEIGHT} JPEG -> {SIZE}x{SIZE}, batches of {BATCH}", rows)


def _throughput(place: Path) -> list[Row]:
    """Every block opens its pipeline anew: an open one would fill its buffers while others are measured."""
    grain_loader = itertools.chain.from_iterable(_grain(place) for _ in itertools.count())
    opened: dict[str, Callable[[], Iterator[Any]]] = {
        "ours, TFRecord": lambda: iter(_ours(place, "tfrecord")(0)),
        "ours, files": lambda: iter(_ours(place, "image_folder")(0)),
        PLAIN: lambda: iter(_plain_records(place)),
        "tf.data, files": lambda: iter(_plain_files(place)),
        "keras.utils.image_dataset_from_directory": lambda: iter(_keras(place)),
        # its worker processes take seconds to start and keep few batches, so this one stays open
        "Grain DataLoader, files": lambda: grain_loader,
    }

    def block(name: str) -> tuple[float, float]:
        pipeline = opened[name]()

        def take(count: int) -> None:
            for _ in range(count):
                next(pipeline)

        take(WARM_BATCHES)
        return measured(lambda: take(BLOCK_BATCHES))

    contenders = [Contender(name, functools.partial(block, name), BLOCK_BATCHES * BATCH) for name in opened]
    return rates(contenders, PLAIN, ROUNDS, "images")


def _config(place: Path, name: str) -> Config:
    root = {
        "tfrecord": [f"data.root={place}", f"data.num_classes={CLASSES}"],
        "image_folder": [f"data.root={place / 'files'}"],
    }
    config = compose(
        [
            "experiment=images",
            f"data={name}",
            *root[name],
            f"preprocess.train={TRANSFORMS}",
            f"preprocess.random_area_crop.min_area={MIN_AREA}",
            f"preprocess.random_area_crop.max_aspect={MAX_ASPECT}",
            f"preprocess.image_size={SIZE}",
            f"train.global_batch_size={BATCH}",
            f"runtime.threads={THREADS}",
        ]
    )
    return complete(config, IMAGES, CLASSES)


def _ours(place: Path, name: str) -> Callable[[int], Any]:
    config = _config(place, name)
    source: Source = open_source(config.data, "train")
    return lambda position: training_batches(source, config, position, 1)


def _augment(encoded: tf.Tensor) -> tf.Tensor:
    """What an expert writes who does not need to resume: stateful draws, the crop fused into the decoder."""
    size = tf.image.extract_jpeg_shape(encoded)[:2]
    window = random_window(size, MIN_AREA, 1.0, MAX_ASPECT, tf.random.uniform([4]))
    image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3, dct_method=DCT_METHOD)
    image = tf.image.resize(image, [SIZE, SIZE])
    return tf.image.random_flip_left_right(image) / 127.5 - 1.0


def _plain_records(place: Path) -> tf.data.Dataset:
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    }

    def prepare(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_single_example(record, features)
        return _augment(example["image/encoded"]), example["image/class/label"]

    shards = sorted(str(path) for path in place.glob("train-*"))
    records = (
        tf.data.Dataset.from_tensor_slices(shards)
        .shuffle(len(shards))
        .interleave(
            tf.data.TFRecordDataset, cycle_length=len(shards), num_parallel_calls=tf.data.AUTOTUNE, deterministic=False
        )
    )
    return (
        records.shuffle(IMAGES)
        .repeat()
        .map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
        .batch(BATCH, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def _plain_files(place: Path) -> tf.data.Dataset:
    files = sorted((place / "files").rglob("*.jpg"))
    paths, labels = [str(file) for file in files], [int(file.parent.name[-1]) for file in files]
    return (
        tf.data.Dataset.from_tensor_slices((paths, labels))
        .shuffle(IMAGES)
        .repeat()
        .map(
            lambda path, label: (_augment(tf.io.read_file(path)), label),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=False,
        )
        .batch(BATCH, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def _keras(place: Path) -> tf.data.Dataset:
    loaded = keras.utils.image_dataset_from_directory(
        str(place / "files"), image_size=(SIZE, SIZE), batch_size=BATCH, verbose=False
    )
    scaled = loaded.map(lambda images, labels: (images / 127.5 - 1.0, labels), num_parallel_calls=tf.data.AUTOTUNE)
    return scaled.repeat().prefetch(tf.data.AUTOTUNE)


class _Files:
    """Grain's random access source of (bytes, label)."""

    def __init__(self, place: Path) -> None:
        self._files = sorted((place / "files").rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Path, int]:
        file = self._files[index]
        return file, int(file.parent.name[-1])


class _Prepare(grain.transforms.RandomMap):
    """The same augmentation with Pillow, whose JPEG decoder and resampling are native code."""

    def random_map(self, element: tuple[Path, int], rng: np.random.Generator) -> dict[str, Any]:
        file, label = element
        image = Image.open(file)
        aspect = MAX_ASPECT ** rng.uniform(-1.0, 1.0)
        fitting = min(image.height * aspect / image.width, image.width / (image.height * aspect), 1.0)
        area = rng.uniform(MIN_AREA, fitting) * image.width * image.height
        width = min(image.width, max(1, round((area * aspect) ** 0.5)))
        height = min(image.height, max(1, round((area / aspect) ** 0.5)))
        left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
        box = (left, top, left + width, top + height)
        pixels = np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box))
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        return {"image": pixels.astype(np.float32) / 127.5 - 1.0, "label": label}


def _grain(place: Path) -> Iterator[Any]:
    source = _Files(place)
    sampler = grain.samplers.IndexSampler(len(source), shuffle=True, seed=0, num_epochs=1000)
    operations = [_Prepare(), grain.transforms.Batch(BATCH, drop_remainder=True)]
    return iter(grain.DataLoader(data_source=source, sampler=sampler, operations=operations, worker_count=THREADS))


def _first_batch(place: Path) -> list[Row]:
    """Time to open a pipeline and take its first batch, at the beginning and at a far position, in alternation."""
    opened = _ours(place, "tfrecord")
    seconds: dict[int, list[float]] = {0: [], FAR_POSITION: []}
    for _ in range(ROUNDS):
        for position, values in seconds.items():
            before = time.perf_counter()
            next(iter(opened(position)))
            values.append(time.perf_counter() - before)
    return [
        row(f"first batch at position {position:,}", values, "s", seconds[0]) for position, values in seconds.items()
    ]


def _index(place: Path) -> list[Row]:
    """Time and memory to index as many records as ImageNet has, in one file of empty records."""
    file = place / "many"
    with tf.io.TFRecordWriter(str(file)) as writer:
        for _ in range(INDEXED_RECORDS):
            writer.write(b"")
    before = time.perf_counter()
    assert len(index_records(file)) == INDEXED_RECORDS + 1  # with the end of the last one
    seconds = time.perf_counter() - before
    tracemalloc.start()  # not while time is measured: it slows every allocation
    index_records(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return [
        Row(f"index of {INDEXED_RECORDS:,} records: time", seconds, seconds, seconds, "s", None),
        Row(
            f"index of {INDEXED_RECORDS:,} records: peak memory", peak / 2**20, peak / 2**20, peak / 2**20, "MiB", None
        ),
    ]
