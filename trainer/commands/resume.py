"""``resume``: rebuild a run from its stored configuration and go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.commands.arguments import parse_arguments, take_text
from trainer.quiet import quiet_startup
from trainer.signals import StopRequest

HELP = """Continue a run exactly where a checkpoint left it.

  python -m trainer resume run_dir=DIR [checkpoint=latest|best|step-N|PATH] [key=value …] [allow=[key,…]]

Model, optimizer, schedule and input pipeline are rebuilt from the config.yaml in the checkpoint. Keys that do not
change the result may be set (train.steps, train.epochs, checkpoint.*, evaluation.every_*, train.log_every_steps);
those that do are refused unless allow=[…] names them (optimizer.learning_rate, preprocess, data, behaviour …).
Continuing from an older checkpoint sets the later ones aside in checkpoints/superseded/."""


def main(arguments: Sequence[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(HELP)
        return 0
    values = parse_arguments(arguments)
    run_dir = take_text(values, "run_dir", "resume")
    checkpoint = str(values.pop("checkpoint", "latest"))
    allow = values.pop("allow", [])
    allowed = [str(name) for name in (allow if isinstance(allow, list) else [allow])]
    stop = StopRequest()
    stop.install()
    with quiet_startup():
        from trainer import session  # imports TensorFlow, which takes seconds

    session.resume(Path(run_dir), checkpoint, values, allowed, stop)
    return 0
