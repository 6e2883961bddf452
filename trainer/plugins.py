"""Everything that the author of a plug-in imports: keys, the five bases, and the types of their methods.

``docs/plugins.md`` shows each in use. Nothing here imports TensorFlow before ``assign`` or ``assign_sub`` is used, so
that the error about a wrong key appears within a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.config.contracts import (
    How,
    Numbers,
    Point,
    Rule,
    Slots,
    Split,
    StoredSplit,
    TrackedRun,
    Tracker,
    Update,
)
from trainer.config.keys import key
from trainer.config.schema.networks import ModelPlugin
from trainer.config.schema.optimization import OptimizerPlugin, SchedulePlugin
from trainer.config.schema.preprocessing import TransformPlugin
from trainer.config.schema.sources import SourcePlugin
from trainer.errors import BadRecord, UsageError

if TYPE_CHECKING:
    from trainer.distributed.replicas import assign, assign_sub

__all__ = [
    "BadRecord",
    "How",
    "ModelPlugin",
    "Numbers",
    "OptimizerPlugin",
    "Point",
    "Rule",
    "SchedulePlugin",
    "Slots",
    "SourcePlugin",
    "Split",
    "StoredSplit",
    "TrackedRun",
    "Tracker",
    "TransformPlugin",
    "Update",
    "UsageError",
    "assign",
    "assign_sub",
    "key",
]


def __getattr__(name: str) -> object:
    if name not in ("assign", "assign_sub"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trainer.distributed import replicas

    return getattr(replicas, name)
