"""Every transform and the mixing of a batch: what they do, against other implementations, and their pinned values."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from composing import compose
from PIL import Image, ImageEnhance, ImageOps
from processes import NARROW

from trainer.config.complete import complete, with_leaves
from trainer.config.schema import Config
from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.batches import training_batches
from trainer.data.images import operations, policies
from trainer.data.images.draw import Draw
from trainer.data.images.mixing import mixed, mixing_of
from trainer.data.images.policies import CHOICES
from trainer.data.images.transforms import COLOR_ORDERINGS, TRANSFORMS
from trainer.data.images.windows import random_window
from trainer.data.sources.source import open_source
from trainer.fingerprint.behaviour import mixing_facts
from trainer.training.losses import correct, objective

PILLOW = Image.fromarray(np.random.Generator(np.random.PCG64(0)).integers(30, 220, (6, 8, 3), np.uint8)).resize(
    (50, 40), Image.Resampling.BICUBIC
)
PIXELS = np.asarray(PILLOW)
IMAGE = tf.constant(PIXELS)


@functools.cache
def preprocess(**changes: object) -> PreprocessConfig:
    """The preprocessing of the paper, in which most images are erased."""
    wanted = {f"preprocess.{name.replace('__', '.')}": value for name, value in changes.items()}
    paper = ("experiment=inception_v3_paper", "data=tfrecord", "data.root=x", "data.num_classes=2")
    return with_leaves(compose(*paper, "preprocess.random_erasing.probability=0.75"), wanted).preprocess


def draw(example: int, seed: int = 0) -> Draw:
    return Draw(seed, tf.constant(example, tf.int64))


@functools.cache
def compiled(name: str, seed: int, config: PreprocessConfig) -> Callable[[tf.Tensor], tf.Tensor]:
    return tf.function(lambda example: TRANSFORMS[name](IMAGE, config, Draw(seed, example)), autograph=False)


def apply(name: str, example: int, seed: int = 0, config: PreprocessConfig | None = None) -> np.ndarray:
    function = compiled(name, seed, preprocess() if config is None else config)
    return np.asarray(function(tf.constant(example, tf.int64)))


GOLDEN: dict[str, tuple[list[float], list[float]]] = {
    # transform: (mean, red at a third of the diagonal), of the image above as examples 0, 1, 2 and 3
    "random_area_crop": ([129.4313, 137.4138, 145.8156, 127.25], [82.0, 119.0, 127.0, 105.0]),
    "central_crop": ([130.2643, 130.2643, 130.2643, 130.2643], [113.0, 113.0, 113.0, 113.0]),
    "resize": ([0.5015932, 0.5015932, 0.5015932, 0.5015932], [0.4330907, 0.4330907, 0.4330907, 0.4330907]),
    "horizontal_flip": ([127.9062, 127.9062, 127.9062, 127.9062], [106.0, 159.0, 159.0, 106.0]),
    "vertical_flip": ([127.9062, 127.9062, 127.9062, 127.9062], [161.0, 106.0, 161.0, 106.0]),
    "color_jitter": ([0.6421031, 0.6298675, 0.4909548, 0.470895], [0.6237108, 0.5588428, 0.3590353, 0.3571377]),
    "rand_augment": ([136.9855, 129.257, 132.08, 206.0972], [143.0, 128.0, 80.0, 191.0]),
    "trivial_augment": ([144.2925, 127.9062, 127.9062, 127.73], [119.0, 106.0, 106.0, 98.0]),
    "random_erasing": ([87.29833, 127.9062, 113.1438, 106.577], [106.0, 106.0, 106.0, 106.0]),
    "normalize": (
        [0.003185671, 0.003185671, 0.003185671, 0.003185671],
        [-0.1686274, -0.1686274, -0.1686274, -0.1686274],
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_values_of_a_transform_are_pinned(name: str) -> None:
    """A change here is a breaking change: stored runs would no longer resume exactly."""
    results = [apply(name, example) for example in range(4)]
    means, reds = GOLDEN[name]
    np.testing.assert_allclose([result.mean(dtype=np.float64) for result in results], means, rtol=1e-5)
    found = [result[result.shape[0] // 3, result.shape[1] // 3, 0] for result in results]
    np.testing.assert_allclose(found, reds, atol=1e-5)


RANDOM = set(TRANSFORMS) - {"central_crop", "resize", "normalize"}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_is_decided_by_seed_and_example(name: str) -> None:
    assert all((apply(name, example) == apply(name, example)).all() for example in range(4))
    for seed in (0, 1):
        assert (len({apply(name, example, seed).tobytes() for example in range(12)}) > 1) == (name in RANDOM)
    differing = sum((apply(name, example, 0).tobytes() != apply(name, example, 1).tobytes()) for example in range(12))
    assert (differing > 0) == (name in RANDOM)


def test_every_draw_has_numbers_of_its_own() -> None:
    """Longer draws than one block of Philox, of neighbouring examples: none reaches into the next."""
    drawn = [draw(example, seed).uniform(purpose, 40) for seed in (0, 1) for example in range(8) for purpose in "ab"]
    values = np.concatenate([numbers.numpy() for numbers in drawn])
    assert ((values >= 0) & (values < 1)).all()
    assert len(set(values.tolist())) > len(values) - 3  # 24 bits: a pair may be equal by chance


def test_random_windows_have_the_area_and_shape_that_are_asked_for() -> None:
    for height, width in ((375, 500), (500, 375), (40, 1000), (1, 1), (1, 30)):
        numbers = [draw(example).uniform("window", 4) for example in range(60)]
        windows = np.array([random_window(tf.constant([height, width]), 0.1, 1.0, 4 / 3, each) for each in numbers])
        top, left, lines, columns = windows.T
        assert (windows[:, :2] >= 0).all()
        assert (windows[:, 2:] >= 1).all()
        assert (top + lines <= height).all()
        assert (left + columns <= width).all()
        if height * width > 40_000:
            assert (np.abs(np.log(columns / lines)) < np.log(4 / 3) + 0.02).all()
            share = lines * columns / height / width
            assert share.min() >= 0.095
            assert share.min() < 0.2
            assert share.max() > 0.7
            assert (top == 0).sum() < 10


def test_the_central_crop_is_tensorflows() -> None:
    for fraction in (0.875, 0.5, 1.0, 0.01):
        found = apply("central_crop", 0, config=preprocess(central_crop__fraction=fraction))
        assert (found == tf.image.central_crop(IMAGE, fraction).numpy()).all()


def test_flips_mirror_half_of_the_images() -> None:
    for name, axis in (("horizontal_flip", 1), ("vertical_flip", 0)):
        results = [apply(name, example) for example in range(60)]
        mirrored = [(result == np.flip(PIXELS, axis)).all() for result in results]
        assert all(flipped or (result == PIXELS).all() for flipped, result in zip(mirrored, results, strict=True))
        assert 18 <= sum(mirrored) <= 42  # three standard deviations


def test_normalisation_is_that_of_each_channel() -> None:
    config = preprocess(normalize__mean=(0.1, 0.2, 0.3), normalize__std=(1.0, 2.0, 3.0))
    expected = (PIXELS / 255 - [0.1, 0.2, 0.3]) / [1.0, 2.0, 3.0]
    np.testing.assert_allclose(apply("normalize", 0, config=config), expected, atol=1e-6)


def test_colour_is_changed_in_each_of_slims_orderings() -> None:
    config = preprocess(color_jitter__hue=0.2, color_jitter__contrast=0.5)
    jitter = config.color_jitter
    found = set()
    for example in range(16):
        numbers = draw(example).uniform("color_jitter", 5).numpy()
        shift = 2.0 * numbers - 1.0
        changes: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
            "brightness": functools.partial(tf.image.adjust_brightness, delta=shift[0] * jitter.brightness),
            "contrast": functools.partial(tf.image.adjust_contrast, contrast_factor=1 + shift[1] * jitter.contrast),
            "saturation": functools.partial(
                tf.image.adjust_saturation, saturation_factor=1 + shift[2] * jitter.saturation
            ),
            "hue": functools.partial(tf.image.adjust_hue, delta=shift[3] * jitter.hue),
        }
        ordering = COLOR_ORDERINGS[int(numbers[4] * 4)]
        expected = tf.image.convert_image_dtype(IMAGE, tf.float32)
        for name in ordering:
            expected = changes[name](expected)
        result = apply("color_jitter", example, config=config)
        np.testing.assert_allclose(result, np.clip(expected.numpy(), 0, 1), atol=1e-5)
        found.add(ordering)
    assert found == set(COLOR_ORDERINGS)


def test_erasing_sets_a_rectangle_to_zero_in_its_share_of_the_images() -> None:
    erased = 0
    for example in range(60):
        result = apply("random_erasing", example, config=preprocess(random_erasing__probability=0.5))
        holes = (result == 0).all(-1)
        assert (result[~holes] == PIXELS[~holes]).all()
        if holes.any():
            lines, columns = np.flatnonzero(holes.any(1)), np.flatnonzero(holes.any(0))
            assert holes.sum() == (np.ptp(lines) + 1) * (np.ptp(columns) + 1)
            assert 0.015 < holes.mean() < 0.34
            erased += 1
    assert 18 <= erased <= 42
    assert (apply("random_erasing", 0, config=preprocess(random_erasing__probability=0.0)) == PIXELS).all()


GREY = (128, 128, 128)


def affine(a: float, b: float, c: float, d: float, e: float, f: float) -> Image.Image:
    return PILLOW.transform(PILLOW.size, Image.Transform.AFFINE, (a, b, c, d, e, f), fillcolor=GREY)


OPERATIONS: dict[str, tuple[tuple[float, ...], Callable[[float], Image.Image]]] = {
    # operation: (strengths, what Pillow does)
    "identity": ((0.0,), lambda strength: PILLOW),
    "auto_contrast": ((0.0,), lambda strength: ImageOps.autocontrast(PILLOW)),
    "equalize": ((0.0,), lambda strength: ImageOps.equalize(PILLOW)),
    "rotate": ((90.0, -14.0, 33.0), lambda strength: PILLOW.rotate(strength, fillcolor=GREY)),
    "solarize": ((0.0, 1.0, 100.0, 256.0), lambda strength: ImageOps.solarize(PILLOW, 256 - int(strength))),
    "color": ((-0.9, 0.0, 0.5), lambda strength: ImageEnhance.Color(PILLOW).enhance(1 + strength)),
    "posterize": ((0.0, 1.0, 4.0, 6.0), lambda strength: ImageOps.posterize(PILLOW, 8 - int(strength))),
    "contrast": ((-0.9, 0.0, 0.5), lambda strength: ImageEnhance.Contrast(PILLOW).enhance(1 + strength)),
    "brightness": ((-0.9, 0.0, 0.5), lambda strength: ImageEnhance.Brightness(PILLOW).enhance(1 + strength)),
    "sharpness": ((-0.9, 0.0, 0.5), lambda strength: ImageEnhance.Sharpness(PILLOW).enhance(1 + strength)),
    "shear_x": ((-0.9, 0.3), lambda strength: affine(1, strength, 0, 0, 1, 0)),
    "shear_y": ((-0.9, 0.3), lambda strength: affine(1, 0, 0, strength, 1, 0)),
    "translate_x": ((-0.5, 0.13), lambda strength: affine(1, 0, round(strength * 50), 0, 1, 0)),
    "translate_y": ((-0.5, 0.13), lambda strength: affine(1, 0, 0, 0, 1, round(strength * 40))),
}


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.operation.__name__)
def test_an_image_operation_does_what_pillow_does(choice: policies.Choice) -> None:
    strengths, by_pillow = OPERATIONS[choice.operation.__name__]
    for strength in strengths:
        found = choice.operation(IMAGE, tf.constant(strength)).numpy()
        differing = (found != np.asarray(by_pillow(strength))).any(-1).mean()
        # Pillow turns with fixed-point numbers: a pixel between two others may fall to either
        assert differing <= (0.01 if choice.operation is operations.rotate else 0.0), strength


def test_rand_augment_applies_every_operation_with_the_magnitude_that_is_set() -> None:
    """One layer is one operation at its strength of either sign; several are one after the other."""
    for magnitude in (10.0, 3.0):
        config = preprocess(rand_augment__magnitude=magnitude, rand_augment__num_layers=1)
        candidates = {
            choice.operation(IMAGE, tf.constant(sign * choice.rand_augment * magnitude / 10)).numpy().tobytes()
            for choice in CHOICES
            for sign in ((-1.0, 1.0) if choice.signed else (1.0,))
        }
        found = {apply("rand_augment", example, config=config).tobytes() for example in range(250)}
        assert found == candidates
    both = preprocess(rand_augment__num_layers=2)
    numbers = draw(5).uniform("rand_augment", 4).numpy()
    expected = IMAGE
    for which, sign in numbers.reshape(2, 2):
        choice = CHOICES[int(which * len(CHOICES))]
        strength = choice.rand_augment * both.rand_augment.magnitude / 10
        expected = choice.operation(expected, tf.constant(-strength if choice.signed and sign < 0.5 else strength))
    assert (apply("rand_augment", 5, config=both) == expected.numpy()).all()


def test_trivial_augment_draws_strengths_up_to_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    strengths: list[float] = []

    def noted(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
        strengths.append(float(strength))
        return image

    monkeypatch.setattr(policies, "CHOICES", (policies.Choice(noted, 0.0, 1.0, True),))
    for example in range(300):
        TRANSFORMS["trivial_augment"](IMAGE, preprocess(), draw(example))
    steps = np.round(np.abs(strengths) * 30, 4)
    assert set(steps) == set(range(31))
    assert 110 < sum(strength < 0 for strength in strengths) < 190


# mixing


def config_with(mixing: str, *arguments: str) -> Config:
    composed = compose(*NARROW, f"mixing={mixing}", "train.steps=1", "schedule.warmup_steps=0", *arguments)
    return complete(composed, 40, 10)


def mixed_batch(config: Config, position: int = 0) -> dict[str, np.ndarray]:
    """The batch as the network gets it, and beside it the images before."""
    batch = next(iter(training_batches(open_source(config.data, "train"), config, position, 1)))
    return {name: np.asarray(value) for name, value in {**mixed(batch), "before": batch["image"]}.items()}


PARTNERS = [1, 0, 3, 2, 5, 4, 7, 6]


def test_mixup_blends_neighbours_and_their_labels_by_one_share() -> None:
    batch = mixed_batch(config_with("mixup"))
    weight = batch["label_weight"]
    assert (weight[0::2] == weight[1::2]).all()
    assert len(set(weight.tolist())) == 4
    own = weight.reshape(8, 1, 1, 1)
    expected = own * batch["before"] + (1 - own) * batch["before"][PARTNERS]
    np.testing.assert_allclose(batch["image"], expected, atol=1e-6)
    assert (batch["partner_label"] == batch["label"][PARTNERS]).all()


def test_cutmix_exchanges_one_box_and_weighs_labels_by_its_area() -> None:
    batch = mixed_batch(config_with("cutmix"))
    before = batch["before"]
    for row, partner in enumerate(PARTNERS):
        foreign = (batch["image"][row] == before[partner]).all(-1) & (before[row] != before[partner]).any(-1)
        lines, columns = np.flatnonzero(foreign.any(1)), np.flatnonzero(foreign.any(0))
        box = np.zeros((75, 75), bool)
        box[lines[0] : lines[-1] + 1, columns[0] : columns[-1] + 1] = True
        assert (batch["image"][row][~box] == before[row][~box]).all()
        assert (batch["image"][row][box] == before[partner][box]).all()
        # where both images are equally black the box cannot be seen: never smaller than what is
        assert 1 - box.mean() >= batch["label_weight"][row] - 1e-6
        assert 1 - box.mean() - batch["label_weight"][row] < 0.3


def test_both_kinds_of_mixing_and_none_come_in_their_shares() -> None:
    config = config_with("mixup_cutmix", "mixing.probability=0.75", "mixing.cutmix_probability=0.4")
    of_position = tf.function(lambda position: mixing_of(position, config)["mixing"], autograph=False)
    drawn = np.array([of_position(tf.constant(2 * pair, tf.int64)) for pair in range(200)])
    unmixed, boxed = drawn[:, 0] == 1, drawn[:, 0] == 0
    assert 32 <= unmixed.sum() <= 68  # 50, three standard deviations
    assert 40 <= boxed.sum() <= 80  # 60
    blended = drawn[~unmixed & ~boxed]
    assert (blended[:, 1:] == [0, 0, 75, 75]).all()
    area = (drawn[boxed, 3] - drawn[boxed, 1]) * (drawn[boxed, 4] - drawn[boxed, 2]) / 75**2
    assert area.min() < 0.1
    assert area.max() > 0.6


def test_a_batch_is_mixed_the_same_however_it_is_divided() -> None:
    config = config_with("mixup_cutmix")
    whole = mixed_batch(config, 8)
    batch = next(iter(training_batches(open_source(config.data, "train"), config, 8, 1)))
    halves = [mixed({name: values[rows] for name, values in batch.items()}) for rows in (slice(0, 4), slice(4, 8))]
    smaller = with_leaves(config, {"train.global_batch_size": 2})
    pairs = itertools.islice(training_batches(open_source(config.data, "train"), smaller, 8, 1), 4)
    parts = [mixed(pair) for pair in pairs]
    for name in ("image", "label", "partner_label", "label_weight"):
        assert (whole[name] == np.concatenate([half[name] for half in halves])).all(), name
        assert (whole[name] == np.concatenate([part[name] for part in parts])).all(), name


GOLDEN_WEIGHTS = {
    "mixup": [0.3182775, 0.6646213, 0.9999999, 0.01971042],
    "cutmix": [0.6712888, 0.7301333, 0.9984, 0.7376],
    "mixup_cutmix": [0.4689805, 0.4195764, 0.9940076, 0.7376],
}


@pytest.mark.parametrize("name", ["mixup", "cutmix", "mixup_cutmix"])
def test_the_draws_of_mixing_are_pinned(name: str) -> None:
    """A change here is a breaking change: stored runs would no longer resume exactly."""
    np.testing.assert_allclose(mixed_batch(config_with(name))["label_weight"][::2], GOLDEN_WEIGHTS[name], atol=1e-6)
    facts = [fact.attribute for fact in mixing_facts(config_with(name))]
    assert facts == ["images", "label weights", "partners", "kept", "box"]
    assert mixing_facts(config_with("none")) == []


def test_the_loss_of_mixed_examples_is_that_of_both_labels_by_weight() -> None:
    logits = tf.constant(np.random.Generator(np.random.PCG64(3)).normal(size=(4, 10)).astype(np.float32))
    labels, partners = tf.constant([1, 2, 3, 4], tf.int64), tf.constant([2, 1, 4, 3], tf.int64)
    weight = tf.constant([0.7, 0.7, 0.2, 1.0])
    config = with_leaves(config_with("mixup"), {"model.weight_decay": 0.0})
    part = {"label": labels, "partner_label": partners, "label_weight": weight}

    def each(rows: int, wanted: tf.Tensor) -> float:
        own = {"label": wanted[rows : rows + 1]}
        return float(objective({"logits": logits[rows : rows + 1]}, own, [], config))

    expected = np.mean([weight[i] * each(i, labels) + (1 - weight[i]) * each(i, partners) for i in range(4)])
    np.testing.assert_allclose(objective({"logits": logits}, part, [], config), expected, rtol=1e-6)
    certain = tf.one_hot([1, 1, 4, 3], 10)  # the label of more weight: 1, 2, 4, 4
    assert correct(certain, part).numpy().tolist() == [True, False, True, False]
