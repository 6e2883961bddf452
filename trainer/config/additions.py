"""Keys added after the first stored configurations. Each has the value that keeps the earlier behaviour.

Every checkpoint of a released format resumes for ever. That promise rests on this table: a key added to
``trainer/config/schema/`` needs a line here too. ``tests/formats/`` holds a checkpoint of each format; none of them has
these keys.
"""

from __future__ import annotations

import copy
import typing
from typing import Any

from trainer.config.schema.networks import ApplicationName

ADDITIONS: tuple[tuple[str, Any], ...] = (
    ("train.histograms_every_steps", None),
    ("profile", None),
    ("preprocess.plugins", {}),
    ("model.batch_norm.warmup", False),
    ("model.batch_norm.initial_updates", 0),
    ("preprocess.orientation", "jpeg"),
    ("preprocess.background", "none"),
    ("preprocess.sixteen_bit_range", None),
    ("checkpoint.every_minutes", None),
    ("checkpoint.mean_minutes_between_failures", 60.0),  # says nothing as long as every_steps is a number
    ("runtime.watchdog", {}),
    *(
        (f"runtime.watchdog.{name}", None)
        for name in ("starting", "tracing", "training", "waiting", "validating", "saving")
    ),
    ("train.on_divergence", "stop"),
    ("train.skip_examples", []),
    ("divergence", {"factor": 6.0, "window": 50, "max_rollbacks": 10, "learning_rate_factor": 1.0}),
    ("train.logical_replicas", None),
    ("runtime.device", "auto"),
    ("train.fast_dev_run", False),
    ("model.weight_decay_on", "kernels"),
    ("fine_tuning.layer_decay", 1.0),
    ("fine_tuning.freeze", []),
    ("preprocess.normalize.channels", "rgb"),
    ("preprocess.decode", "whole"),
    ("tracking", {"trackers": [], "final_checkpoint": True, "register": None, "wait_seconds": 60.0}),
)

# keys of one option of a section: (section, option, key, value)
OPTION_ADDITIONS: tuple[tuple[str, str, str, Any], ...] = (
    ("data", "image_folder", "layout", "exact"),
    ("data", "image_folder", "extensions", ["bmp", "gif", "jpeg", "jpg", "png", "webp"]),
    ("data", "image_folder", "split_by", "path"),
    ("data", "image_folder", "group_pattern", None),
    ("data", "image_folder", "without_extension", "ignore"),
    ("data", "image_folder", "ignore", []),
    ("data", "image_folder", "folds", None),
    ("data", "image_folder", "fold", None),
    ("data", "tfrecord", "test_pattern", "test-*"),
    ("data", "tfds", "test_split", "test"),
    *(
        ("data", name, "disk_cache_gigabytes", 50.0)
        for name in ("tfrecord", "webdataset", "parquet", "image_folder", "table", "tfds")
    ),
    ("optimizer", "adamw", "weight_decay_on", "kernels"),
    *(("model", name, "conventions", "keras") for name in typing.get_args(ApplicationName)),
)


def with_additions(stored: Any) -> Any:
    """The stored container with the keys it lacks added. Existing values never change. A section that is missing or is
    not a section stays as it is: the parser refuses it.
    """
    for key, value in ADDITIONS:
        *sections, name = key.split(".")
        section = stored
        for each in sections:
            section = section[each] if isinstance(section, dict) and each in section else None
        if isinstance(section, dict) and name not in section:
            section[name] = copy.deepcopy(value)  # a later line may add to it
    for section_name, option, name, value in OPTION_ADDITIONS:
        section = stored[section_name] if isinstance(stored, dict) and section_name in stored else None
        if isinstance(section, dict) and section.get("name") == option:
            section.setdefault(name, value)
    return stored
