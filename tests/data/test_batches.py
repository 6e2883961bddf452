"""The input pipeline is a pure function of (configuration, position)."""

from __future__ import annotations

import gc
import hashlib
import itertools
import time
import weakref

import numpy as np
import pytest
import tensorflow as tf
from composing import compose

from trainer.config.complete import complete, with_leaves
from trainer.config.schema import Config
from trainer.data.batches import WHOLE, Part, evaluation_batches, training_batches
from trainer.data.images.decoding import encoded_image
from trainer.data.images.draw import Draw
from trainer.data.images.transforms import network_input
from trainer.data.order.ledger import CHAIN_FACTOR, expected_ledger
from trainer.data.order.permutation import records_at
from trainer.data.sources.source import open_source

BATCH = 8
FEATURES = 5
GOLDEN_LABELS = [2, 4, 4, 4, 7, 7, 7, 5]
GOLDEN_DRAWS = "9bc35d6a295d1e67"
GOLDEN_PIXELS = [0.178899, 0.162239, 0.947359, 0.476253, 0.486385, 0.64552, 0.378123, -0.437271]


@pytest.fixture(scope="module")
def config() -> Config:
    composed = compose("data.train_examples=30", "data.validation_examples=21", f"train.global_batch_size={BATCH}")
    return with_leaves(complete(composed, 30, 10), {"runtime.threads": 2, "evaluation.batch_size": 8})


def take(config: Config, position: int, count: int, part: Part = WHOLE) -> list[dict[str, np.ndarray]]:
    batches = training_batches(open_source(config.data, "train"), config, position, FEATURES, part)
    return [{name: value.numpy() for name, value in batch.items()} for batch in itertools.islice(batches, count)]


def test_a_pipeline_opened_at_any_position_continues_bit_for_bit(config: Config) -> None:
    whole = take(config, 0, 6)
    for start in (1, 3, 4):  # 32 = an epoch of 30 and two
        for expected, found in zip(whole[start:], take(config, start * BATCH, 6 - start), strict=True):
            for name in expected:
                assert (expected[name] == found[name]).all(), (start, name)


def test_the_number_of_threads_does_not_change_a_batch(config: Config) -> None:
    one = take(with_leaves(config, {"runtime.threads": 1}), 16, 2)
    four = take(with_leaves(config, {"runtime.threads": 4}), 16, 2)
    assert all((a[name] == b[name]).all() for a, b in zip(one, four, strict=True) for name in a)


def test_an_epoch_has_every_label_as_often_as_the_data(config: Config) -> None:
    source = open_source(config.data, "train")
    _, expected = source.read(np.arange(source.count))
    labels = np.concatenate([batch["label"] for batch in take(config, 0, 15)])  # 4 epochs
    for epoch in range(4):
        assert sorted(labels[epoch * 30 : (epoch + 1) * 30]) == sorted(expected)


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_the_parts_that_workers_read_are_the_whole_batch(workers: int, config: Config) -> None:
    whole = take(config, 24, 2)  # the first of the two crosses into the second epoch
    parts = [take(config, 24, 2, Part(index, workers)) for index in range(workers)]
    for number, expected in enumerate(whole):
        for name, values in expected.items():
            assert (np.concatenate([part[number][name] for part in parts]) == values).all(), name


def test_a_worker_reads_only_its_part(config: Config) -> None:
    source = open_source(config.data, "train")
    asked: list[np.ndarray] = []
    read = source.read
    source.read = lambda records: (asked.append(records), read(records))[1]  # type: ignore[method-assign]
    next(iter(training_batches(source, config, 0, FEATURES, Part(1, 2))))
    assert {len(records) for records in asked} == {BATCH // 2}
    own = records_at(np.arange(BATCH // 2, BATCH), source.count, config.seed)
    assert own.tolist() in [records.tolist() for records in asked]


def test_evaluation_parts_are_the_whole_batch(config: Config) -> None:
    source = open_source(config.data, "validation")
    whole = [batch["image"].numpy() for batch in evaluation_batches(source, config)]
    parts = [evaluation_batches(source, config, Part(index, 2)) for index in range(2)]
    joined = [np.concatenate([left["image"], right["image"]]) for left, right in zip(*parts, strict=True)]
    assert all((a == b).all() for a, b in zip(whole, joined, strict=True))


def test_any_interruptions_and_numbers_of_workers_give_the_ledger_of_every_example_once(config: Config) -> None:
    """Eight epochs in pieces of random length, each read by another number of workers."""
    config = with_leaves(config, {"preprocess.train": ("decode", "resize")})  # a short trace for each of the pipelines
    generator = np.random.Generator(np.random.PCG64(4))
    steps = 30
    whole = take(config, 0, steps)
    done, pieces, seen = 0, 0, []
    while done < steps:
        length, workers = (
            int(generator.integers(1, 11) // 9 + 1),
            int(generator.choice([1, 2, 4, 8], p=[0.5, 0.3, 0.15, 0.05])),
        )
        length = min(length, steps - done)
        parts = [take(config, done * BATCH, length, Part(index, workers)) for index in range(workers)]
        for number in range(length):
            for name, values in whole[done + number].items():
                assert (np.concatenate([part[number][name] for part in parts]) == values).all(), (done, name)
        seen += [np.concatenate([part[number]["ledger"] for part in parts]) for number in range(length)]
        done, pieces = done + length, pieces + 1
    assert pieces >= 20
    ledger = 0
    for entries in seen:
        ledger = (ledger * CHAIN_FACTOR + int(entries.view(np.uint64).sum())) % 2**64
    assert ledger == expected_ledger(lambda positions: records_at(positions, 30, config.seed), steps * BATCH, BATCH)


def test_data_of_which_no_batch_is_read_any_more_are_let_go(config: Config) -> None:
    """As those of a trial whose search goes on, with their open files and caches."""
    source = open_source(config.data, "train")
    assert len(list(itertools.islice(training_batches(source, config, 0, FEATURES), 3))) == 3
    there = weakref.ref(source)
    del source
    for _ in range(100):  # reads that had begun end first
        gc.collect()
        if there() is None:
            return
        time.sleep(0.1)
    raise AssertionError("something holds them")


def test_a_far_position_costs_no_walk_there(config: Config) -> None:
    (batch,) = take(config, 10**15, 1)
    assert batch["image"].shape == (BATCH, 75, 75, 3)


def test_augmented_values_are_pinned(config: Config) -> None:
    """A change here breaks exact resume of stored runs. Labels and draws to the bit, pixels to a rounding."""
    (batch,) = take(config, 0, 1)
    assert batch["label"].tolist() == GOLDEN_LABELS
    assert hashlib.sha256(batch["dropout"].tobytes()).hexdigest()[:16] == GOLDEN_DRAWS
    np.testing.assert_allclose(batch["image"][:, 37, 37, 0], GOLDEN_PIXELS, atol=1e-5)


def test_draws_differ_between_examples_purposes_and_seeds() -> None:
    def draw(seed: int, example: int, purpose: str) -> tuple[float, ...]:
        return tuple(Draw(seed, tf.constant(example, tf.int64)).uniform(purpose, 4).numpy().tolist())

    drawn = {draw(s, e, p) for s in range(3) for e in (0, 1, 2**40) for p in ("dropout", "color_jitter")}
    assert len(drawn) == 18


def test_evaluation_has_every_example_once_with_the_last_batch_filled_by_weight_zero(config: Config) -> None:
    source = open_source(config.data, "validation")
    batches = list(evaluation_batches(source, config))
    assert [batch["image"].shape[0] for batch in batches] == [8, 8, 8]
    weights = np.concatenate([batch["weight"].numpy() for batch in batches])
    labels = np.concatenate([batch["label"].numpy() for batch in batches])
    assert weights.tolist() == [1.0] * 21 + [0.0] * 3
    assert labels[:21].tolist() == source.read(np.arange(21))[1].tolist()


def test_evaluation_does_not_depend_on_its_batch_size(config: Config) -> None:
    source = open_source(config.data, "validation")

    def images(size: int) -> np.ndarray:
        batches = evaluation_batches(source, with_leaves(config, {"evaluation.batch_size": size}))
        return np.concatenate([batch["image"].numpy() for batch in batches])[:21]

    assert (images(4) == images(21)).all()


def test_the_digits_are_the_published_ones_in_a_stratified_split() -> None:
    from sklearn.datasets import load_digits

    config = compose().data
    digits = load_digits()
    found = []
    for split, count in (("train", 1438), ("validation", 359)):
        source = open_source(config, split)
        assert source.count == count
        images, labels = source.read(np.arange(count))
        shares = np.bincount(labels) / np.bincount(digits.target)
        assert np.abs(shares - count / 1797).max() < 0.005
        for image, label in zip(images, labels, strict=True):
            pixels = tf.io.decode_png(image).numpy()[..., 0].astype(int)
            found.append((np.round(pixels * 16 / 255).astype(int).tobytes(), int(label)))
    expected = [
        (image.astype(int).tobytes(), int(label)) for image, label in zip(digits.images, digits.target, strict=True)
    ]
    assert sorted(found) == sorted(expected)


def test_normalisation_maps_black_and_white_to_the_published_range(config: Config) -> None:
    white = tf.io.encode_png(tf.fill([9, 9, 1], tf.constant(255, tf.uint8)))
    draw = Draw(0, tf.constant(0, tf.int64))
    encoded = encoded_image(bytes(white.numpy()), config.preprocess)
    image = network_input(encoded, config.preprocess.eval, config.preprocess, draw)
    np.testing.assert_allclose(image.numpy(), 1.0, atol=1e-6)
    assert image.shape == (75, 75, 3)
