"""Transforms from an encoded image to the network's input, each a pure function of (image, config, draw).

The first is ``decode``; after it an image is ``[height, width, 3]``, uint8 or float32 in 0..1. Random transforms take
their numbers from ``draw``, so the result is decided by (seed, example number, transform) alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from trainer.config.registry import builder_of
from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.decoding import EncodedImage, cut, decode_window, whole_window
from trainer.data.images.draw import Draw
from trainer.data.images.policies import rand_augment, trivial_augment
from trainer.data.images.windows import WINDOWS, random_window

Transform = Callable[[tf.Tensor, PreprocessConfig, Draw], tf.Tensor]

# TF-Slim research/slim/preprocessing/inception_preprocessing.py, distort_color
COLOR_ORDERINGS = (
    ("brightness", "saturation", "hue", "contrast"),
    ("saturation", "brightness", "contrast", "hue"),
    ("contrast", "hue", "brightness", "saturation"),
    ("hue", "saturation", "contrast", "brightness"),
)


def network_input(encoded: EncodedImage, names: Sequence[str], config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    """Run the named transforms in order; the result is float32 ``[image_size, image_size, 3]``."""
    image = _as_float(apply_transforms(encoded, names, config, draw))
    return tf.ensure_shape(image, [config.image_size, config.image_size, 3])


def apply_transforms(encoded: EncodedImage, names: Sequence[str], config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    """The image after the named transforms; the first one is decode.

    One of ``TRANSFORMS`` gets the image, the section ``preprocess`` and the draw. The builder of any other gets its
    keys, the image float32 ``[height, width, 3]``, the side to which it was resized before (None: not yet), and the
    draw.

    Where a crop follows decode, only its window is decoded: the same pixels at a lower cost. With
    ``preprocess.decode=shrunk``, what resize gets next is decoded as small as resize allows.
    """
    first, *rest = names
    assert first == "decode", "check() requires it"
    window = whole_window(encoded)
    if rest and rest[0] in WINDOWS:
        window = WINDOWS[rest.pop(0)](encoded.size, config, draw)
    shrinks = config.decode == "shrunk" and rest[:1] == ["resize"]
    image = decode_window(encoded, window, config, config.image_size if shrinks else None)
    for place, name in enumerate(rest):
        if name in TRANSFORMS:
            image = TRANSFORMS[name](image, config, draw)
        else:
            size = config.image_size if "resize" in rest[:place] else None
            keys = config.plugins[name]
            image = builder_of(keys)(keys, _as_float(image), size, draw)
    return image


def _as_float(image: tf.Tensor) -> tf.Tensor:
    return tf.image.convert_image_dtype(image, tf.float32)


def crop(name: str) -> Transform:
    """The transform that keeps the window of that name."""

    def transform(image: tf.Tensor, config: PreprocessConfig, draw: Draw) -> tf.Tensor:
        return cut(image, WINDOWS[name](tf.shape(image)[:2], config, draw))

    return transform


def resize(image: tf.Tensor, config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    size = [config.image_size, config.image_size]
    return tf.image.resize(_as_float(image), size, config.resize.method, antialias=config.resize.antialias)


def flip(name: str, axis: int) -> Transform:
    """The transform of that name, which mirrors every other image along ``axis``."""

    def transform(image: tf.Tensor, config: PreprocessConfig, draw: Draw) -> tf.Tensor:
        mirrored = draw.uniform(name, 1)[0] < 0.5
        return tf.cond(mirrored, lambda: tf.reverse(image, [axis]), lambda: image)

    return transform


def color_jitter(image: tf.Tensor, config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    """Change brightness, saturation, hue and contrast in one of slim's four orderings; clipped to 0..1 at the end.

    A change without a range is left out. Contrast is stretched around the mean of each channel.
    """
    jitter, numbers = config.color_jitter, draw.uniform("color_jitter", 5)
    symmetric = 2.0 * numbers - 1.0
    changes: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {}
    if jitter.brightness:
        changes["brightness"] = lambda pixels: pixels + symmetric[0] * jitter.brightness
    if jitter.contrast:
        changes["contrast"] = lambda pixels: tf.image.adjust_contrast(pixels, 1.0 + symmetric[1] * jitter.contrast)
    if jitter.saturation:
        changes["saturation"] = lambda pixels: tf.image.adjust_saturation(
            pixels, 1.0 + symmetric[2] * jitter.saturation
        )
    if jitter.hue:
        changes["hue"] = lambda pixels: tf.image.adjust_hue(pixels, symmetric[3] * jitter.hue)
    pixels = _as_float(image)

    def changed(ordering: Sequence[str]) -> tf.Tensor:
        result = pixels
        for name in ordering:
            result = changes[name](result)
        return result

    # without the changes left out, some orderings are the same; each that remains is equally likely
    orderings = list(dict.fromkeys(tuple(name for name in each if name in changes) for each in COLOR_ORDERINGS))
    chosen = tf.cast(numbers[4] * len(orderings), tf.int32)
    pixels = tf.switch_case(chosen, [lambda each=names: changed(each) for names in orderings])
    return tf.clip_by_value(pixels, 0.0, 1.0)


def random_erasing(image: tf.Tensor, config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    """Set a random part to zero (arXiv 1708.04896): after normalize that is the mean colour, before it black."""
    erasing, numbers = config.random_erasing, draw.uniform("random_erasing", 5)

    def erased() -> tf.Tensor:
        size = tf.shape(image)[:2]
        window = random_window(size, erasing.min_area, erasing.max_area, erasing.max_aspect, numbers[1:])
        top, left, lines, columns = tf.unstack(window)
        band = image[top : top + lines]
        hole = tf.zeros([lines, columns, 3], image.dtype)
        band = tf.concat([band[:, :left], hole, band[:, left + columns :]], 1)
        return tf.concat([image[:top], band, image[top + lines :]], 0)

    return tf.cond(numbers[0] < erasing.probability, erased, lambda: image)


def normalize(image: tf.Tensor, config: PreprocessConfig, draw: Draw) -> tf.Tensor:
    """(image - mean) / std, for some networks with blue first. Computed with one number if the channels share it,
    otherwise in whole rows: broadcasting along three channels takes ten times as long.
    """
    pixels, mean, std = _as_float(image), config.normalize.mean, config.normalize.std
    if config.normalize.channels == "bgr":
        pixels, mean, std = pixels[..., ::-1], mean[::-1], std[::-1]
    if len(set(mean)) == len(set(std)) == 1:
        return (pixels - mean[0]) / std[0]
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    row_mean, row_std = (tf.tile(tf.constant(values), [width]) for values in (mean, std))
    rows = tf.reshape(pixels, [height, width * 3])
    return tf.reshape((rows - row_mean) / row_std, [height, width, 3])


# every transform but decode, which takes no image
TRANSFORMS: dict[str, Transform] = {
    "random_area_crop": crop("random_area_crop"),
    "central_crop": crop("central_crop"),
    "resize": resize,
    "horizontal_flip": flip("horizontal_flip", 1),
    "vertical_flip": flip("vertical_flip", 0),
    "color_jitter": color_jitter,
    "rand_augment": rand_augment,
    "trivial_augment": trivial_augment,
    "random_erasing": random_erasing,
    "normalize": normalize,
}
