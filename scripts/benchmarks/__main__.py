"""``scripts/bench SUBCOMMAND``: one interleaved run, one table, one JSON file."""

from __future__ import annotations

import importlib
import os
import sys

SUBCOMMANDS = ("step", "input", "checkpoint", "resume", "scale", "calls", "torch")


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in SUBCOMMANDS:
        sys.exit(f"usage: scripts/bench {'|'.join(SUBCOMMANDS)}")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    importlib.import_module(f"bench_{sys.argv[1]}").main()


if __name__ == "__main__":
    main()
