"""The curves and the confusion matrix as Plotly figures; their colours follow the page (see ``page.css``).

Plotly reads simple HTML in names and labels, so every text from a run directory is escaped for it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from trainer.monitoring.confusion import Confusion
from trainer.report.contents import Contents
from trainer.run_directory.metrics import TRAIN, VALIDATION

# after Okabe and Ito's colours, which people with colour blindness can distinguish; the first lighter, for dark paper
COLORS = ("#2B84CC", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7F7F7F")
NAME_SHOWN = 40  # characters
LARGEST_MATRIX = 40  # classes
HEIGHT = 300
# title -> metric, and the splits that have it
CHARTS = {
    "Loss": ("loss", (TRAIN, VALIDATION)),
    "Accuracy": ("accuracy", (TRAIN, VALIDATION)),
    "Learning rate": ("learning_rate", (TRAIN,)),
    "Images per second": ("images_per_second", (TRAIN,)),
    "Share of time waiting for input": ("input_wait", (TRAIN,)),
    "Norm of the gradients": ("gradient_norm", (TRAIN,)),
    "Norm of the weights": ("weight_norm", (TRAIN,)),
}
NAMES = {TRAIN: "training", VALIDATION: "validation"}


def curves(run: Contents) -> dict[str, str]:
    """Title → figure as JSON, for one run, with marks at its restarts. Charts without a point are left out."""
    found = {}
    for title, (metric, splits) in CHARTS.items():
        figure = _figure()
        for split, color in zip(splits, COLORS, strict=False):
            _add(figure, run, split, metric, NAMES[split], color, dash="solid")
        for step in run.restarts:
            figure.add_vline(x=step, line={"dash": "dot", "width": 1.5, "color": "#888"})
        if figure.data:
            figure.update_layout(showlegend=len(figure.data) > 1)
            found[title] = str(figure.to_json())
    return found


def comparison(runs: Sequence[Contents]) -> dict[str, str]:
    """Like ``curves``, for several runs: each has a colour; training is dotted in charts that also have validation."""
    found = {}
    for title, (metric, splits) in CHARTS.items():
        figure = _figure()
        for number, run in enumerate(runs):
            for split in splits:
                dash = "dot" if split == TRAIN and len(splits) > 1 else "solid"
                _add(figure, run, split, metric, _label(run.label), COLORS[number % len(COLORS)], dash)
        if figure.data:
            found[title] = str(figure.to_json())
    return found


def confusion(found: Confusion, class_names: Sequence[str]) -> str | None:
    """The confusion matrix as a figure in JSON; None when it has too many classes."""
    classes = found.classes
    if classes > LARGEST_MATRIX:
        return None
    known = list(class_names[:classes])
    names = [f"{number}: {_label(name)}" for number, name in enumerate([*known, *[""] * (classes - len(known))])]
    rows = found.rows(classes)
    shares = [[share or None for share in row] for row in found.shares(classes)]  # no colour without examples
    axis = list(range(classes))
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
    figure.update_layout(height=max(HEIGHT, 130 + 24 * classes), margin={"l": 50, "r": 10, "t": 10, "b": 50})
    axes = {"tickmode": "linear" if classes <= 20 else "auto", "showgrid": False, "zeroline": False}
    figure.update_xaxes(title="predicted class", range=[-0.5, classes - 0.5], **axes)
    figure.update_yaxes(title="true class", range=[classes - 0.5, -0.5], **axes)
    figure.update_layout(hovermode="closest")
    return str(figure.to_json())


def _figure() -> go.Figure:
    figure = go.Figure()
    _style(figure)
    figure.update_xaxes(title="step", zeroline=False)
    figure.update_yaxes(zeroline=False)
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


def _add(figure: go.Figure, run: Contents, split: str, metric: str, name: str, color: str, dash: str) -> None:
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
        line={"color": color, "width": 2, "dash": dash},
        marker={"size": 5},
    )


def _points(run: Contents, split: str, metric: str) -> list[tuple[int, float]]:
    found = (
        (record["step"], record[metric]) for record in run.records if record["split"] == split and metric in record
    )
    return [(step, value) for step, value in found if _is_number(value)]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _label(text: str) -> str:
    return html.escape(text if len(text) <= NAME_SHOWN else f"{text[: NAME_SHOWN - 1]}…")
