"""A small data set prepared by tensorflow-datasets, without the network."""

from __future__ import annotations

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
        import io

        for number in range(start, start + count):
            yield number, {"image": io.BytesIO(encoded(number)), "label": number % 3, "name": f"pet {number}"}


def encoded(number: int) -> bytes:
    return png(number) if number % 2 else jpeg(number)


def prepare(data_dir: Path, file_format: str = "array_record") -> Path:
    """Prepare the data set below ``data_dir``; the directory of its version."""
    builder = TinyPets(data_dir=str(data_dir), file_format=file_format)
    builder.download_and_prepare()
    return Path(builder.data_dir)


def tfds_source(data_dir: object, split: Any = "train", *overrides: str) -> Source:
    values = {"data.root": str(data_dir), "data.validation_split": "test", **parse_arguments(overrides)}
    return open_source(override(composed("data=tfds", "data.dataset=tiny_pets"), values).data, split)
