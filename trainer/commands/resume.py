"""``resume``: rebuild a run from its stored configuration and continue it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.command_line import argument
from trainer.commands.arguments import refuse_rest, take_list, take_text
from trainer.commands.wrapping import wrapped
from trainer.config.arguments import parse_arguments
from trainer.config.compose import compose
from trainer.config.urls import check_url, is_url
from trainer.distributed.attendance import expected
from trainer.errors import UsageError, warn
from trainer.run_directory import occupancy, places
from trainer.run_directory.lock import writing
from trainer.run_directory.mirror import default_directory, fetch
from trainer.run_directory.mirror_place import Place
from trainer.runtime.importing import importing_tensorflow
from trainer.runtime.shortage import refuse_small_limit
from trainer.runtime.signals import StopRequest
from trainer.sweeps import plan, running, trial

LIMITS = "runtime.watchdog."  # the configuration is in what is fetched; until then these are given, or the program's

HELP = """Continue a run exactly where a checkpoint left it.

  python -m trainer resume run_dir=DIR [checkpoint=latest|best|step-N|PATH] [key=value …] [allow=[key,…]]
  python -m trainer resume run_dir=URL [into=DIR] [key=value …]
  python -m trainer resume sweep_dir=DIR [trial=N]

PATH is a checkpoint, or a file of export format=state. Model, optimizer, schedule and input pipeline are rebuilt from
the config.yaml in it. Keys that do not
change the result may be set (train.steps, train.epochs, checkpoint.*, evaluation.every_*, train.log_every_steps).
Keys that do change it are refused unless allow=[…] names them (optimizer.learning_rate, preprocess, data, behaviour,
step …). To continue from an older checkpoint moves the later ones to checkpoints/superseded/. A damaged checkpoint is
moved to checkpoints/quarantine/. From the URL of a mirror, the newest valid checkpoint is fetched first, into DIR or
outputs/<experiment>/<name>, unless it is there already.

For a sweep (train --multirun), every unfinished trial is continued or started, or with trial=N only trial N."""


def main(arguments: Sequence[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(wrapped(HELP))
        return 0
    if any(argument.startswith("sweep_dir=") for argument in arguments):
        return _resume_sweep(parse_arguments(arguments))
    stop = StopRequest()
    stop.install()
    _resume(arguments, stop)
    return 0


def _resume(arguments: Sequence[str], stop: StopRequest) -> None:
    with expected(arguments, stop) as arrive:
        values = parse_arguments(arguments)
        run_dir = take_text(values, "run_dir", "resume")
        checkpoint = str(values.pop("checkpoint", "latest"))
        allowed = take_list(values, "allow")
        place = _place(run_dir) if is_url(run_dir) else None
        refuse_small_limit()
        with importing_tensorflow():
            from trainer.run import session  # imports TensorFlow, which takes seconds

        if place is not None:
            run_dir = _fetched(place, values, stop)
        arrive()
        session.resume(Path(run_dir), checkpoint, values, allowed, stop, ends_process=True)


def _resume_sweep(values: dict[str, object]) -> int:
    sweep_dir = Path(take_text(values, "sweep_dir", "resume")).absolute()
    number = values.pop("trial", None)
    refuse_rest(values, ("sweep_dir", "trial"), "resume of a sweep")
    stop = StopRequest()
    stop.install()
    sweep = plan.read(sweep_dir)
    if number is None:
        return running.run(sweep_dir, sweep, stop)
    if type(number) is not int or not 0 <= number < len(sweep.trials):
        raise UsageError(f"trial={number} does not exist; {sweep_dir} has the trials 0 to {len(sweep.trials) - 1}")
    trial.run(sweep_dir, sweep.trials[number], stop)
    return 0


def _place(url: str) -> Place:
    check_url("run_dir", url)
    return Place(url)


def _fetched(place: Place, values: dict[str, object], stop: StopRequest) -> str:
    """Fetch a run from its mirror into a local directory, and return that directory. A mirror that does not answer is a
    hang.
    """
    from trainer.distributed.membership import Process
    from trainer.run.watchdog import Watchdog

    into = Path(str(values.pop("into"))) if "into" in values else default_directory(place)
    if place.local is not None and places.overlap(place.local, into):
        raise UsageError(
            f"run_dir={place.url} and into={into} overlap: a run cannot be fetched into the place it is fetched from\n"
            "choose another directory: into=DIR"
        )
    if not occupancy.has_checkpoints(into):
        places.refuse_nested(into, f"into={into}")
    occupancy.refuse_foreign(into)
    watchdog = Watchdog(Process(stop, None), None, ends_process=True)
    watchdog.follow(compose([argument(key, value) for key, value in values.items() if key.startswith(LIMITS)]))
    with watchdog.watching(), writing(into):
        fetch(place, into, warn)
    print(f"fetched {place.url} into {into}")
    return str(into)
