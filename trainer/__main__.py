"""``python -m trainer COMMAND key=value …``: find the command, run it, turn its errors into exit statuses."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
import traceback
from typing import NoReturn

from trainer.commands.wrapping import wrapped
from trainer.errors import TrainerError, UsageError, nearest, printable
from trainer.runtime import distribution, streams
from trainer.runtime.shortage import shortage
from trainer.runtime.signals import EXIT_INTERRUPTED, die_as_others_do
from trainer.runtime.user_cache import KEEPING

# command -> what it does; each is trainer/commands/COMMAND.py (with _ for -) and has a main(arguments)
COMMANDS = {
    "train": "start a run          python -m trainer train [key=value …]",
    "resume": "continue a run       python -m trainer resume run_dir=DIR [checkpoint=…] [key=value …]",
    "evaluate": "how good is it?      python -m trainer evaluate run_dir=DIR [checkpoint=…] [data.root=…]",
    "predict": "what are these?      python -m trainer predict run_dir=DIR images=DIR [output=predictions.csv]",
    "find-lr": "which learning rate? python -m trainer find-lr run_dir=DIR | key=value … [output=PATH]",
    "report": "look at a run        python -m trainer report run_dir=DIR | run_dir=[A,B] | sweep_dir=DIR",
    "export": "give it to others    python -m trainer export run_dir=DIR format=keras|savedmodel|weights output=PATH",
    "diff": "compare two states   python -m trainer diff left=PATH right=PATH",
    "inspect": "show a checkpoint    python -m trainer inspect run_dir=DIR | checkpoint=PATH [format=json]",
    "verify": "check checkpoints    python -m trainer verify run_dir=DIR [replay=true] [checkpoint=…]",
    "doctor": "why does it not fit? python -m trainer doctor checkpoint=PATH [key=value …]",
    "check-data": "read everything once python -m trainer check-data data=… [key=value …] [report=PATH]",
    "prepare-data": "small copies         python -m trainer prepare-data data=… output=DIR [max_side=512]",
    "track": "tell a tracker       python -m trainer track run_dir=DIR [trackers=[mlflow,…]]",
    "completion": 'tab completes it     eval "$(trainer completion bash|zsh)", in a start file of the shell',
    "help": "what does it mean?   python -m trainer help KEY|SECTION|COMMAND",
}

ABOUT_COMMANDS = ("help", "completion")  # their main gets the table above, too

USAGE = """Train Inception V3 and resume it bit for bit.

{commands}

python -m trainer COMMAND --help says more of a command, python -m trainer help KEY of a configuration key, python -m
trainer --version which program this is.

Exit status: 0 done, 1 bug, failed training or a disk that cannot be written, 2 usage or configuration,
3 refused because checkpoint and program, or the processes of a run, do not match, 4 no valid checkpoint,
5 run directory in use or lost, 75 stopped by a signal after a checkpoint was committed, or by a hang (run the same
command again), 130 interrupted."""


def usage() -> str:
    return wrapped(USAGE).format(commands="\n".join(f"  {name:<13}{text}" for name, text in COMMANDS.items()))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit status."""
    try:
        mixed = distribution.mixed_files()
        if mixed is not None:
            raise UsageError(mixed)
        if not arguments or arguments[0] in ("--help", "-h") or arguments == ["help"]:
            print(usage())
            status = 0 if arguments else UsageError.exit_status
        elif arguments[0] == "--version":
            print(f"{distribution.NAME} {distribution.VERSION}")
            status = 0
        else:
            status = _run(*arguments)
        sys.stdout.flush()
    except TrainerError as error:
        kind = "stopped" if error.exit_status in (75, 130) else "error"
        print(printable(f"{kind}: {error}"), file=sys.stderr)
        return error.exit_status
    except Exception as error:
        lack = shortage(error)
        if lack is None:
            raise
        print(printable(f"error: {lack}"), file=sys.stderr)
        return lack.exit_status
    return status


def _run(name: str, *rest: str) -> int:
    if name not in COMMANDS:
        raise UsageError(f"unknown command {name}{nearest(name, COMMANDS)}; commands: {', '.join(COMMANDS)}")
    module = importlib.import_module(f"trainer.commands.{name.replace('-', '_')}")
    status = module.main(list(rest), COMMANDS) if name in ABOUT_COMMANDS else module.main(list(rest))
    assert isinstance(status, int)
    return status


def main(arguments: list[str]) -> NoReturn:
    """Run one command line and end the process with its exit status.

    A run continues when its standard streams are closed, full or broken; see ``trainer.runtime.streams``.

    The process ends without finalising the interpreter. An input pipeline may still be alive at that point, held by the
    traceback of the error that ended the run. Its threads could no longer take the interpreter's lock, and its
    destructor would wait for them forever. The commands have already closed everything of value.
    """
    die_as_others_do()
    streams.open_closed()
    streams.guard(tolerant=arguments[:1] in (["train"], ["resume"]))
    try:
        status = run(arguments)
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    except Exception:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(OSError, TrainerError):  # the command has failed already
        sys.stdout.flush()
    sys.stderr.flush()
    if status == 0:
        for thread in threading.enumerate():
            if thread.name == KEEPING:
                thread.join()
    os._exit(status)


def console() -> NoReturn:
    """The command ``trainer``, which an installation adds: ``python -m trainer`` by another name."""
    main(sys.argv[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
