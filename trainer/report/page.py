"""The page of a report, as one HTML file.

Everything from a run directory is a stranger's text. Jinja escapes it, and figures are JSON in which nothing can end a
script element. The page allows its own scripts and embedded images only, and no requests.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import plotly.offline

from trainer.checkpoint.manifest import Manifest
from trainer.config import reproduction
from trainer.config.parse import leaves
from trainer.errors import UsageError
from trainer.monitoring.confusion import Confusion
from trainer.report import charts
from trainer.report.contents import Contents
from trainer.run_directory.validation_predictions import Mistake, Predictions
from trainer.storage.durable import replace

ABSENT = "—"
CONFUSIONS_SHOWN = 10
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass(frozen=True)
class Row:
    """A checkpoint in the run directory."""

    name: str
    manifest: Manifest
    is_best: bool
    is_newest: bool
    loss: str
    accuracy: str
    size: str


@dataclasses.dataclass(frozen=True)
class Shown:
    """A mistake on the page. ``picture`` is a PNG file in base64."""

    label: str
    predicted: str
    example: int
    confidence: str
    picture: str | None


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A validation and its predictions. ``confused`` are the most frequent confusions, as text."""

    title: str
    step: int
    examples: int
    accuracy: str
    figure: str | None
    confused: Sequence[tuple[int, str, str]]
    mistakes: Sequence[Shown]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run on the page: everything is text or a number."""

    label: str
    facts: Mapping[str, str]
    figures: Mapping[str, str]
    checkpoints: Sequence[Row]
    evaluated: Sequence[Evaluated]
    contents: Contents
    command: str


def write(path: Path, title: str, runs: Sequence[Contents]) -> None:
    """Write the page about one run, or about several beside each other.

    Raises:
        UsageError: ``path`` cannot be written.
    """
    text = render(title, runs)
    try:
        replace(path, text.encode("utf-8", errors="replace"))
    except OSError as error:
        raise UsageError(f"the report cannot be written to {path}: {error.strerror}") from error


def render(title: str, runs: Sequence[Contents]) -> str:
    """The page as text."""
    alone = len(runs) == 1
    scripts = [plotly.offline.get_plotlyjs(), _part("page.js")]
    template = _environment().get_template("page.html")
    return template.render(
        title=title,
        alone=alone,
        runs=[_run(run, alone=alone) for run in runs],
        figures={} if alone else charts.comparison(runs),
        differences=[] if alone else differences(runs),
        style=_part("page.css"),
        scripts=scripts,
        digests=[_digest(script) for script in scripts],
    )


def differences(runs: Sequence[Contents]) -> list[tuple[str, list[str]]]:
    """Every configuration key in which the runs differ, with the value in each run."""
    configs = [{path: value for path, value, _ in leaves(run.config)} for run in runs]
    paths = dict.fromkeys(path for config in configs for path in config)
    found = [(path, [json.dumps(config[path]) if path in config else ABSENT for config in configs]) for path in paths]
    return [(path, values) for path, values in found if len(set(values)) > 1]


def _run(run: Contents, *, alone: bool) -> Run:
    return Run(
        label=run.label,
        facts=_facts(run),
        figures=charts.curves(run) if alone else {},
        checkpoints=[_row(run, path, manifest) for path, manifest in reversed(run.checkpoints)],
        evaluated=[_evaluated(run, each) for each in _chosen(run)],
        contents=run,
        command=_command(run),
    )


def _command(run: Contents) -> str:
    try:
        return reproduction.command(run.config, Path("NEW"))
    except UsageError as error:  # an older version wrote the configuration, or one of its plug-ins is not installed
        return f"# this version cannot compose it: {str(error).splitlines()[0]}"


def _facts(run: Contents) -> dict[str, str]:
    newest = run.newest
    found = {}
    if run.best_step is not None:
        best, last = run.validations[run.best_step], max(run.validations)
        found["Best validation accuracy" if run.config.checkpoint.best_metric == "accuracy" else "Best validation"] = (
            f"{best['accuracy']:.4f} at step {run.best_step}"
        )
        found["Last validation"] = f"{run.validations[last]['accuracy']:.4f} at step {last}"
    if newest is not None:
        found["Newest checkpoint"] = f"step {newest.step}, epoch {newest.epoch:.2f}"
        found["Starts"] = str(len(newest.lineage))
    rates = sorted(float(record["images_per_second"]) for record in run.records if _has_rate(record))
    if rates:
        found["Images per second"] = f"{rates[len(rates) // 2]:.1f} (median)"
    found.update(_slow_process(run.records))
    if run.wall_time is not None:
        found["Time"] = run.wall_time.text()
    return found


def _slow_process(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The process that was slow last, if any was."""
    slow = [record for record in records if isinstance(record.get("straggler"), str)]
    if not slow:
        return {}
    name, ratio = slow[-1]["straggler"], slow[-1].get("straggler_ratio")
    steps = [record["step"] for record in slow if record["straggler"] == name]
    text = f"{name}: its own work took {ratio} times that of most, steps {min(steps)} to {max(steps)}"
    return {"Slow process": text}


def _has_rate(record: Mapping[str, object]) -> bool:
    return "images_per_second" in record and type(record["images_per_second"]) is float


def _row(run: Contents, path: Path, manifest: Manifest) -> Row:
    validation = manifest.validation
    if validation is None and manifest.step in run.validations:
        validation = dict(run.validations[manifest.step])
    return Row(
        name=path.name,
        manifest=manifest,
        is_best=path == run.best,
        is_newest=path == run.checkpoints[-1][0],
        loss=ABSENT if validation is None else f"{validation['loss']:.4f}",
        accuracy=ABSENT if validation is None else f"{validation['accuracy']:.4f}",
        size=f"{sum(manifest.sizes.values()) / 1e6:.1f} MB",
    )


def _chosen(run: Contents) -> list[Predictions]:
    """The best and the newest predictions, in this order; once when they are the same."""
    return sorted(run.predictions, key=lambda found: (found.step != run.best_step, found.step))


def _evaluated(run: Contents, found: Predictions) -> Evaluated:
    names = run.class_names
    confusion = Confusion.of_entries(found.confusions)
    wrong = confusion.mistaken()[:CONFUSIONS_SHOWN]
    return Evaluated(
        title=f"{'Best validation' if found.step == run.best_step else 'Newest validation'}, step {found.step}",
        step=found.step,
        examples=found.examples,
        accuracy=f"{confusion.hits / found.examples:.4f}" if found.examples else ABSENT,
        figure=charts.confusion(confusion, names),
        confused=[(count, _name(names, true), _name(names, other)) for count, true, other in wrong],
        mistakes=[_shown(names, mistake) for mistake in found.mistakes],
    )


def _shown(names: Sequence[str], mistake: Mistake) -> Shown:
    return Shown(
        label=_name(names, mistake.label),
        predicted=_name(names, mistake.predicted),
        example=mistake.example,
        confidence=ABSENT if mistake.confidence is None else f"{100 * mistake.confidence:.0f} %",
        picture=mistake.picture if mistake.picture is not None and _is_png(mistake.picture) else None,
    )


def _is_png(text: str) -> bool:
    try:
        return base64.b64decode(text, validate=True).startswith(PNG_MAGIC)
    except (binascii.Error, ValueError):
        return False


def _name(names: Sequence[str], number: int) -> str:
    return names[number] if 0 <= number < len(names) else str(number)


def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("trainer.report", "")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)


def _part(name: str) -> str:
    return resources.files("trainer.report").joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
