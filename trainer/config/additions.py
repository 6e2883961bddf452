"""Keys that were added after the first stored configurations, each with the value that means what was done before.

The promise that every checkpoint of a released format resumes for ever rests on this table: whoever adds a key to
``trainer/config/schema/`` adds it here too. ``tests/formats/`` holds a checkpoint of each format, which has none of
them.
"""

from __future__ import annotations

from typing import Any

ADDITIONS: tuple[tuple[str, Any], ...] = (
    ("train.histograms_every_steps", None),
    ("profile", None),
    ("preprocess.plugins", {}),
)


def with_additions(stored: Any) -> Any:
    """The stored container completed by the keys it lacks. What is there is never changed, and a section that is
    missing or is no section stays for the parser to refuse.
    """
    for key, value in ADDITIONS:
        *sections, name = key.split(".")
        section = stored
        for each in sections:
            section = section[each] if isinstance(section, dict) and each in section else None
        if isinstance(section, dict) and name not in section:
            section[name] = value
    return stored
