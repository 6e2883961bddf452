"""Images to measure with: textures with the spectrum of photographs, as JPEG files and as TFRecord shards."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

IMAGES, CLASSES, SHARDS = 1024, 4, 4
WIDTH, HEIGHT, QUALITY = 500, 375, 90
VALIDATED = 32


def write_images(place: Path) -> None:
    """``files/class_N/NNNNN.jpg``, of class N = number modulo ``CLASSES``; the same in ``train-*``, and the
    first of them in ``validation-00000``. The amplitude is ~ 1/frequency.
    """
    generator = np.random.Generator(np.random.PCG64(0))
    rows, columns = np.fft.fftfreq(HEIGHT)[:, None], np.fft.fftfreq(WIDTH)[None]
    spectrum = 1.0 / np.maximum(np.hypot(rows, columns), 1.0 / WIDTH)
    writers = [tf.io.TFRecordWriter(str(place / f"train-{shard:05d}")) for shard in range(SHARDS)]
    with tf.io.TFRecordWriter(str(place / "validation-00000")) as validation:
        for number in range(IMAGES):
            label = number % CLASSES
            noise = generator.standard_normal((3, HEIGHT, WIDTH))
            pixels = np.fft.ifft2(np.fft.fft2(noise) * spectrum).real
            pixels = 128 + 50 * (pixels - pixels.mean()) / pixels.std()
            file = place / "files" / f"class_{label}" / f"{number:05d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
            image.save(file, quality=QUALITY)
            features = {
                "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[file.read_bytes()])),
                "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            record = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
            writers[number % SHARDS].write(record)
            if number < VALIDATED:
                validation.write(record)
    for writer in writers:
        writer.close()
    sizes = [path.stat().st_size for path in (place / "files").rglob("*.jpg")]
    print(f"{IMAGES} images of {statistics.mean(sizes) / 1000:.0f} kB")


def camera_photographs(place: Path, count: int, width: int, height: int) -> None:
    """``train/class_N/NNNNN.jpg`` and as many in ``val``, of two classes, as cameras write them: large, with colour at
    half the resolution. A texture is drawn small and enlarged, and noise of the sensor is added.
    """
    generator = np.random.Generator(np.random.PCG64(1))
    noise = generator.normal(0.0, 6.0, (height, width, 1)).astype(np.float32)
    for split, number in itertools.product(("train", "val"), range(count)):
        texture = Image.fromarray(generator.integers(0, 256, (height // 40, width // 40, 3), np.uint8))
        pixels = np.asarray(texture.resize((width, height), Image.Resampling.BICUBIC)) + np.roll(noise, number * 997)
        file = place / split / f"class_{number % 2}" / f"{number:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=QUALITY)
