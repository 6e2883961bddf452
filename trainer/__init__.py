"""A training harness whose checkpoints always restore. ``from trainer import train, resume, evaluate, load``.

What is here is imported when it is first used: ``python -m trainer --help`` does without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.runtime import distribution

if TYPE_CHECKING:
    from trainer.api import RunResult, evaluate, load, resume, train

__all__ = ["RunResult", "evaluate", "load", "resume", "train"]

__version__ = distribution.VERSION


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    mixed = distribution.mixed_files()
    if mixed is not None:
        raise ImportError(mixed)
    from trainer import api

    return getattr(api, name)
