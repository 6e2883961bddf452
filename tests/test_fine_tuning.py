"""Classifiers first, then everything: which variables a step moves is a function of the step alone."""

from __future__ import annotations

import numpy as np
from test_precision import batch, narrow

from trainer.state import build_state, flatten
from trainer.step import make_train_step

SETTINGS = ("fine_tuning.freeze_until_step=3", "ema.decay=0.5", "ema.batch_norm=true", "schedule.warmup_steps=0")


def test_until_the_step_only_classifiers_and_their_slots_move_and_from_then_on_everything() -> None:
    config = narrow(*SETTINGS)
    state = build_state(config)
    train_step = make_train_step(state, config)
    variables = {name: v for name, v in flatten(state.tree()).items() if not name.startswith("progress/")}
    state.progress.step.assign(2)
    for frozen in (True, False):
        before = {name: variable.numpy() for name, variable in variables.items()}
        train_step(batch(state))
        moved = {name for name, variable in variables.items() if not np.array_equal(variable.numpy(), before[name])}
        heads = {name for name in variables if "logits/logits/" in name}
        assert heads <= moved
        assert (moved == heads) == frozen, sorted(moved - heads)[:5]
        assert frozen or any(name.endswith("moving_mean") for name in moved)
