"""Importing TensorFlow and Keras, which takes a good part of a process's time before its first step."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from trainer.runtime import temporary
from trainer.runtime.quiet import quiet_startup

# What TensorFlow and Keras import if it is installed, for functions that this program does not call: converters of
# TensorFlow Lite, wrappers of scikit-learn, plots of models. That can take as long as TensorFlow itself.
UNUSED = ("jax", "sklearn", "matplotlib", "pandas")


@contextmanager
def importing_quietly() -> Iterator[None]:
    """For an import of TensorFlow in a program that is not this one's: what belongs to the process stays as it is."""
    temporary.settle()
    with quiet_startup():
        yield


@contextmanager
def importing_tensorflow() -> Iterator[None]:
    """For the first import of a module that imports TensorFlow: quiet, without ``UNUSED``, and without garbage
    collection, because an import makes no garbage. The collector never examines the objects that exist at the end of
    the block.
    """
    absent = [name for name in UNUSED if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # makes Python refuse to import the module
    collecting = gc.isenabled()
    gc.disable()
    try:
        with importing_quietly():
            yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)
        gc.freeze()
        if collecting:
            gc.enable()
