"""What a process that works on a run can be doing."""

from __future__ import annotations

from typing import Literal, get_args

# until the first step, building and compiling that step, steps, waiting for a batch, validations, waiting for saves
Phase = Literal["starting", "tracing", "training", "waiting", "validating", "saving"]
PHASES: tuple[Phase, ...] = get_args(Phase)
