"""Small Parquet files as Hugging Face's datasets and as pyarrow write them, and the sources that read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
from image_data import CLASSES, composed, jpeg, png

from trainer.config.arguments import parse_arguments
from trainer.config.override import override
from trainer.data.sources.source import Source, open_source

datasets.disable_progress_bars()


def encoded(number: int) -> bytes:
    return png(number) if number % 2 else jpeg(number)


def write_by_datasets(path: Path, numbers: Sequence[int], names: Sequence[str] = CLASSES, **how: Any) -> Path:
    """Images and labels by ``Dataset.to_parquet``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    images = [{"bytes": encoded(number), "path": f"{number}.jpg"} for number in numbers]
    content = {"image": images, "label": [number % 3 for number in numbers]}
    datasets.Dataset.from_dict(content, features=features).to_parquet(str(path), **how)
    return path


def make_parquet(root: Path, train: int = 6, validation: int = 3) -> Path:
    """Two files for training and one for validation; every third record has the same of three labels."""
    write_by_datasets(root / "train-00000-of-00002.parquet", range(train))
    write_by_datasets(root / "train-00001-of-00002.parquet", range(train, 2 * train))
    write_by_datasets(root / "validation-00000-of-00001.parquet", range(900, 900 + validation))
    return root


def write_table(path: Path, images: Any, labels: Any, metadata: dict[str, str] | None = None, **how: Any) -> Path:
    """Columns ``image`` and ``label`` by pyarrow alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({"image": images, "label": labels}).replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, path, **how)
    return path


def parquet_source(root: object, split: Any = "train", *overrides: str) -> Source:
    values = {"data.root": str(root), **parse_arguments(overrides)}
    return open_source(override(composed("data=parquet", "data.root=x"), values).data, split)
