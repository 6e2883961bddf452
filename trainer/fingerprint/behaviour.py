"""Facts about the behaviour of preprocessing and of the order of examples, found by running them on a few probes.

The code is run, not read. An edited transform, or an image library that decodes differently, changes a digest even when
the configuration is the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.config import plugins, registry
from trainer.config.schema import Config
from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.decoding import JPEG, RATIOS, EncodedImage, decode_window, encoded_image
from trainer.data.images.draw import Draw
from trainer.data.images.mixing import mixed, mixing_of
from trainer.data.images.pixels import rules_of
from trainer.data.images.transforms import TRANSFORMS, apply_transforms
from trainer.data.order.sampling import Sampling
from trainer.data.sources.source import Source
from trainer.errors import BadRecord
from trainer.fingerprint.facts import MIXING, STEP, Fact

TRANSFORMS_FILE = "trainer/data/images/transforms.py"
# where the other transforms are
FILES = {
    "decode": "trainer/data/images/decoding.py",
    "random_area_crop": "trainer/data/images/windows.py",
    "central_crop": "trainer/data/images/windows.py",
    "rand_augment": "trainer/data/images/policies.py",
    "trivial_augment": "trainer/data/images/policies.py",
}
LISTING = "listing digest"
MIXING_FILE = "trainer/data/images/mixing.py"
PROBE_SHAPES = ((61, 97), (120, 80))  # one wide, one high, no side a multiple of the other
PROBE_EXAMPLE = 12_345
MIXING_PROBES = 4
# a JPEG segment to insert after the first two bytes; its only entry is orientation 6, a quarter turn to the right
EXIF_ROTATED = bytes.fromhex("ffe10022 457869660000 49492a0008000000 0100 1201 0300 01000000 06000000 00000000")
ORDER_PROBES = 8
CONTENT_PROBES = 16
FAR_POSITION = 10**9


def preprocessing_facts(config: Config) -> list[Fact]:
    """A digest and the mean of every probe image after each stage, in training and in evaluation."""
    facts = []
    draw = Draw(config.seed, tf.constant(PROBE_EXAMPLE, tf.int64))
    probes = _probes(config.preprocess)
    shrunk = _shrunk(probes, config.preprocess) if config.preprocess.decode == "shrunk" else {}
    for split, names in (("train", config.preprocess.train), ("eval", config.preprocess.eval)):
        keys = ("preprocess", "seed") if split == "train" else ("preprocess",)
        for number, encoded in enumerate(probes):
            for index, name in enumerate(names):
                # all stages up to this one, run together as in training, where a crop is fused into decode
                image = apply_transforms(encoded, names[: index + 1], config.preprocess, draw)
                where = f"preprocess.{split}[{index}] {name}"
                facts.append(Fact("behaviour", where, f"probe {number}", _summary(image), keys, _file(name)))
        where = f"preprocess.{split}[0] decode"
        facts += [
            Fact("behaviour", where, f"probe at 1/{ratio}", value, ("preprocess.decode",), FILES["decode"])
            for ratio, value in shrunk.items()
        ]
    return facts


def _shrunk(probes: Sequence[EncodedImage], config: PreprocessConfig) -> dict[int, str]:
    """A window of the rotated JPEG among the probes, decoded at each ratio."""
    (probe,) = [encoded for encoded in probes if encoded.decoder == JPEG]
    window = tf.concat([[3, 5], probe.size - 9], 0)
    side = int(tf.reduce_min(window[2:]))
    return {ratio: _summary(decode_window(probe, window, config, side // ratio)) for ratio in RATIOS}


def _file(name: str) -> str:
    """The file to look at for a transform of that name."""
    if name in FILES:
        return FILES[name]
    if name in TRANSFORMS:
        return TRANSFORMS_FILE
    keys = registry.keys_of(plugins.TRANSFORMS, name) if name in registry.own_names(plugins.TRANSFORMS) else None
    if keys is not None:
        module = registry.builder_place(keys).partition(":")[0]
        return f"{module.replace('.', '/')}.py"
    return plugins.title(plugins.TRANSFORMS, name)


def _summary(image: tf.Tensor) -> str:
    values = image.numpy()
    digest = hashlib.sha256(values.tobytes()).hexdigest()[:16]
    return f"{list(values.shape)} mean {values.mean(dtype=np.float64):.6g} digest {digest}"


def mixing_facts(config: Config) -> list[Fact]:
    """Two probe pairs after mixing, the weights of their labels, and what was drawn for them; empty without mixing."""
    positions = range(PROBE_EXAMPLE // 4 * 4, PROBE_EXAMPLE // 4 * 4 + MIXING_PROBES)
    drawn = [mixing_of(tf.constant(position, tf.int64), config) for position in positions]
    if not drawn[0]:
        return []
    size = config.preprocess.image_size
    ramps = [np.linspace(-1.0, 1.0, size * size * 3, dtype=np.float32) ** (1 + probe) for probe in range(MIXING_PROBES)]
    batch = {
        "image": tf.constant(np.stack(ramps).reshape(MIXING_PROBES, size, size, 3)),
        "label": tf.range(MIXING_PROBES, dtype=tf.int64),
        "mixing": tf.stack([each["mixing"] for each in drawn]),
    }
    result = mixed(batch)
    values = {
        "images": _summary(result["image"]),
        "label weights": [f"{weight:.6g}" for weight in result["label_weight"].numpy()],
        "partners": result["partner_label"].numpy().tolist(),
    }
    shares, *corners = tf.unstack(batch["mixing"], axis=1)
    drawn_numbers = {"kept": shares, "box": tf.stack(corners, axis=1)}
    keys = ("mixing", "seed", "preprocess.image_size")
    return [
        *(Fact("behaviour", MIXING, name, value, keys, MIXING_FILE) for name, value in values.items()),
        *(
            Fact(STEP, MIXING, name, tf.reshape(numbers, [-1]).numpy().tolist(), keys, MIXING_FILE)
            for name, numbers in drawn_numbers.items()
        ),
    ]


def _probes(config: PreprocessConfig) -> list[EncodedImage]:
    """Images that any source could hold: smooth colour gradients with an edge, as PNG and as rotated JPEG; and one of
    16 bits with alpha where the configuration says what becomes of these.
    """
    wide, high = (_gradients(height, width) for height, width in PROBE_SHAPES)
    jpeg = bytes(tf.io.encode_jpeg(high).numpy())
    files = [bytes(tf.io.encode_png(wide).numpy()), jpeg[:2] + EXIF_ROTATED + jpeg[2:]]
    if not rules_of(config).change_nothing:
        files.append(bytes(tf.io.encode_png(_sixteen_bits(wide)).numpy()))
    return [encoded_image(file, config) for file in files]


def _sixteen_bits(image: tf.Tensor) -> tf.Tensor:
    """``image`` with 16 bits a channel, none of whose values is a multiple of 257, and alpha from 0 to 65535."""
    colour = tf.cast(image, tf.int32) * 255 + 99
    alpha = tf.linspace(tf.zeros(image.shape[0]), tf.fill([image.shape[0]], 65535.0), image.shape[1], axis=1)
    return tf.cast(tf.concat([colour, tf.cast(alpha, tf.int32)[..., tf.newaxis]], -1), tf.uint16)


def _gradients(height: int, width: int) -> tf.Tensor:
    row, column = np.mgrid[0:height, 0:width]
    channels = [row * 255 // height, column * 255 // width, np.where(row > column, 220, 40)]
    return tf.constant(np.stack(channels, -1).astype(np.uint8))


def order_facts(sampling: Sampling) -> list[Fact]:
    """The records at the first positions and at distant ones."""
    facts = []
    for start in (0, FAR_POSITION):
        records = sampling.records_at(np.arange(start, start + ORDER_PROBES, dtype=np.int64))
        attribute = f"records at positions from {start}"
        keys = ("seed", "data")
        facts.append(
            Fact(
                "behaviour", "order of examples", attribute, records.tolist(), keys, "trainer/data/order/permutation.py"
            )
        )
    return facts


def _contents(source: Source, records: npt.NDArray[np.int64]) -> list[bytes]:
    """Size, image and label of each record; for an unusable record only the fact that it is unusable."""
    try:
        images, labels = source.read(records)
    except BadRecord:
        if not source.skip_bad:
            raise
        if len(records) == 1:
            return [b"bad"]
        return [content for record in records for content in _contents(source, np.array([record]))]
    pairs = zip(images, labels, strict=True)
    return [len(image).to_bytes(8, "little") + image + int(label).to_bytes(8, "little") for image, label in pairs]


def data_facts(source: Source, split: str) -> list[Fact]:
    """Count, class names in order, a digest of records spread over the whole split, a digest of the record list."""
    chosen = np.unique(np.linspace(0, source.count - 1, CONTENT_PROBES).astype(np.int64))
    content = hashlib.sha256()
    for part in _contents(source, chosen):
        content.update(part)
    where, digest = _place_of(split), source.listing
    classes = [
        Fact("data", "classes", f"class {index}", name, ("data",), "the data")
        for index, name in enumerate(source.class_names)
    ]
    listing = [Fact("data", where, LISTING, digest, ("data",), "the data")] if digest is not None else []
    return [
        *(classes if split == "train" else []),
        Fact("data", where, "count", source.count, (f"data.{split}_examples",), "the data"),
        Fact("data", where, "content digest", content.hexdigest()[:16], ("data",), "the data"),
        *listing,
    ]


def listing_in(facts: Sequence[Fact], split: str) -> str | None:
    """The digest of the record list of ``split`` among ``facts``; None when there is none."""
    found = (fact.value for fact in facts if (fact.where, fact.attribute) == (_place_of(split), LISTING))
    return next(found, None)


def _place_of(split: str) -> str:
    return f"data split {split}"
