"""Every kind of image file becomes the same pixels in training, evaluation, ``predict`` and a served model, or is
refused; the table of docs/data.md says which.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import input_table
import numpy as np
import pytest
import tensorflow as tf
from documents import ROOT
from input_table import GIF, JPEG, REFUSED, WAYS, Line, exif, jpeg_with, rendered, sections, shown

from trainer.config.schema import Config
from trainer.data.images.decoding import decode, encoded_image, fault
from trainer.data.images.served import served_image
from trainer.errors import BadRecord
from trainer.inference.export.saved_model import Classifier
from trainer.inference.predictor import Predictor

ROWS = {f"{heading}: {row.input}": (heading, row) for heading, section in sections().items() for row in section}
NAME = tf.constant("image 0")


@pytest.fixture(scope="module")
def found() -> Mapping[str, Sequence[Line]]:
    return input_table.found()


@pytest.mark.parametrize("title", ROWS)
def test_every_way_gives_an_image_the_same_pixels_or_refuses_it(
    title: str, found: Mapping[str, Sequence[Line]]
) -> None:
    heading, row = ROWS[title]
    (line,) = [line for line in found[heading] if line.input == row.input]
    assert line.cells == {way: row.expected(way) for way in WAYS}
    assert line.equal, "the ways differ by a bit"
    assert row.but_served in (None, REFUSED), "a served model may refuse, but not read other pixels"


def test_the_table_in_the_documents_is_the_one_that_was_found(found: Mapping[str, Sequence[Line]]) -> None:
    assert shown((ROOT / "docs" / "data.md").read_text()) == rendered(found), "run scripts/make_input_table"


@pytest.fixture(scope="module")
def config() -> Config:
    return input_table.configured((), Path("nowhere"), 4)


@pytest.fixture(scope="module", params=["all", "jpeg"])
def served(request: pytest.FixtureRequest, config: Config) -> tuple[Config, tf.types.experimental.PolymorphicFunction]:
    preprocess = dataclasses.replace(config.preprocess, orientation=request.param)

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    def pixels(data: tf.Tensor) -> tf.Tensor:
        return decode(served_image(data, NAME, preprocess), preprocess)

    return dataclasses.replace(config, preprocess=preprocess), pixels


def test_a_run_of_an_earlier_version_is_served_with_its_own_rule(
    served: tuple[Config, tf.types.experimental.PolymorphicFunction],
) -> None:
    """``preprocess.orientation=jpeg`` turns JPEG by a SHORT in EXIF, and nothing else."""
    config, pixels = served
    if config.preprocess.orientation == "all":
        return  # the table
    for heading, row in ROWS.values():
        for data in row.files:
            if row.said != REFUSED and row.but_served is None:
                expected = decode(encoded_image(data, config.preprocess), config.preprocess).numpy()
                assert np.array_equal(pixels(data).numpy(), expected), (heading, row.input)
    turned = input_table.by_pillow(jpeg_with(JPEG, exif(6)))
    assert np.array_equal(pixels(jpeg_with(JPEG, exif(6))).numpy(), turned)
    for data in (jpeg_with(JPEG, exif(6, ">", input_table.LONG)), *input_table.turned_pngs(input_table.PNG)):
        assert pixels(data).shape == (input_table.HEIGHT, input_table.WIDTH, 3)


def test_no_damage_is_served_that_training_refuses(
    served: tuple[Config, tf.types.experimental.PolymorphicFunction],
) -> None:
    """Cut anywhere, or with bytes changed anywhere. Of a GIF the codes alone are left to the decoders."""
    config, pixels = served
    numbers = random.Random(5)
    files = [row.files[-1] for _, row in ROWS.values() if row.said != REFUSED and row.but_served is None]
    read = 0
    for data in files * 4:
        damaged = bytearray(data)
        if numbers.random() < 0.3:
            damaged = damaged[: numbers.randrange(len(damaged))]
        for _ in range(numbers.randrange(3)):
            damaged[numbers.randrange(max(1, min(len(damaged), numbers.choice((60, 120, 10**6)))))] = numbers.choice(
                (0, 1, 255)
            )
        reason = fault(bytes(damaged), config.preprocess)
        try:
            image = pixels(bytes(damaged)).numpy()
        except tf.errors.OpError:
            continue
        if reason is not None:
            assert (data[:3], "broken data stream" in reason) == (b"GIF", True), (bytes(damaged), reason)
            continue
        read += 1
        expected = decode(encoded_image(bytes(damaged), config.preprocess), config.preprocess)
        assert np.array_equal(image, expected.numpy()), bytes(damaged)
    assert read > 20


@pytest.fixture(scope="module")
def classifier(config: Config) -> Classifier:
    return input_table.classifier(config)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html>404</html>", "image 1 cannot be classified: it is not a JPEG, PNG, WebP, BMP or GIF image"),
        (b"", "image 1 cannot be classified: it is empty (0 bytes)"),
        (input_table.small_frame(GIF), "image 1 cannot be classified: it is a GIF whose first frame does not fill it"),
        (input_table.bitmap(16, bytes(92 * 33)), "image 1 cannot be classified: it is a BMP of 16 bits"),
        (GIF[:-200], "image 1 cannot be classified: it ends inside its first frame"),
    ],
)
def test_a_served_model_names_the_image_and_what_it_is(data: bytes, message: str, classifier: Classifier) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        classifier.classify(tf.constant([JPEG, data, JPEG]))
    assert message in str(caught.value)


def test_a_served_model_calls_no_python(classifier: Classifier) -> None:
    graph = classifier.classify.get_concrete_function().graph.as_graph_def()
    operations = {node.op for function in graph.library.function for node in function.node_def}
    assert "DecodeAndCropJpeg" in operations
    assert not [name for name in operations if "PyFunc" in name]


def test_a_path_is_read_as_far_as_evaluation_reads_it(config: Config, tmp_path: Path) -> None:
    """A JPEG cut off below the crop is an image for both; cut off inside it, for neither."""
    cropped = dataclasses.replace(
        config.preprocess, central_crop=dataclasses.replace(config.preprocess.central_crop, fraction=0.3)
    )
    config = dataclasses.replace(config, preprocess=cropped)
    model = input_table.echo()
    predictor = Predictor(model, ("a",), config, tmp_path, 0, "raw", model)
    large = input_table.saved(input_table.RGB.resize((640, 480)), "JPEG", quality=95)
    for name, share in (("below", 0.85), ("inside", 0.4)):
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(large[: int(len(large) * share)])
    assert np.isfinite(predictor.preprocess([tmp_path / "below.jpg"])).all()
    with pytest.raises(BadRecord, match=r"inside\.jpg cannot be decoded: "):
        predictor.preprocess([tmp_path / "inside.jpg"])
