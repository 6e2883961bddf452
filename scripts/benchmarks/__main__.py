"""``scripts/bench SUBCOMMAND``: one interleaved run, one table, one JSON file."""

from __future__ import annotations

import importlib
import os
import sys

SUBCOMMANDS = (
    "step",
    "input",
    "photos",
    "sources",
    "buckets",
    "checkpoint",
    "resume",
    "scale",
    "calls",
    "torch",
    "kernels",
    "goodput",
)


def main() -> None:
    subcommand, *options = sys.argv[1:] or [""]
    if subcommand not in SUBCOMMANDS or (options and subcommand != "goodput"):
        sys.exit(f"usage: scripts/bench {'|'.join(SUBCOMMANDS)}; goodput takes options, see bench_goodput.py")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    importlib.import_module(f"bench_{subcommand}").main(*options)


if __name__ == "__main__":
    main()
