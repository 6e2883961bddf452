"""The curves and the confusion matrix as Plotly figures; their colours follow the page (see ``page.css``).

Plotly reads simple HTML in names and labels, so every text from a run directory is escaped for it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from trainer.config.schema import Config
from trainer.monitoring.confusion import Confusion
from trainer.report.contents import Contents
from trainer.run_directory.metrics import TRAIN, VALIDATION

# after Okabe and Ito's colours, which people with colour blindness can distinguish; the first lighter, for dark paper
COLORS = ("#2B84CC", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7F7F7F")
NAME_SHOWN = 40  # characters
TICK_SHOWN = 16
LARGEST_MATRIX = 40  # classes
HEIGHT = 300
OBJECTIVE, SHARED = "Loss that is trained", "Loss"
# title -> metric, the splits that have it, and whether it may be shown on a logarithmic scale
CHARTS = {
    OBJECTIVE: ("loss", (TRAIN,), True),
    "Loss of validation": ("loss", (VALIDATION,), True),
    "Accuracy": ("accuracy", (TRAIN, VALIDATION), False),
    "Macro F1": ("macro_f1", (VALIDATION,), False),
    "Balanced accuracy": ("balanced_accuracy", (VALIDATION,), False),
    "AUROC, each class against the rest": ("auroc", (VALIDATION,), False),
    "Learning rate": ("learning_rate", (TRAIN,), False),
    "Images per second": ("images_per_second", (TRAIN,), False),
    "Share of the GPUs' peak (MFU)": ("mfu", (TRAIN,), False),
    "Memory of a GPU, bytes": ("device_memory", (TRAIN,), False),
    "Share of time waiting for input": ("input_wait", (TRAIN,), False),
    "Norm of the gradients": ("gradient_norm", (TRAIN,), True),
    "Norm of the weights": ("weight_norm", (TRAIN,), False),
}
NAMES = {TRAIN: "training", VALIDATION: "validation"}
WIDE = 30.0  # times the lowest value: the highest of a chart that is shown on a logarithmic scale
USUAL = 0.98  # of the values are usual; what lies far above them would leave nothing of the others to be seen
FAR = 1.0  # times the span of the usual values, beyond them
DIGITS = 6
DIMENSIONS = 8  # of parallel coordinates


def objective_terms(config: Config) -> list[str]:
    """What the trained loss has and the loss of validation lacks, which is plain cross-entropy."""
    model = config.model
    terms = {
        "label smoothing": config.train.label_smoothing > 0.0,
        "weight decay": bool(getattr(model, "weight_decay", 0.0)),
        "auxiliary classifier": bool(getattr(model, "aux_logits", False)) and config.train.aux_weight > 0.0,
        "mixed images": config.mixing.name != "none",
    }
    return [name for name, there in terms.items() if there]


def _charts(runs: Sequence[Contents]) -> dict[str, tuple[str, tuple[str, ...], bool]]:
    """One chart for both losses where they are the same quantity in all runs, else one for each."""
    terms = list(dict.fromkeys(term for run in runs for term in objective_terms(run.config)))
    if not terms:
        rest = list(CHARTS.items())[2:]
        return dict([(SHARED, ("loss", (TRAIN, VALIDATION), True)), *rest])
    return {(f"{title}, with {', '.join(terms)}" if title == OBJECTIVE else title): CHARTS[title] for title in CHARTS}


def curves(run: Contents) -> dict[str, str]:
    """Title → figure as JSON, for one run, with marks at its restarts. Charts without a point are left out."""
    found = {}
    for title, (metric, splits, may_be_log) in _charts([run]).items():
        figure = _figure()
        for split, color in zip(splits, COLORS, strict=False):
            _add(figure, run, split, metric, NAMES[split], color, dash="solid")
        for step in run.restarts:
            figure.add_vline(x=step, line={"dash": "dot", "width": 1.5, "color": "#888"})
        if figure.data:
            figure.update_layout(showlegend=len(figure.data) > 1)
            _scale(figure, may_be_log=may_be_log)
            found[title] = str(figure.to_json())
    return found


def comparison(runs: Sequence[Contents], best: int | None) -> dict[str, str]:
    """Like ``curves``, for several runs: each has a colour; training is dotted in charts that also have validation. The
    ``best`` one has a thicker line.
    """
    found = {}
    for title, (metric, splits, may_be_log) in _charts(runs).items():
        figure = _figure()
        for number, run in enumerate(runs):
            for split in splits:
                dash = "dot" if split == TRAIN and len(splits) > 1 else "solid"
                width = 4 if number == best else 2
                _add(figure, run, split, metric, _label(run.label), COLORS[number % len(COLORS)], dash, width)
        if figure.data:
            _scale(figure, may_be_log=may_be_log)
            found[title] = str(figure.to_json())
    return found


def parallel(
    runs: Sequence[Contents], keys: Sequence[tuple[str, Sequence[Any]]], metric: str, best: int | None
) -> str | None:
    """Parallel coordinates: an axis for each of ``keys``, with its value in each run, and one for the best value of
    ``metric``; a line for each run. None where there is nothing to compare.
    """
    results = [None if run.best_step is None else run.validations[run.best_step].get(metric) for run in runs]
    axes = [*keys[:DIMENSIONS], (metric, results)]
    if len(runs) < 2 or len(axes) < 2 or not any(map(_is_number, results)):
        return None
    figure = go.Figure()
    _style(figure)
    heights = [_heights(values) for _, values in axes]
    order = sorted(range(len(runs)), key=lambda number: number == best)  # the best one on top
    for number in order:
        places = [height[number] for height in heights]
        figure.add_scatter(
            x=list(range(len(axes))),
            y=places,
            name=_label(runs[number].label),
            mode="lines+markers",
            line={"color": COLORS[number % len(COLORS)], "width": 4 if number == best else 1.5},
            marker={"size": 6},
            customdata=[_label(str(values[number])) for _, values in axes],
            hovertemplate="%{customdata}<extra></extra>",
        )
    texts = [_label(name.rpartition(".")[2] or name) for name, _ in axes]
    figure.update_xaxes(tickmode="array", tickvals=list(range(len(axes))), ticktext=texts, zeroline=False)
    figure.update_yaxes(visible=False, range=[-0.08, 1.08])
    figure.update_layout(hovermode="closest", showlegend=True)
    return str(figure.to_json())


def _heights(values: Sequence[Any]) -> list[float | None]:
    """Where the values of an axis lie, 0 to 1: numbers by size, on a logarithmic scale where they are wide, others in
    their order of appearance.
    """
    if not all(value is None or _is_number(value) for value in values):
        names = list(dict.fromkeys(map(str, values)))
        return [names.index(str(value)) / max(1, len(names) - 1) for value in values]
    numbers = [float(value) for value in values if value is not None]
    if not numbers or max(numbers) == min(numbers):
        return [None if value is None else 0.5 for value in values]
    scaled = math.log if min(numbers) > 0.0 and max(numbers) / min(numbers) >= 10.0 else float
    lowest, highest = scaled(min(numbers)), scaled(max(numbers))
    return [None if value is None else (scaled(float(value)) - lowest) / (highest - lowest) for value in values]


def _scale(figure: go.Figure, *, may_be_log: bool) -> None:
    """A scale on which the values can be told apart: logarithmic where they are wide, else up to the usual ones."""
    values = sorted(value for trace in figure.data for value in trace.y)
    positive = [value for value in values if value > 0.0]
    if may_be_log and len(positive) == len(values) and values[-1] > WIDE * values[0]:
        figure.update_yaxes(type="log", exponentformat="power", dtick=1)
        return
    usual = values[min(len(values) - 1, int(USUAL * len(values)))]
    lowest, span = values[0], usual - values[0]
    limit = usual + FAR * span
    above = sum(value > limit for value in values)
    if span <= 0.0 or not above:
        return
    figure.update_yaxes(range=[lowest - 0.05 * span, limit])
    text = f"{above} higher, up to {values[-1]:.3g}"
    corner = {"xref": "paper", "yref": "paper", "x": 1, "y": 1, "xanchor": "right", "yanchor": "top"}
    figure.add_annotation(text=text, showarrow=False, font={"size": 11}, **corner)


def confusion(found: Confusion, class_names: Sequence[str]) -> str | None:
    """The confusion matrix as a figure in JSON; None when it has too many classes."""
    classes = found.classes
    if classes > LARGEST_MATRIX:
        return None
    known = list(class_names[:classes])
    names = [_label(name) for name in [*known, *map(str, range(len(known), classes))]]
    rows = found.rows(classes)
    shares = [[share or None for share in row] for row in found.shares(classes)]  # no colour without examples
    axis, ticks = list(range(classes)), [_shortened(name) for name in names]
    figure = go.Figure(
        go.Heatmap(
            z=shares,
            x=axis,
            y=axis,
            text=[[str(count or "") for count in row] for row in rows],
            texttemplate="%{text}" if classes <= 20 else None,
            customdata=[[[names[true], names[other], rows[true][other]] for other in axis] for true in axis],
            hovertemplate="%{customdata[2]} of %{customdata[0]}<br>taken for %{customdata[1]}<extra></extra>",
            colorscale=[[0.0, "#dce9f3"], [1.0, COLORS[0]]],
            zmin=0.0,
            zmax=1.0,
            showscale=False,
            xgap=1,
            ygap=1,
        )
    )
    _style(figure)
    room = 30 + 7 * max(map(len, ticks))
    figure.update_layout(
        height=max(HEIGHT, 90 + room + 22 * classes), margin={"l": room + 20, "r": 10, "t": 10, "b": room + 20}
    )
    axes = {"tickmode": "array", "tickvals": axis, "ticktext": ticks, "showgrid": False, "zeroline": False}
    figure.update_xaxes(title="predicted class", range=[-0.5, classes - 0.5], tickangle=-90, **axes)
    figure.update_yaxes(title="true class", range=[classes - 0.5, -0.5], **axes)
    figure.update_layout(hovermode="closest")
    return str(figure.to_json())


def _figure() -> go.Figure:
    figure = go.Figure()
    _style(figure)
    figure.update_xaxes(title="step", zeroline=False, ticklabelstandoff=6)  # or the first ticks of both axes meet
    figure.update_yaxes(zeroline=False, ticklabelstandoff=6)
    return figure


def _style(figure: go.Figure) -> None:
    """Transparent, without a template: the page sets the colours of paper, ink and grid."""
    figure.update_layout(
        template=None,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        height=HEIGHT,
        margin={"l": 55, "r": 10, "t": 10, "b": 40},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 12}},
        hovermode="x unified",
        font={"family": "system-ui, sans-serif", "size": 12},
    )


def _add(
    figure: go.Figure, run: Contents, split: str, metric: str, name: str, color: str, dash: str, width: float = 2
) -> None:
    points = sorted(_points(run, split, metric))
    if not points:
        return
    steps, values = zip(*points, strict=True)
    few = len(points) <= 30
    figure.add_scatter(
        x=steps,
        y=values,
        name=name,
        legendgroup=name,
        showlegend=name not in {trace.name for trace in figure.data},
        mode="lines+markers" if few else "lines",
        line={"color": color, "width": width, "dash": dash},
        marker={"size": 5},
    )


def _points(run: Contents, split: str, metric: str) -> list[tuple[int, float]]:
    found = (
        (record["step"], record[metric]) for record in run.records if record["split"] == split and metric in record
    )
    return [(step, float(f"{value:.{DIGITS}g}")) for step, value in found if _is_number(value)]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _label(text: str) -> str:
    return html.escape(text if len(text) <= NAME_SHOWN else f"{text[: NAME_SHOWN - 1]}…")


def _shortened(name: str) -> str:
    return name if len(name) <= TICK_SHOWN else f"{name[: TICK_SHOWN - 1]}…"
