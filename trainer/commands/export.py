"""``export``: a network for programs where this trainer is not installed."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path

from trainer.commands.arguments import refuse_rest, take_choice, take_list, take_text
from trainer.commands.consenting import offering
from trainer.config.arguments import parse_arguments
from trainer.config.schema.training import WeightsName
from trainer.errors import UsageError, warn
from trainer.run_directory import layout, places
from trainer.runtime.importing import importing_tensorflow

HELP = """Write the network of a checkpoint, for inference, in a format that other programs read.

  python -m trainer export run_dir=DIR format=keras|savedmodel|weights output=PATH
                           [checkpoint=latest|best|step-N|PATH] [weights=raw|ema] [allow=[behaviour,step]]

keras       PATH.keras: Keras's own layers, from preprocessed images [n, size, size, 3] to logits
savedmodel  PATH, a directory: from image files (string [n], their bytes) to class names and probabilities
weights     PATH.weights.h5, for the model that format=keras writes, or PATH.safetensors, by this program's names

Each holds the configuration, the class names and the SHA-256 of the checkpoint's manifest, under "trainer" or in
assets.extra. The auxiliary classifier is left out: it serves training only. By default, weights are those that the
run's validations use. Nothing is overwritten, and the run may be training meanwhile."""
FORMATS = ("keras", "savedmodel", "weights")
TAKEN = ("run_dir", "format", "output", "checkpoint", "weights", "allow")


def main(arguments: Sequence[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(HELP)
        return 0
    values = parse_arguments(arguments)
    run_dir, output = (Path(take_text(values, name, "export")) for name in ("run_dir", "output"))
    if "format" not in values:
        raise UsageError(f"export needs format=…, one of {', '.join(FORMATS)}")
    form = take_choice(values, "format", FORMATS)
    checkpoint = str(values.pop("checkpoint", "latest"))
    asked = take_choice(values, "weights", (None, *typing.get_args(WeightsName)))
    allow = take_list(values, "allow")
    refuse_rest(values, TAKEN, "export")
    places.refuse_output(output, f"output={output}", layout.OWN)
    with importing_tensorflow():
        from trainer.inference.export.writers import check_output, write  # imports TensorFlow, which is slow
        from trainer.run.restore import restore

    check_output(form, output)
    with offering("export", arguments):
        restored = restore(run_dir, checkpoint, allow)
    weights = restored.weights(asked)
    write(restored, weights, form, output)
    if restored.doubt is not None:
        warn(restored.doubt)
    print(f"{output}: {form} of {restored.path} ({weights} weights, step {restored.manifest.step})")
    return 0
