"""Networks × file formats × result: the table of ``docs/fine-tuning.md``.

The long tests of ``tests/interchange/test_application_weights.py`` note each result in the file that
``WEIGHTS_RESULTS`` names, one JSON object a line. ``scripts/make_weights_table`` makes the table of them.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterable, Mapping

from document_tables import NONE, NOT_TRIED, Place, keep, rows, short

from trainer.config.schema.networks import ApplicationName

PLACE = Place("<!-- the table of scripts/make_weights_table begins -->", "<!-- and ends -->")
KERAS_3, KERAS_2 = "Keras 3", "Keras 2"
# writer → the file that it wrote → the head of its column
COLUMNS: Mapping[tuple[str, str], str] = {
    (KERAS_3, "model.keras"): "3 `.keras`",
    (KERAS_3, "model.weights.h5"): "3 `.weights.h5`",
    (KERAS_3, "model.h5"): "3 `.h5`",
    (KERAS_3, "checkpoint"): "3 checkpoint",
    (KERAS_3, "exported"): "3 `export`",
    (KERAS_2, "model.keras"): "2 `.keras`",
    (KERAS_2, "model.weights.h5"): "2 `.weights.h5`",
    (KERAS_2, "model.h5"): "2 `.h5`",
    (KERAS_2, "weights_only.h5"): "2 `.h5`, weights",
    (KERAS_2, "checkpoint"): "2 checkpoint",
    (KERAS_2, "tensorflow/weights"): "2 TensorFlow's",
    (KERAS_2, "saved"): "2 SavedModel",
    ("torchvision", "model.safetensors"): "torchvision",
    ("timm", "model.safetensors"): "timm",
}
NETWORKS = typing.get_args(ApplicationName)

# library → ours → its name there; the networks of torch that have the same layers
TORCHVISION: Mapping[str, str] = {
    **{f"ResNet{depth}": f"resnet{depth}" for depth in (50, 101, 152)},
    **{f"DenseNet{depth}": f"densenet{depth}" for depth in (121, 169, 201)},
    **{f"EfficientNetB{number}": f"efficientnet_b{number}" for number in range(8)},
    **{f"ConvNeXt{size.title()}": f"convnext_{size}" for size in ("tiny", "small", "base", "large")},
    **{f"VGG{depth}": f"vgg{depth}" for depth in (16, 19)},
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3Small": "mobilenet_v3_small",
    "MobileNetV3Large": "mobilenet_v3_large",
}
TIMM: Mapping[str, str] = {
    **{f"ResNet{depth}": f"resnet{depth}" for depth in (50, 101, 152)},
    **{f"DenseNet{depth}": f"densenet{depth}" for depth in (121, 169, 201)},
    **{f"EfficientNetB{number}": f"tf_efficientnet_b{number}" for number in range(8)},
    **{f"ConvNeXt{size.title()}": f"convnext_{size}" for size in ("tiny", "small", "base", "large")},
}
OF_TORCH = {
    **{("torchvision", ours): theirs for ours, theirs in TORCHVISION.items()},
    **{("timm", ours): theirs for ours, theirs in TIMM.items()},
}

Results = Mapping[tuple[str, str, str], str]  # network, writer, file → the relative difference of logits


def note(network: str, writer: str, file: str, relative: float) -> None:
    """Print a result, and keep it where ``WEIGHTS_RESULTS`` says."""
    keep("WEIGHTS_RESULTS", {"network": network, "writer": writer, "file": file, "relative": f"{relative:.0e}"})


def read(lines: Iterable[str]) -> Results:
    """Of several results for one file, the last counts."""
    entries = map(json.loads, lines)
    return {(entry["network"], entry["writer"], entry["file"]): entry["relative"] for entry in entries}


def rendered(results: Results) -> str:
    """The table."""

    def cell(network: str, writer: str, file: str) -> str:
        if (network, writer, file) in results:
            return short(results[network, writer, file])
        return NOT_TRIED if writer.startswith("Keras") or (writer, network) in OF_TORCH else NONE

    lines = [[network, *(cell(network, *column) for column in COLUMNS)] for network in NETWORKS]
    head = [f"| network | {' | '.join(COLUMNS.values())} |", f"|---|{'---:|' * len(COLUMNS)}"]
    return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def cells(table: str) -> dict[tuple[str, str, str], str]:
    """Network, writer, file → what the table has."""
    return {(row[0], *column): cell for row in rows(table) for column, cell in zip(COLUMNS, row[1:], strict=True)}


def known(document: str) -> Results:
    """The results in the table of a document."""
    return {place: cell for place, cell in cells(PLACE.shown(document)).items() if cell not in (NOT_TRIED, NONE)}
