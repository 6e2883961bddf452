"""Names of checkpoints and in them, for those who look at files and need no TensorFlow."""

from __future__ import annotations

CHECKPOINTS = "checkpoints"  # of a run directory and of a mirror
PREFIX = "state"  # of state.index and state.data-00000-of-00001
