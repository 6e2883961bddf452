"""The page of a report, as one HTML file.

Everything from a run directory is a stranger's text. Jinja escapes it, and figures are JSON in which nothing can end a
script element. The page allows its own scripts and embedded images only, and no requests.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import io
import json
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.offline
from PIL import Image

from trainer.checkpoint.manifest import Manifest
from trainer.config import reproduction
from trainer.config.metrics import OF_CLASSES, rank
from trainer.config.parse import leaves
from trainer.config.schema.sources import root_of
from trainer.errors import UsageError, measure
from trainer.monitoring.confusion import Confusion
from trainer.report import charts
from trainer.report.contents import Contents
from trainer.report.parts import environment, part
from trainer.run_directory.validation_predictions import Mistake, Predictions
from trainer.storage.durable import replace

ABSENT = "—"
CONFUSIONS_SHOWN = 10
RECORD = re.compile(r" \(record \d+\)$")  # behind the path of a file
PLAIN = str.maketrans("<&>", ".,:")  # base 85 without the characters of HTML
LARGEST_PICTURE = 256  # pixels
QUALITY = 50  # of a thumbnail in WebP


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
    """A mistake on the page. ``picture`` is a picture as a URL, ``file`` the example's path, ``name`` its end."""

    label: str
    predicted: str
    example: int
    confidence: str
    picture: str | None
    file: str | None
    name: str


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
    classes: Sequence[tuple[str, str, str, str, int]]  # name, precision, recall, F1, support
    elsewhere: int  # mistakes that another part of the page shows


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
    is_best: bool
    best: str


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
    best = None if alone else best_of(runs)
    plotly_js = plotly.offline.get_plotlyjs()
    script = part("page.js")
    differing = [] if alone else differences(runs)
    template = environment().get_template("page.html")
    return template.render(
        title=title,
        alone=alone,
        runs=[_run(run, alone=alone, is_best=number == best) for number, run in enumerate(runs)],
        figures={} if alone else charts.comparison(runs, best),
        parallel=None if alone else _parallel(runs, best),
        differences=[(key, [json.dumps(value) for value in values]) for key, values in differing],
        style=part("page.css"),
        library=packed(plotly_js),
        script=script,
        digests=[_digest(plotly_js), _digest(script)],
    )


def packed(text: str) -> str:
    """A script as a text of a third of its size, which ``page.js`` unpacks. It has no character that HTML reads."""
    return base64.b85encode(zlib.compress(text.encode(), 9)).decode().translate(PLAIN)


def best_of(runs: Sequence[Contents]) -> int | None:
    """The number of the run with the best validation; None where there is none, or they have different metrics."""
    metrics = {run.config.checkpoint.best_metric for run in runs}
    found = [number for number, run in enumerate(runs) if run.best_step is not None]
    if len(metrics) != 1 or not found:
        return None
    (metric,) = metrics

    def value(number: int) -> float:
        run = runs[number]
        assert run.best_step is not None
        return rank(run.validations[run.best_step][metric], metric)

    return min(found, key=value)


def differences(runs: Sequence[Contents]) -> list[tuple[str, list[Any]]]:
    """Every configuration key in which the runs differ, with the value in each run, ``ABSENT`` where it has none."""
    configs = [{path: value for path, value, _ in leaves(run.config)} for run in runs]
    paths = dict.fromkeys(path for config in configs for path in config)
    found = [(path, [config.get(path, ABSENT) for config in configs]) for path in paths]
    return [(path, values) for path, values in found if len({json.dumps(value) for value in values}) > 1]


def _parallel(runs: Sequence[Contents], best: int | None) -> str | None:
    number = 0 if best is None else best
    return charts.parallel(runs, differences(runs), runs[number].config.checkpoint.best_metric, best)


def _run(run: Contents, *, alone: bool, is_best: bool) -> Run:
    facts = _facts(run)
    return Run(
        label=run.label,
        facts=facts,
        figures=charts.curves(run) if alone else {},
        checkpoints=[_row(run, path, manifest) for path, manifest in reversed(run.checkpoints)],
        evaluated=_all_evaluated(run, pictures=alone),
        contents=run,
        command=_command(run),
        is_best=is_best,
        best=facts.get("Best validation accuracy", facts.get("Best validation", ABSENT)),
    )


def _command(run: Contents) -> str:
    try:
        return reproduction.command(run.config, Path("NEW"))
    except UsageError as error:  # an older version wrote the configuration, or one of its plug-ins is not installed
        return f"# this version cannot compose it: {str(error).splitlines()[0]}"


def _facts(run: Contents) -> dict[str, str]:
    newest = run.newest
    found = _trained(run)
    if run.best_step is not None:
        best, last = run.validations[run.best_step], max(run.validations)
        metric = run.config.checkpoint.best_metric
        shown = f"{metric} {best[metric]:.4f}, accuracy " if metric in OF_CLASSES else ""
        found["Best validation accuracy" if metric == "accuracy" else "Best validation"] = (
            f"{shown}{best['accuracy']:.4f} at step {run.best_step}"
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


def _trained(run: Contents) -> dict[str, str]:
    """What is trained on what."""
    config, newest = run.config, run.newest
    found = {"Network": run.said.get("network", config.model.name), "Data": run.said.get("data", config.data.name)}
    root = root_of(config.data)
    if root is not None:
        found["Data from"] = root
    rate = f"{config.optimizer.name}, learning rate {config.optimizer.learning_rate:g}, {config.schedule.name} schedule"
    found["Optimizer"] = f"{rate}, batch {config.train.global_batch_size}"
    if newest is not None and "network" not in run.said:
        found["Device"] = newest.versions.get("device", ABSENT)
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
        loss=ABSENT if validation is None else measure(validation["loss"]),
        accuracy=ABSENT if validation is None else f"{validation['accuracy']:.4f}",
        size=f"{sum(manifest.sizes.values()) / 1e6:.1f} MB",
    )


def _chosen(run: Contents) -> list[Predictions]:
    """The best and the newest predictions, in this order; once when they are the same."""
    return sorted(run.predictions, key=lambda found: (found.step != run.best_step, found.step))


def _all_evaluated(run: Contents, *, pictures: bool) -> list[Evaluated]:
    """What is shown of each; an example that was mistaken twice in the same way is shown once. Mistakes are only shown
    with ``pictures``: those of many runs would be a large page.
    """
    shown: set[tuple[int, int]] = set()
    found = []
    for predictions in _chosen(run):
        found.append(_evaluated(run, predictions if pictures else _without_mistakes(predictions), shown))
        shown |= {(mistake.example, mistake.predicted) for mistake in predictions.mistakes}
    return found


def _without_mistakes(found: Predictions) -> Predictions:
    return dataclasses.replace(found, mistakes=())


def _evaluated(run: Contents, found: Predictions, shown: Collection[tuple[int, int]]) -> Evaluated:
    names = run.class_names
    confusion = Confusion.of_entries(found.confusions)
    wrong = confusion.mistaken()[:CONFUSIONS_SHOWN]
    new = [mistake for mistake in found.mistakes if (mistake.example, mistake.predicted) not in shown]
    return Evaluated(
        title=f"{'Best validation' if found.step == run.best_step else 'Newest validation'}, step {found.step}",
        step=found.step,
        examples=found.examples,
        accuracy=f"{confusion.hits / found.examples:.4f}" if found.examples else ABSENT,
        figure=charts.confusion(confusion, names),
        confused=[(count, _name(names, true), _name(names, other)) for count, true, other in wrong],
        mistakes=[_shown(names, mistake) for mistake in new],
        classes=[
            (_name(names, number), _share(each.precision), _share(each.recall), _share(each.f1), each.support)
            for number, each in confusion.by_class().items()
        ],
        elsewhere=len(found.mistakes) - len(new),
    )


def _share(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3f}"


def _shown(names: Sequence[str], mistake: Mistake) -> Shown:
    file = None if mistake.place is None else RECORD.sub("", mistake.place)
    return Shown(
        label=_name(names, mistake.label),
        predicted=_name(names, mistake.predicted),
        example=mistake.example,
        confidence=ABSENT if mistake.confidence is None else f"{100 * mistake.confidence:.0f} %",
        picture=None if mistake.picture is None else _small(mistake.picture),
        file=file,
        name=f"example {mistake.example}" if file is None else file.rpartition("/")[2],
    )


def _small(text: str) -> str | None:
    """A PNG file in base64 as the URL of a picture that takes as few bytes as it can; None where it is no thumbnail."""
    try:
        content = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            if max(picture.size) > LARGEST_PICTURE:
                return None
            file = io.BytesIO()
            picture.convert("RGB").save(file, "WEBP", quality=QUALITY)
    except (binascii.Error, ValueError, OSError, SyntaxError):  # Pillow raises each of them for damaged files
        return None
    kind, small = min(("png", content), ("webp", file.getvalue()), key=lambda each: len(each[1]))
    return f"data:image/{kind};base64,{base64.b64encode(small).decode()}"


def _name(names: Sequence[str], number: int) -> str:
    return names[number] if 0 <= number < len(names) else str(number)


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
