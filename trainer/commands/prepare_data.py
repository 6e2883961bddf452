"""``prepare-data``: small copies of all images, in shards that are read fast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.command_line import argument, command_line
from trainer.commands.arguments import take_text
from trainer.commands.wrapping import wrapped
from trainer.config.arguments import parse_arguments
from trainer.config.compose import compose
from trainer.config.schema.sources import SyntheticConfig, root_of
from trainer.errors import NoSuchSplit, UsageError
from trainer.run_directory import places
from trainer.runtime.importing import importing_tensorflow

if TYPE_CHECKING:
    from trainer.config.contracts import Split
    from trainer.data.prepared import Prepared
    from trainer.data.sources.source import Source

MAX_SIDE, QUALITY = 512, 95
MEGABYTE = 10**6
SHOWN = 10
OWN = ("output", "max_side", "quality")
HELP = f"""Write all images of a data set as TFRecord shards, small enough to be read fast. The originals stay.

  python -m trainer prepare-data data=… output=DIR [max_side={MAX_SIDE}] [quality={QUALITY}] [data.root=… key=value …]

The configuration is composed as train composes it; the splits, classes and records are those that it uses. An image
with a side longer than max_side pixels becomes an upright JPEG of this quality whose longer side has max_side pixels.
Smaller images keep their bytes. Transparency, 16 bits and orientation are read as preprocess says. Take max_side larger
than preprocess.image_size, because a random crop enlarges a part of the image.

Images are read in parallel. The same command goes on after a kill. The same data and settings give the same bytes.
Every shard is read back. A record that cannot be used ends the command; with data.on_bad_record=skip it is left out and
named."""


def main(arguments: Sequence[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(wrapped(HELP))
        return 0
    own = [each for each in arguments if each.partition("=")[0] in OWN]
    values = parse_arguments(own)
    output = Path(take_text(values, "output", "prepare-data"))
    max_side = _number(values.pop("max_side", MAX_SIDE), "max_side", 2**16)
    quality = _number(values.pop("quality", QUALITY), "quality", 100)
    config = compose([each for each in arguments if each not in own])
    if isinstance(config.data, SyntheticConfig):
        raise UsageError("data=synthetic is made up, so there is nothing to prepare")
    places.refuse_output(output, f"output={output}")
    root = root_of(config.data)
    if root is not None and places.within(output, Path(root)):
        raise UsageError(
            f"output={output} lies in data.root={root}, whose files it would become a part of; choose another"
        )
    with importing_tensorflow():
        from trainer.data.prepared import Settings, prepare  # imports TensorFlow, which is slow
        from trainer.data.sources.source import open_source
        from trainer.runtime.execution import leave_gpus_alone

        leave_gpus_alone()
    sources: dict[Split, Source] = {"train": open_source(config.data, "train")}
    sources["validation"] = open_source(config.data, "validation")
    try:
        sources["test"] = open_source(config.data, "test")
    except NoSuchSplit as reason:
        print(f"no test split: {str(reason).splitlines()[0]}")
    prepared = prepare(sources, Settings(max_side, quality, config.preprocess), output)
    for line in _lines(prepared, output):
        print(line)
    return 0


def _number(value: object, name: str, largest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise UsageError(f"{name}={value} must be an integer from 1 to {largest}")
    return value


def _lines(prepared: Prepared, output: Path) -> list[str]:
    from trainer.data.prepared import MANIFEST  # not before a --help

    shards = sum(prepared.shards.values())
    lines = [
        f"prepared {output}: {shards} shards, {prepared.made} of them made now",
        *(f"  {split}: {count:,} images" for split, count in prepared.records.items()),
        f"  images take {prepared.bytes_after / MEGABYTE:,.1f} MB, and took {prepared.bytes_before / MEGABYTE:,.1f} MB",
    ]
    if prepared.left_out:
        count = len(prepared.left_out)
        what = "1 record cannot be used and was" if count == 1 else f"{count:,} records cannot be used and were"
        lines.append(f"warning: {what} left out:")
        lines += [f"  {reason}" for reason in prepared.left_out[:SHOWN]]
        lines += [f"  and {count - SHOWN:,} more: {output / MANIFEST} has all"] if count > SHOWN else []
    return [*lines, "to train on it:", f"  {_training(output)}"]


def _training(output: Path) -> str:
    return command_line(
        "train", "data=tfrecord", argument("data.root", output.absolute()), "data.labels_file=labels.json"
    )
