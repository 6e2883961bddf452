"""Wrong files of weights are refused with their cause, and nothing is assigned: the table in docs/fine-tuning.md."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import keras_writer
import numpy as np
import pytest
import tensorflow as tf
from application_networks import CLASSES, SIZE, built, load
from document_tables import Place, rows
from foreign_files import cut, flip, save_safetensors

from trainer.config.schema import Config
from trainer.errors import NoValidCheckpoint, RestoreRefused, TrainerError
from trainer.interchange.application_modes import CAFFE

pytestmark = pytest.mark.usefixtures("in_this_process")

DOCUMENT = Path(__file__).parents[2] / "docs" / "fine-tuning.md"
PLACE = Place("<!-- the table of tests/interchange/test_wrong_files.py begins -->", "<!-- and ends there -->")
UNSEEN = "used"
KERNEL = "conv_pw_13"
BLOCK = 64  # bytes in a row that no other place of the file has


def as_checkpoint(model: Any, path: Path) -> None:
    tf.train.Checkpoint(model=model).write(str(path))


def as_safetensors(model: Any, path: Path) -> None:
    arrays = {f"{layer.name}/{weight.name}": np.asarray(weight) for layer in model.layers for weight in layer.weights}
    save_safetensors(path, arrays)


# column → the name of its file, how a model is written there
FORMATS: Mapping[str, tuple[str, Callable[[Any, Path], object]]] = {
    "`.keras`": ("model.keras", keras.Model.save),
    "`.weights.h5`": ("model.weights.h5", keras.Model.save_weights),
    "`.h5`": ("model.h5", keras.Model.save),
    "TensorFlow": ("model", as_checkpoint),
    "`.safetensors`": ("model.safetensors", as_safetensors),
}


@functools.cache
def network(classes: int = CLASSES, **options: Any) -> Any:
    model = keras.applications.MobileNet(
        weights=None, input_shape=(SIZE, SIZE, 3), classes=classes, classifier_activation=None, **options
    )
    keras_writer.fill(model)
    return model


def with_head(features: Any) -> Any:
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    return keras.Model(network().input, keras.layers.Dense(CLASSES, name="predictions")(pooled))


@functools.cache
def deeper() -> Any:
    return with_head(keras.layers.Conv2D(1024, 1, name="conv_pw_14")(network().get_layer("conv_pw_13_relu").output))


@functools.cache
def shorter() -> Any:
    return with_head(network().get_layer("conv_pw_12_relu").output)


@functools.cache
def with_nan() -> Any:
    model = network.__wrapped__()  # one of its own, to change
    kernel = model.get_layer(KERNEL).kernel
    value = kernel.numpy()
    value[0, 0, 3, 4] = np.nan
    kernel.assign(value)
    return model


def values_of(path: Path) -> Path:
    """Where a format has its values."""
    return path if path.suffix else path.with_name("model.data-00000-of-00001")


def cut_off(path: Path) -> None:
    cut(values_of(path), 0.6)


def emptied(path: Path) -> None:
    values_of(path).write_bytes(b"")


def flipped(path: Path) -> None:
    """One bit of a weight, which stays a number as large as others."""
    some = network().get_layer(KERNEL).kernel.numpy().tobytes()[4000 : 4000 + BLOCK]
    content = values_of(path).read_bytes()
    assert content.count(some) == 1
    flip(values_of(path), content.index(some) + 1)


class Wrong(NamedTuple):
    """A kind of wrong file.

    ``model`` is what is written, ``spoil`` what happens to its file, ``target`` the network that starts from it, with
    ``normalize`` where the pixels matter. ``cells`` are exit statuses for all formats, or for each; ``said`` has what
    the message says, where the formats differ one of several.
    """

    cells: tuple[str, ...]
    said: tuple[str, ...]
    model: Callable[[], Any] = network
    spoil: Callable[[Path], object] = lambda path: None
    target: str = "MobileNet"
    normalize: bool = False

    def cell(self, column: str) -> str:
        return self.cells[0] if len(self.cells) == 1 else self.cells[list(FORMATS).index(column)]


REFUSED, DAMAGED = str(RestoreRefused.exit_status), str(NoValidCheckpoint.exit_status)
WRONG = {
    "of another network": Wrong(
        (REFUSED,), ("0 of the 52 kernels of MobileNetV3Small before its head are in it",), target="MobileNetV3Small"
    ),
    "with a further block": Wrong(
        (REFUSED,), ("it has further blocks, which MobileNet does not have: conv_pw_14/kernel",), deeper
    ),
    "without the last block": Wrong((REFUSED,), ("10 variables of MobileNet are not in it",), shorter),
    "of another width": Wrong((REFUSED,), ("135 variables have another shape",), functools.partial(network, alpha=0.5)),
    "for another number of classes": Wrong(
        (REFUSED,), ("has 12 classes, model.num_classes=10",), functools.partial(network, 12)
    ),
    "for pixels of another mode": Wrong((REFUSED,), ("belongs to another preprocessing",), normalize=True),
    "with a NaN": Wrong((REFUSED,), ("NaN or infinite, or too large for float32: conv_pw_13/kernel",), with_nan),
    "cut off": Wrong((DAMAGED,), ("ends too early", "was cut short or damaged"), spoil=cut_off),
    "empty": Wrong((DAMAGED,), ("ends too early", "it is empty"), spoil=emptied),
    "one bit of a weight flipped": Wrong(
        (DAMAGED, UNSEEN, UNSEEN, DAMAGED, UNSEEN), ("checksum does not match", "Bad CRC-32"), spoil=flipped
    ),
}


def file_of(title: str, column: str, place: Path) -> Path:
    """The wrong file of a kind in a format."""
    name, save = FORMATS[column]
    path = place / name
    save(WRONG[title].model(), path)
    WRONG[title].spoil(path)
    return path


@pytest.mark.parametrize("column", FORMATS)
@pytest.mark.parametrize("title", WRONG)
def test_a_wrong_file_is_refused_with_its_cause(
    title: str, column: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = WRONG[title]
    path = file_of(title, column, tmp_path)
    if wrong.normalize:
        expect_other_pixels(monkeypatch, wrong.target)
    if wrong.cell(column) == UNSEEN:
        assert "137 of 137 variables loaded" in load(path, wrong.target)[0]
        return
    with pytest.raises(TrainerError) as refused:
        load(path, wrong.target)
    assert str(refused.value.exit_status) == wrong.cell(column)
    assert any(words in str(refused.value) for words in wrong.said), refused.value
    assert str(path) in str(refused.value)
    assert not any(np.any(variable.numpy()) for variable in built(wrong.target)[1].variables.values())


def expect_other_pixels(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    config, state = built(name)

    def caffe(*arguments: object) -> tuple[Config, Any]:
        return dataclasses.replace(config, preprocess=dataclasses.replace(config.preprocess, normalize=CAFFE)), state

    monkeypatch.setattr("application_networks.built", caffe)


def test_the_table_of_the_document_is_what_is_tried_here() -> None:
    there = {row[0]: row[1:] for row in rows(PLACE.shown(DOCUMENT.read_text(encoding="utf-8")))}
    assert there == {
        title: [*map(wrong.cell, FORMATS), " or ".join(f"“{words}”" for words in wrong.said)]
        for title, wrong in WRONG.items()
    }
