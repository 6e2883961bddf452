"""Small tar shards as webdataset writes them, and the sources that read them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import webdataset
from image_data import composed, jpeg, png

from trainer.config.arguments import parse_arguments
from trainer.config.override import override
from trainer.data.sources.source import Source, open_source


def image(number: int) -> dict[str, bytes]:
    """The image of a sample, PNG and JPEG by turns, under its ending."""
    return {"png": png(number)} if number % 2 else {"jpg": jpeg(number)}


def write_samples(path: Path, samples: Iterable[dict[str, Any]], **how: Any) -> Path:
    """A shard by webdataset's own writer, with the time of writing in fractions of seconds, as it does by itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path), **how) as writer:
        for sample in samples:
            writer.write(sample)
    return path


def numbered(start: int, count: int) -> list[dict[str, Any]]:
    return [{"__key__": f"{n:06d}", "cls": n % 3, **image(n)} for n in range(start, start + count)]


def make_tars(root: Path, train: int = 6, validation: int = 3) -> Path:
    """Two shards for training and one for validation; every third record has the same of three labels."""
    for name, count, start in (
        ("train-000000.tar", train, 0),
        ("train-000001.tar", train, train),
        ("val-000000.tar", validation, 900),
    ):
        write_samples(root / name, numbered(start, count))
    return root


def plain_tar(path: Path, members: Iterable[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def tar_source(root: object, split: Any = "train", *overrides: str) -> Source:
    values = {"data.root": str(root), **parse_arguments(overrides)}
    if "data.labels_file" in values:
        values["data.num_classes"] = None
    return open_source(override(composed("data=webdataset", "data.root=x", "data.num_classes=3"), values).data, split)
