"""Networks of ``keras.applications`` as the trainer builds them, small, and loading weights into them."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from composing import compose

from trainer.config.complete import complete
from trainer.config.schema import Config
from trainer.run import application_start, warm_start
from trainer.run.warm_start import WarmStart
from trainer.training.state import TrainingState, build_state

SIZE, CLASSES = 32, 10


def built(name: str, size: int = SIZE, of: str = "keras") -> tuple[Config, TrainingState]:
    return built_once(name, size, of)


@functools.cache
def built_once(name: str, size: int, of: str) -> tuple[Config, TrainingState]:
    keys = ("model=keras_application", f"model.name={name}", f"preprocess.image_size={size}")
    keys = (*keys, f"model.conventions={of}", f"model.num_classes={CLASSES}")
    config = complete(compose(*keys), 40, CLASSES)
    return config, build_state(config, drawn=False)


def load(path: Path, name: str, *allow: str, size: int = SIZE, **more: bool) -> list[str]:
    """Load into a network of zeros; the lines."""
    config, state = built(name, size)
    for variable in state.variables.values():
        variable.assign(np.zeros(variable.shape, np.float32))
    start = WarmStart(warm_start.find(path), allow, classes_follow_data=more.get("follow", False))
    return application_start.load(start, config, state, tuple(map(str, range(CLASSES))))
