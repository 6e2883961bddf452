"""Facts about what preprocessing and the order of examples do, found by doing it to a few probes.

The code is run, not read: an edit of a transform, or an image library that decodes otherwise, changes a digest even
though the configuration is the same.
"""

from __future__ import annotations

import hashlib

import numpy as np
import tensorflow as tf

from trainer.config.schema import Config
from trainer.data.order import records_at
from trainer.data.source import Source
from trainer.data.transforms import TRANSFORMS, Draw
from trainer.fingerprint.facts import Fact

TRANSFORMS_FILE = "trainer/data/transforms.py"
PROBE_SHAPES = ((61, 97), (120, 80))  # one wide, one high, no side a multiple of the other
PROBE_EXAMPLE = 12_345
ORDER_PROBES = 8
CONTENT_PROBES = 16
FAR_POSITION = 10**9


def preprocessing_facts(config: Config) -> list[Fact]:
    """A digest and the mean of every probe image after each stage, in training and in evaluation."""
    facts = []
    draw = Draw(config.seed, tf.constant(PROBE_EXAMPLE, tf.int64))
    for split, names in (("train", config.preprocess.train), ("eval", config.preprocess.eval)):
        keys = ("preprocess", "seed") if split == "train" else ("preprocess",)
        for number, encoded in enumerate(_probes()):
            image = encoded
            for index, name in enumerate(names):
                image = TRANSFORMS[name](image, config.preprocess, draw)
                where = f"preprocess.{split}[{index}] {name}"
                facts.append(Fact("behaviour", where, f"probe {number}", _summary(image), keys, TRANSFORMS_FILE))
    return facts


def _summary(image: tf.Tensor) -> str:
    values = image.numpy()
    digest = hashlib.sha256(values.tobytes()).hexdigest()[:16]
    return f"{list(values.shape)} mean {values.mean(dtype=np.float64):.6g} digest {digest}"


def _probes() -> list[tf.Tensor]:
    """Encoded images that every source could hold: smooth colour gradients with an edge, as PNG and as JPEG."""
    probes = []
    for (height, width), encode in zip(PROBE_SHAPES, (tf.io.encode_png, tf.io.encode_jpeg), strict=True):
        row, column = np.mgrid[0:height, 0:width]
        channels = [row * 255 // height, column * 255 // width, np.where(row > column, 220, 40)]
        probes.append(encode(tf.constant(np.stack(channels, -1).astype(np.uint8))))
    return probes


def order_facts(config: Config, count: int) -> list[Fact]:
    """The records at the first positions and at far ones."""
    facts = []
    for start in (0, FAR_POSITION):
        records = records_at(np.arange(start, start + ORDER_PROBES, dtype=np.int64), count, config.seed)
        attribute = f"records at positions from {start}"
        keys = ("seed", "data")
        facts.append(Fact("behaviour", "order of examples", attribute, records.tolist(), keys, "trainer/data/order.py"))
    return facts


def data_facts(source: Source, split: str) -> list[Fact]:
    """Count, class names in order, a digest of records spread over the whole split, and one of the list of records."""
    chosen = np.unique(np.linspace(0, source.count - 1, CONTENT_PROBES).astype(np.int64))
    images, labels = source.read(chosen)
    content = hashlib.sha256()
    for image, label in zip(images, labels, strict=True):
        content.update(len(image).to_bytes(8, "little") + image + int(label).to_bytes(8, "little"))
    where, digest = f"data split {split}", source.listing
    classes = [
        Fact("data", "classes", f"class {index}", name, ("data",), "the data")
        for index, name in enumerate(source.class_names)
    ]
    listing = [Fact("data", where, "listing digest", digest, ("data",), "the data")] if digest is not None else []
    return [
        *(classes if split == "train" else []),
        Fact("data", where, "count", source.count, (f"data.{split}_examples",), "the data"),
        Fact("data", where, "content digest", content.hexdigest()[:16], ("data",), "the data"),
        *listing,
    ]
