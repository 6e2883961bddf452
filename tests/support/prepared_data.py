"""A small data set prepared by tensorflow-datasets, without the network."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from image_data import composed, jpeg, png

from trainer.config.arguments import parse_arguments
from trainer.config.override import override
from trainer.data.sources.source import Source, open_source

CLASSES = ("cat", "dog", "ox")


class TinyPets(tfds.core.GeneratorBasedBuilder):
    """30 images for training and 12 for testing, PNG and JPEG by turns."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=CLASSES),
                "name": tfds.features.Text(),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, manager: Any) -> Any:
        return {"train": self._generate_examples(0, 30), "test": self._generate_examples(100, 12)}

    def _generate_examples(self, start: int, count: int) -> Any:
        for number in range(start, start + count):
            yield number, {"image": io.BytesIO(encoded(number)), "label": number % 3, "name": f"pet {number}"}


def encoded(number: int) -> bytes:
    return png(number) if number % 2 else jpeg(number)


def prepare(data_dir: Path, file_format: str = "array_record") -> Path:
    """Prepare the data set below ``data_dir``; the directory of its version."""
    builder = TinyPets(data_dir=str(data_dir), file_format=file_format)
    builder.download_and_prepare()
    return Path(builder.data_dir)


class TinyShapes(tfds.core.GeneratorBasedBuilder):
    """The images and labels that it is given, in their order, and the same for testing."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, images: Sequence[bytes], labels: Sequence[int], names: Sequence[str], **how: Any) -> None:
        self._images, self._labels, self._names = images, labels, names
        super().__init__(**how)

    def _info(self) -> Any:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=list(self._names)),
            "name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, manager: Any) -> Any:
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self) -> Any:
        for number, (image, label) in enumerate(zip(self._images, self._labels, strict=True)):
            yield number, {"image": io.BytesIO(image), "label": label, "name": f"shape {number}"}


def prepare_images(
    data_dir: Path,
    images: Sequence[bytes],
    labels: Sequence[int] | None = None,
    names: Sequence[str] = CLASSES,
    file_format: str = "array_record",
) -> Path:
    """Prepare these images as the data set ``tiny_shapes``; the directory of its version. Without ``labels``, every
    third has the same of three.
    """
    chosen = [number % 3 for number in range(len(images))] if labels is None else labels
    builder = TinyShapes(images, chosen, names, data_dir=str(data_dir), file_format=file_format)
    builder.download_and_prepare()
    return Path(builder.data_dir)


def shapes_source(data_dir: object, split: Any = "train", *overrides: str) -> Source:
    """What ``prepare_images`` has prepared."""
    return tfds_source(data_dir, split, "data.dataset=tiny_shapes", *overrides)


def tfds_source(data_dir: object, split: Any = "train", *overrides: str) -> Source:
    values = {"data.root": str(data_dir), "data.validation_split": "test", **parse_arguments(overrides)}
    return open_source(override(composed("data=tfds", "data.dataset=tiny_pets"), values).data, split)
