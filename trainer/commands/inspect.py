"""``inspect``: the contents of a checkpoint, of this trainer or of another program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.commands.arguments import refuse_rest, take_choice
from trainer.commands.newest import read_newest
from trainer.commands.wrapping import wrapped
from trainer.config.arguments import parse_arguments
from trainer.errors import NoValidCheckpoint, UsageError
from trainer.run_directory import wall_time
from trainer.runtime.importing import importing_tensorflow
from trainer.runtime.streams import json_text

FORMATS = ("table", "json")
HELP = f"""Show what a checkpoint holds: where it comes from, and every tensor with its shape and type.

  python -m trainer inspect run_dir=DIR | checkpoint=PATH [format=table|json]

run_dir means the newest valid checkpoint of a run. PATH is a checkpoint directory, the prefix of a TensorFlow
checkpoint, or a .weights.h5, .keras, .h5 or .safetensors file. Values are not read, and nothing in the file is
executed. The command doctor also checks for damage. format=json writes one JSON object to stdout. Exit status 0, or
{NoValidCheckpoint.exit_status} when nothing can be read."""


def main(arguments: Sequence[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(wrapped(HELP))
        return 0
    values = parse_arguments(arguments)
    given = [name for name in ("run_dir", "checkpoint") if name in values]
    if len(given) != 1:
        raise UsageError("inspect needs either run_dir=DIR or checkpoint=PATH")
    path = Path(str(values.pop(given[0])))
    form = take_choice(values, "format", FORMATS)
    refuse_rest(values, ("run_dir", "checkpoint", "format"), "inspect")
    with importing_tensorflow():
        from trainer.diagnosis.overview import overview  # imports TensorFlow, which is slow

    facts = read_newest(lambda: overview(path), path)
    spent = wall_time.read(path) if given == ["run_dir"] else None
    if spent is not None:
        facts["time"] = {"summary": spent.text(), "lives": spent.lives}
        facts["seconds"] = {name: round(value, 1) for name, value in spent.seconds.items()}
    print(json_text(facts) if form == "json" else "\n".join(_table(facts)))
    return 0


def _table(facts: Mapping[str, Any]) -> list[str]:
    """The overview as lines: facts first, then the tensors under their common prefixes."""
    lines = []
    for name, value in facts.items():
        if name == "tensors" or value in (None, {}, []):
            continue
        if isinstance(value, Mapping):
            lines += [f"{name:<11} {key}: {_text(entry)}" for key, entry in value.items()]
        elif isinstance(value, list):
            lines += [f"{name:<11} {entry}" for entry in value]
        else:
            lines.append(f"{name:<11} {_text(value)}")
    group = None
    width = max((len(_leaf(tensor)) for tensor in facts["tensors"]), default=0)
    for tensor in facts["tensors"]:
        beginning = tensor["name"].removesuffix(_leaf(tensor))
        if beginning != group:
            group = beginning
            lines.append(f"\n{group or 'tensors'}")
        key = "" if tensor["key"].startswith(tensor["name"]) else f"   {tensor['key']}"
        lines.append(f"  {_leaf(tensor):<{width}}  {tensor['dtype']:<8} {tensor['shape']}{key}")
    return lines


def _leaf(tensor: Mapping[str, Any]) -> str:
    """The part of a name that its line shows: the last part; for a layer's own pieces also the part before it."""
    return "/".join(str(tensor["name"]).split("/")[-2:])


def _text(value: object) -> str:
    return f"{value:,}" if type(value) is int else str(value)
