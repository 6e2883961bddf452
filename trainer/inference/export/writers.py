"""The formats of exports. Each export records its origin."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow as tf

from trainer.config import stored
from trainer.config.schema import Config
from trainer.config.schema.training import WeightsName
from trainer.errors import UsageError, spelled
from trainer.inference.export.saved_model import Classifier
from trainer.inference.export.stock_model import stock_model
from trainer.interchange.contents import ORIGIN, ORIGIN_CONFIG
from trainer.interchange.origin import Origin
from trainer.interchange.safetensors_files import write_safetensors
from trainer.run.restore import Restored
from trainer.training.state import variable_name


@dataclasses.dataclass(frozen=True)
class Export:
    """A network in Keras's own layers, and what is known about it. ``class_names`` has an entry for every output.
    ``origin`` holds the texts that record where the network comes from, by the names that readers look for.
    """

    model: keras.Model
    config: Config
    class_names: tuple[str, ...]
    origin: Mapping[str, str]


def _write_keras(export: Export, path: Path) -> None:
    export.model.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        for name, text in export.origin.items():
            archive.writestr(name, text)


def _write_saved_model(export: Export, path: Path) -> None:
    classifier = Classifier(export.model, export.config, export.class_names)
    tf.saved_model.save(classifier, str(path), signatures=classifier.classify)
    extra = path / "assets.extra"  # TensorFlow's name for what users add
    extra.mkdir()
    for name, text in export.origin.items():
        (extra / Path(name).name).write_text(text, encoding="utf-8")


def _write_weights_h5(export: Export, path: Path) -> None:
    export.model.save_weights(path)
    with h5py.File(path, "a") as file:
        for name, text in export.origin.items():
            file.attrs[name] = text


def _write_safetensors(export: Export, path: Path) -> None:
    tensors = {variable_name(variable): np.asarray(variable.value) for variable in export.model.weights}
    write_safetensors(path, tensors, export.origin)


# format → ending of the output → its writer; an output without an ending is a directory
FORMATS: Mapping[str, Mapping[str, Callable[[Export, Path], None]]] = {
    "keras": {".keras": _write_keras},
    "savedmodel": {"": _write_saved_model},
    "weights": {".weights.h5": _write_weights_h5, ".safetensors": _write_safetensors},
}


def check_output(form: str, output: Path) -> None:
    """Refuse an output that exists, that lies in a missing directory, that has not the ending of its format, or whose
    path TensorFlow cannot take.

    Raises:
        UsageError: says which.
    """
    if output.exists():
        raise UsageError(f"output={output} exists, and is not overwritten; choose another, or remove it")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"output={output}: the directory {output.parent} does not exist")
    if not output.name.endswith(tuple(FORMATS[form])):
        raise UsageError(f"output={output} must end with {' or '.join(FORMATS[form])} for format={form}")
    place = str(output.absolute())
    if form == "savedmodel" and spelled(place) != place:
        raise UsageError(
            f"output={place} is not UTF-8, and TensorFlow writes format=savedmodel to no other path\n"
            "choose another place, or make a link to it and give a path through the link"
        )


def write(restored: Restored, weights: WeightsName, form: str, output: Path) -> None:
    """Write a restored network. ``output`` appears only when it is complete."""
    check_output(form, output)
    names = restored.manifest.class_names
    origin = Origin(restored.path.name, restored.digest, restored.manifest.step, weights, names)
    export = Export(
        model=stock_model(restored.state.model, restored.state.weights(weights)),
        config=restored.config,
        class_names=restored.output_names,
        origin={
            ORIGIN: origin.to_text(),
            ORIGIN_CONFIG: stored.to_text(restored.config),
        },
    )
    (writer,) = [writer for ending, writer in FORMATS[form].items() if output.name.endswith(ending)]
    unfinished = Path(tempfile.mkdtemp(prefix=".writing-", dir=output.absolute().parent))
    try:
        writer(export, unfinished / output.name)
        (unfinished / output.name).rename(output)
    finally:
        shutil.rmtree(unfinished)
