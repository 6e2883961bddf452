"""The formats of exports. Each export records its origin."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import typing
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.config import stored
from trainer.config.schema import Config
from trainer.config.schema.networks import InceptionV3Config
from trainer.config.schema.training import WeightsName
from trainer.errors import UsageError, spelled
from trainer.inference.appearing import appearing, refuse_place
from trainer.inference.export import hub, litert, onnx_runtime, pixels
from trainer.inference.export.proof import (
    Accuracy,
    Probe,
    in_float32,
    probe,
    refuse_difference,
    refuse_lost_accuracy,
)
from trainer.inference.export.saved_model import Classifier
from trainer.inference.export.stock_model import own_names, stock_model
from trainer.inference.export.validation import Logits, ValidationImages
from trainer.interchange import state_files, torch_state
from trainer.interchange.contents import ORIGIN, ORIGIN_CONFIG
from trainer.interchange.origin import Origin
from trainer.interchange.safetensors_files import read_safetensors, write_safetensors
from trainer.run import warm_start
from trainer.run.application_start import CONVENTIONS_KEY
from trainer.run.restore import Restored
from trainer.run.starting_point import load_weights
from trainer.run.warm_start import WarmStart
from trainer.training.state import build_state
from trainer.training.step import inference


@dataclasses.dataclass(frozen=True)
class Export:
    """A network in Keras's own layers, and what is known about it. ``class_names`` has an entry for every output.
    ``origin`` holds the texts that record where the network comes from, by the names that readers look for. ``names``
    maps the path of each weight to its name in the state tree. ``describe`` writes what a hub's directory has beside
    the weights. ``validation`` opens the images that a network of 8 bits is made and measured with.
    """

    model: keras.Model
    config: Config
    class_names: tuple[str, ...]
    origin: Mapping[str, str]
    names: Mapping[str, str]
    describe: Callable[[Path], None]
    validation: Callable[[], ValidationImages]

    @functools.cached_property
    def pixel_model(self) -> keras.Model:
        """``model`` behind the normalisation of images, see ``pixels``."""
        return pixels.pixel_model(self.model, self.config.preprocess)

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        """The weights by their names in the state tree."""
        return {self.names[variable.path]: np.asarray(variable.value) for variable in self.model.weights}


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
    write_safetensors(path, export.tensors, export.origin)


def _write_torch(library: torch_state.Library, export: Export, path: Path) -> None:
    write_safetensors(path, torch_state.state_dict(export.tensors, export.config, library), export.origin)


def _write_hub(export: Export, path: Path) -> None:
    path.mkdir()
    export.describe(path)
    _write_safetensors(export, path / hub.WEIGHTS)


def _write_onnx(export: Export, path: Path) -> None:
    onnx_runtime.write(export.pixel_model, export.origin, path)


def _write_onnx_int8(export: Export, path: Path) -> None:
    onnx_runtime.write_int8(export.pixel_model, export.origin, path, export.validation().calibration())


def _write_litert(export: Export, path: Path) -> None:
    litert.write(export.pixel_model, path)


def _write_litert_int8(export: Export, path: Path) -> None:
    litert.write_int8(export.pixel_model, path, export.validation().calibration())


def _read_keras(export: Export, path: Path, probe: Probe) -> None:
    model = keras.models.load_model(path, compile=False)
    refuse_difference(probe.logits, model(probe.images, training=False).numpy(), path.name)


def _read_saved_model(export: Export, path: Path, probe: Probe) -> None:
    served = tf.saved_model.load(str(path)).signatures["serving_default"]
    found = served(image_bytes=tf.constant(probe.encoded))
    refuse_difference(probe.probabilities, found["probabilities"].numpy(), path.name)


def _read_weights_h5(export: Export, path: Path, probe: Probe) -> None:
    model = keras.models.clone_model(export.model)
    model.load_weights(path)
    refuse_difference(probe.logits, model(probe.images, training=False).numpy(), path.name)


def _read_safetensors(export: Export, path: Path, probe: Probe) -> None:
    contents = read_safetensors(path)
    found = {tensor.label: contents.read(tensor) for tensor in contents.tensors}
    for name, values in export.tensors.items():
        refuse_difference(values, found[name], f"{name} of {path.name}", 0.0)
    refuse_difference(probe.logits, export.model(probe.images, training=False).numpy(), path.name)


def _read_torch(export: Export, path: Path, probe: Probe) -> None:
    """Through ``init_from``, which reads what torchvision and timm write."""
    config = in_float32(export.config)
    if isinstance(config.model, InceptionV3Config):  # their batch norm has a scale, also where it is 1
        batch_norm = dataclasses.replace(config.model.batch_norm, scale=True)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, batch_norm=batch_norm))
    state = build_state(config)
    start = WarmStart(warm_start.find(path), ("preprocess", CONVENTIONS_KEY), classes_follow_data=False)
    load_weights(start, config, state, export.class_names)
    refuse_difference(probe.logits, inference(state, "raw")(probe.images).numpy(), path.name)


def _read_hub(export: Export, path: Path, probe: Probe) -> None:
    _read_safetensors(export, path / hub.WEIGHTS, probe)


def _read_onnx(export: Export, path: Path, probe: Probe) -> None:
    refuse_difference(probe.logits, onnx_runtime.network(path)(probe.fed), path.name)


def _read_litert(export: Export, path: Path, probe: Probe) -> None:
    refuse_difference(probe.logits, litert.network(path)(probe.fed), path.name)


def _read_int8(network: Callable[[Path], Logits], export: Export, path: Path, probe: Probe) -> Accuracy:
    def exact(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = export.pixel_model({pixels.INPUT: images}, training=False)[
            pixels.OUTPUT
        ].numpy()
        return logits

    refuse_difference(probe.logits, exact(probe.fed), "the network behind its normalisation")
    accuracy = export.validation().accuracy(exact, network(path))
    refuse_lost_accuracy(accuracy, path.name)
    return accuracy


@dataclasses.dataclass(frozen=True)
class Format:
    """How a format is written, and read again as by its users, which measures the accuracy of a network of 8 bits;
    ``loading`` is the line of Python that reads it. ``is_described``: a JSON document beside it says what to feed.
    ``check`` refuses where a library is missing.
    """

    write: Callable[[Export, Path], None]
    read: Callable[[Export, Path, Probe], Accuracy | None]
    loading: str
    is_described: bool = False
    check: Callable[[], object] = lambda: None


KERAS = Format(_write_keras, _read_keras, "keras.models.load_model({path!r})")
SAVED_MODEL = Format(
    _write_saved_model,
    _read_saved_model,
    'tf.saved_model.load({path!r}).signatures["serving_default"](image_bytes=tf.constant([open(FILE, "rb").read()]))',
)
WEIGHTS_H5 = Format(
    _write_weights_h5, _read_weights_h5, "model.load_weights({path!r})  # model: what format=keras writes"
)
SAFETENSORS = Format(_write_safetensors, _read_safetensors, "safetensors.numpy.load_file({path!r})")
HUB = Format(_write_hub, _read_hub, "safetensors.numpy.load_file({path!r} + '/" + hub.WEIGHTS + "')")
ONNX = Format(
    _write_onnx,
    _read_onnx,
    'onnxruntime.InferenceSession({path!r}).run(["logits"], {{"image": PIXELS}})[0]',
    is_described=True,
    check=onnx_runtime.libraries,
)
LITERT = Format(
    _write_litert,
    _read_litert,
    'ai_edge_litert.interpreter.Interpreter({path!r}).get_signature_runner()(image=PIXELS)["logits"]',
    is_described=True,
    check=litert.library,
)
# format → what quantization=int8 makes of it
INT8: Mapping[str, Format] = {
    "onnx": dataclasses.replace(ONNX, write=_write_onnx_int8, read=functools.partial(_read_int8, onnx_runtime.network)),
    "litert": dataclasses.replace(LITERT, write=_write_litert_int8, read=functools.partial(_read_int8, litert.network)),
}
SAFETENSORS_ENDING = ".safetensors"
# format → ending of the output → what it is; the first ending is added where there is none; "": a directory
FORMATS: Mapping[str, Mapping[str, Format]] = {
    "keras": {".keras": KERAS},
    "savedmodel": {"": SAVED_MODEL},
    "weights": {SAFETENSORS_ENDING: SAFETENSORS, ".weights.h5": WEIGHTS_H5},
    "hub": {"": HUB},
    "onnx": {".onnx": ONNX},
    "litert": {".tflite": LITERT},
}
TORCH: Mapping[str, Format] = {
    library: Format(
        functools.partial(_write_torch, library),
        _read_torch,
        "model.load_state_dict(safetensors.torch.load_file({path!r}))  # model = {constructor}",
    )
    for library in typing.get_args(torch_state.Library)
}
ENDINGS: Mapping[str, tuple[str, ...]] = {
    **{form: tuple(of) for form, of in FORMATS.items()},
    "state": (".safetensors",),
}


# endings of files of other formats than the one asked for
OTHERS = (".h5", ".hdf5", ".keras", ".safetensors", ".pb", ".onnx", ".tflite", ".pt", ".pth", ".ckpt", ".npz", ".zip")


@dataclasses.dataclass(frozen=True)
class Written:
    """The format of an export, and the accuracy that was measured of a network of 8 bits."""

    form: Format
    accuracy: Accuracy | None


def check_output(form: str, output: Path) -> Path:
    """Where an export will be: ``output``, with the ending of its format where it has none.

    Raises:
        UsageError: it exists, has the ending of another format, its directory cannot be made, TensorFlow cannot take
            its path, or a library that the format needs is not installed. Says which.
    """
    endings = ENDINGS[form]
    if not output.name.endswith(endings):
        if output.name.endswith(OTHERS):
            raise UsageError(f"output={output} must end with {' or '.join(endings)} for format={form}")
        output = output.with_name(output.name + endings[0])
    refuse_place(output)
    if form != "state" and (form_of := _format_of(form, output)).is_described:
        refuse_place(description_of(output))
        form_of.check()
    place = str(output.absolute())
    if form == "savedmodel" and spelled(place) != place:
        raise UsageError(
            f"output={place} is not UTF-8, and TensorFlow writes format=savedmodel to no other path\n"
            "choose another place, or make a link to it and give a path through the link"
        )
    return output


def description_of(output: Path) -> Path:
    """Where the JSON document beside a converted network is."""
    return output.with_name(f"{output.name}.json")


def _format_of(form: str, output: Path) -> Format:
    (found,) = [found for ending, found in FORMATS[form].items() if output.name.endswith(ending)]
    return found


def check_names(config: Config, library: torch_state.Library, output: Path) -> None:
    """
    Raises:
        UsageError: the network does not exist in ``library``, or the file is none of safetensors.
    """
    if not output.name.endswith(SAFETENSORS_ENDING):
        raise UsageError(f"names={library} is for output=….safetensors, and not for {output.name}")
    torch_state.refuse_other_network(config, library)


def loading(restored: Restored, written: Format, output: Path, library: torch_state.Library | None) -> str:
    """The line of Python that reads an export."""
    of = (
        {}
        if library is None
        else {"constructor": torch_state.constructor(restored.config, library, len(restored.output_names))}
    )
    return written.loading.format(path=str(output), **of)


def write(
    restored: Restored,
    weights: WeightsName,
    form: str,
    output: Path,
    *,
    int8: bool = False,
    library: torch_state.Library | None = None,
) -> Written:
    """Write a restored network to ``output``, a path of ``check_output``, and read it again as its users do. It appears
    only when it is complete and gives what the run's network gives; with ``int8``, of weights and activations of 8
    bits, when it has as many validation images right, but for a point. With a ``library``, which ``check_names`` has
    accepted, ``weights`` have its names and layouts.

    Raises:
        RestoreRefused: it gives something else.
        UsageError: the directory cannot be made, the network cannot be converted, or there are no validation images.
    """
    names = restored.manifest.class_names
    origin = Origin(restored.path.name, restored.digest, restored.manifest.step, weights, names)
    model = restored.state.model
    stock = stock_model(model, restored.state.weights(weights), keeps_batch_norm=form == "savedmodel")
    export = Export(
        model=stock,
        config=restored.config,
        class_names=restored.output_names,
        origin={
            ORIGIN: origin.to_text(),
            ORIGIN_CONFIG: stored.to_text(restored.config),
        },
        names=own_names(model, stock),
        describe=lambda place: hub.write_description(place, restored, restored.output_names, origin),
        validation=functools.cache(lambda: ValidationImages(restored)),
    )
    form_of = INT8[form] if int8 else _format_of(form, output) if library is None else TORCH[library]
    with appearing(output) as unfinished, contextlib.ExitStack() as beside:
        form_of.write(export, unfinished)
        accuracy = form_of.read(export, unfinished, probe(restored.config, restored.state, weights))
        if form_of.is_described:  # it appears before the network does
            described = beside.enter_context(appearing(description_of(output)))
            quantization = None if accuracy is None else {"type": "int8", "validation": dataclasses.asdict(accuracy)}
            text = pixels.description(restored.config, restored.output_names, export.origin, quantization)
            described.write_text(text, encoding="utf-8")
    return Written(form_of, accuracy)


def write_state(checkpoint: Path, output: Path) -> None:
    """Write a verified checkpoint to ``output``, a path of ``check_output``, as one file with the whole state. It
    appears only when the way back from it was gone, and every value was the same.

    Raises:
        UsageError: the directory cannot be made, or a plug-in has a variable of a type that the format does not have.
        Vanished: its run deleted the checkpoint meanwhile.
    """
    with appearing(output) as unfinished:
        state_files.pack(checkpoint, unfinished)
        state_files.prove(unfinished, unfinished.parent / "again")
