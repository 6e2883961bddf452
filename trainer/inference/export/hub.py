"""A network as model hubs lay it out: weights, what belongs to them, and a page that describes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2

from trainer.command_line import argument, command_line
from trainer.config.schema import Config
from trainer.interchange.origin import Origin
from trainer.run.restore import Restored

WEIGHTS, FACTS, LABELS, CARD = "model.safetensors", "config.json", "labels.txt", "README.md"
SHOWN_CLASSES = 20
PERCENT = ("accuracy", "top5_accuracy")

TEMPLATE = """---
library_name: tensorflow
pipeline_tag: image-classification
tags: [image-classification, {{ architecture }}]
---

# {{ architecture }} for {{ classes | length }} classes

An image classifier, trained for {{ manifest.step }} steps ({{ "%.1f" | format(manifest.epoch) }} epochs) on
`{{ data }}`.

| | |
|---|---|
{% for name, value in rows -%}
| {{ name }} | {{ value }} |
{% endfor %}
## Classes

{{ shown }}

## How to load it

The network begins with these weights, and is evaluated, trained further or exported to another format:

```
pip install resumable-trainer
{{ command }} data=image_folder data.root=DIR
```

The values by name, without the program:

```python
import safetensors.numpy
values = safetensors.numpy.load_file("{{ weights }}")
```

`{{ facts }}` says what the network expects: square images of {{ size }} pixels a side in RGB, from which
`(pixel / 255 - mean) / std` is computed. `{{ labels }}` has the classes in the order of the outputs, one a line.

## Where it comes from

{% for start in manifest.lineage -%}
- {{ start.started }}: {{ "from step %d" | format(start.from_step) if start.from_step else "a new run" }}
{%- if start.changes %}, with {{ start.changes | join("; ") }}{% endif %}
{% endfor %}
The weights are those of the checkpoint whose manifest has the SHA-256 `{{ origin.checkpoint_digest }}`. The whole
configuration of the run is in the metadata of `{{ weights }}`, under `trainer/config.yaml`.
"""


def facts(config: Config, class_names: tuple[str, ...]) -> dict[str, Any]:
    """What ``config.json`` says of a network: what it is, what it expects, what its outputs mean."""
    normalize = config.preprocess.normalize
    normalized = "normalize" in config.preprocess.eval
    return {
        "architecture": config.model.name,
        "num_classes": len(class_names),
        "image_size": config.preprocess.image_size,
        "mean": list(normalize.mean) if normalized else [0.0, 0.0, 0.0],
        "std": list(normalize.std) if normalized else [1.0, 1.0, 1.0],
        **({"channels": "bgr"} if normalized and normalize.channels == "bgr" else {}),
        "id2label": {str(number): name for number, name in enumerate(class_names)},
    }


def write_description(place: Path, restored: Restored, class_names: tuple[str, ...], origin: Origin) -> None:
    """Write everything of a hub's directory but the weights."""
    about = facts(restored.config, class_names)
    (place / FACTS).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (place / LABELS).write_text("".join(f"{name}\n" for name in class_names), encoding="utf-8")
    (place / CARD).write_text(_card(restored, class_names, origin), encoding="utf-8")


def _card(restored: Restored, class_names: tuple[str, ...], origin: Origin) -> str:
    config = restored.config
    more = len(class_names) - SHOWN_CLASSES
    shown = ", ".join(_cell(name) for name in class_names[:SHOWN_CLASSES])
    environment = jinja2.Environment(autoescape=False, undefined=jinja2.StrictUndefined)
    return environment.from_string(TEMPLATE).render(
        architecture=config.model.name,
        classes=class_names,
        manifest=restored.manifest,
        origin=origin,
        data=config.data.name,
        rows=_rows(restored, origin),
        shown=f"{shown} and {more} more: {LABELS}" if more > 0 else shown,
        weights=WEIGHTS,
        facts=FACTS,
        labels=LABELS,
        size=config.preprocess.image_size,
        command=command_line(
            "train",
            argument("init_from", WEIGHTS),
            argument("model", config.model.name),
            argument("preprocess.image_size", config.preprocess.image_size),
        ),
    )


def _rows(restored: Restored, origin: Origin) -> list[tuple[str, str]]:
    """The table of the card."""
    manifest = restored.manifest
    measured = manifest.validation or {}
    found = [
        (f"validation {name.replace('_', ' ')}", f"{100 * value:.2f} %" if name in PERCENT else f"{value:.4f}")
        for name, value in measured.items()
        if name in (*PERCENT, "loss")
    ]
    if not found:
        found = [("validation", "not made at this step")]
    data = manifest.fingerprints.get("data")
    return [
        *found,
        ("weights", "moving averages" if origin.weights == "ema" else "as trained"),
        ("examples seen", f"{manifest.examples:,}"),
        *([("SHA-256 of the facts about the data", f"`{data}`")] if data is not None else []),
        *((name, version) for name, version in manifest.versions.items() if name in ("trainer", "tensorflow", "keras")),
    ]


def _cell(text: str) -> str:
    """A class name in Markdown: its characters, and no markup."""
    return "".join(f"\\{character}" if character in r"\`*_{}[]<>()#+-.!|~" else character for character in text)
