"""Names inside a checkpoint directory, for those who look at files and need no TensorFlow."""

from __future__ import annotations

PREFIX = "state"  # of state.index and state.data-00000-of-00001
