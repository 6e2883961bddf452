"""``export``: a network for programs where this trainer is not installed."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path

from trainer.command_line import argument, place_beside, resume_command
from trainer.commands.arguments import refuse_rest, take_choice, take_list, take_text
from trainer.commands.consenting import offering
from trainer.commands.wrapping import wrapped
from trainer.config.arguments import parse_arguments
from trainer.config.schema.training import WeightsName
from trainer.errors import UsageError, warn
from trainer.run_directory import places, which_checkpoint
from trainer.runtime.importing import importing_tensorflow
from trainer.storage.unreadable import is_directory

HELP = """Write the network of a checkpoint, for inference, in a format that other programs read.

  python -m trainer export run_dir=DIR format=keras|savedmodel|weights|hub|onnx|litert|state output=PATH
                           [checkpoint=latest|best|step-N|PATH] [weights=raw|ema] [quantization=int8]
                           [names=torchvision|timm] [allow=[behaviour,step]]

keras       PATH.keras: Keras's own layers, from preprocessed images [n, size, size, 3] to logits
savedmodel  PATH, a directory: from image files (string [n], their bytes) to class names and probabilities
weights     PATH.safetensors, by this program's names, or PATH.weights.h5, for the model that format=keras writes;
            with names=torchvision or names=timm, what their networks load by load_state_dict
hub         PATH, a directory for a hub of models: model.safetensors, config.json, labels.txt, README.md
onnx        PATH.onnx for ONNX Runtime: from pixels (0 to 255, [n, size, size, 3]) to logits; PATH.onnx.json says how
            an image becomes these pixels, and names the classes. Needs pip install 'resumable-trainer[onnx]'
litert      PATH.tflite and PATH.tflite.json for LiteRT (TensorFlow Lite), alike. Needs pip install
            'resumable-trainer[litert]'
            With quantization=int8, both are of 8 bits, calibrated and measured on validation images.
state       PATH.safetensors, from which "resume run_dir=DIR checkpoint=PATH" goes on, bit for bit: weights,
            optimizer slots, averages, counters

Each holds the configuration, the class names and the SHA-256 of the checkpoint's manifest, under "trainer", in
assets.extra or in the JSON file beside it. The auxiliary classifier is left out: it serves training only. By default,
weights are those that the run's validations use. The ending may be left out. What was written is read again by the
runtime that it is for, and compared with the run's network before it appears. Nothing is overwritten, and the run may
be training meanwhile."""
STATE = "state"
QUANTIZED = ("onnx", "litert")
FORMATS = ("keras", "savedmodel", "weights", "hub", "onnx", "litert", STATE)
TAKEN = ("run_dir", "format", "output", "checkpoint", "weights", "quantization", "names", "allow")


def main(arguments: Sequence[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(wrapped(HELP))
        return 0
    values = parse_arguments(arguments)
    run_dir, output = (Path(take_text(values, name, "export")) for name in ("run_dir", "output"))
    if "format" not in values:
        raise UsageError(f"export needs format=…, one of {', '.join(FORMATS)}")
    form = take_choice(values, "format", FORMATS)
    checkpoint = str(values.pop("checkpoint", "latest"))
    asked = take_choice(values, "weights", (None, *typing.get_args(WeightsName)))
    int8 = take_choice(values, "quantization", (None, "int8")) is not None
    library = take_choice(values, "names", (None, "torchvision", "timm"))
    allow = take_list(values, "allow")
    refuse_rest(values, TAKEN, "export")
    if int8 and form not in QUANTIZED:
        raise UsageError(f"quantization=int8 is for format={' or format='.join(QUANTIZED)}, and not for format={form}")
    if library is not None and form != "weights":
        raise UsageError(f"names={library} is for format=weights, and not for format={form}")
    places.refuse_output(output, f"output={output}")
    if form == STATE:
        if asked is not None or allow:
            raise UsageError("format=state has all weights and builds no network: leave weights=… and allow=… out")
        return _export_state(run_dir, checkpoint, output)
    with importing_tensorflow():
        from trainer.inference.export.writers import (  # imports TensorFlow, which is slow
            check_names,
            check_output,
            description_of,
            loading,
            write,
        )
        from trainer.run.restore import restore

    output = check_output(form, output)
    with offering("export", arguments):
        restored = restore(run_dir, checkpoint, allow)
    weights = restored.weights(asked)
    if library is not None:
        check_names(restored.config, library, output)
    written = write(restored, weights, form, output, int8=int8, library=library)
    if restored.doubt is not None:
        warn(restored.doubt)
    kind = f"{form} in int8" if int8 else form
    print(f"{output}: {kind} of {restored.path} ({weights} weights, step {restored.manifest.step})")
    if (accuracy := written.accuracy) is not None:
        print(
            f"{accuracy.right} of {accuracy.images} validation images are right, {accuracy.right_in_float32} in float32"
        )
    if written.form.is_described:
        print(f"{description_of(output)}: how an image becomes its input, and the classes")
    print(f"to load it in Python: {loading(restored, written.form, output, library)}")
    return 0


def _export_state(run_dir: Path, checkpoint: str, output: Path) -> int:
    with importing_tensorflow():
        from trainer.inference.export.writers import check_output, write_state  # imports TensorFlow, which is slow

    output = check_output(STATE, output)
    if not is_directory(Path(checkpoint)):
        which_checkpoint.refuse_missing(run_dir)
    found = which_checkpoint.find(run_dir, checkpoint, "full", warn)
    write_state(found.path, output)
    print(f"{output}: the whole state of {found.path} (step {found.manifest.step})")
    print(f"to load it in Python: safetensors.numpy.load_file({str(output)!r})")
    print(f"to go on from it: {resume_command(place_beside(output, 'continued'), argument('checkpoint', output))}")
    return 0
