"""Exports × runtimes × networks: the table of ``docs/evaluation.md``.

The long tests of ``tests/inference/test_other_runtimes.py``, and that of 8 bits in
``tests/inference/test_converted.py``, note each result in the file that ``EXPORTS_RESULTS`` names.
``scripts/make_exports_table`` makes the table of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from document_tables import NOT_TRIED, Place, keep, rows, short
from exported_networks import NETWORKS

PLACE = Place("<!-- the table of scripts/make_exports_table begins -->", "<!-- and ends -->")
KERAS, WEIGHTS_H5, SAFETENSORS, SAVED_MODEL = "`.keras`", "`.weights.h5`", "`.safetensors`", "SavedModel"
ONNX, LITERT = "`.onnx`", "`.tflite`"
INT8 = {"onnx": "`.onnx`, int8", "litert": "`.tflite`, int8"}
OF_TORCH = {"torchvision": "`names=torchvision`", "timm": "`names=timm`"}
BACKENDS = {"tensorflow": "Keras 3, TensorFlow 2.21", "jax": "Keras 3, JAX", "torch": "Keras 3, PyTorch"}
KERAS_2, TENSORFLOW, TENSORFLOW_2_15 = "Keras 2, TensorFlow 2.15", "TensorFlow 2.21", "TensorFlow 2.15"
ONNX_RUNTIME, LITERT_RUNTIME = "ONNX Runtime", "LiteRT"
# export, runtime
LINES: tuple[tuple[str, str], ...] = (
    *((KERAS, runtime) for runtime in (*BACKENDS.values(), KERAS_2)),
    *((WEIGHTS_H5, runtime) for runtime in (*BACKENDS.values(), KERAS_2)),
    *((SAFETENSORS, runtime) for runtime in BACKENDS.values()),
    (SAVED_MODEL, TENSORFLOW),
    (SAVED_MODEL, TENSORFLOW_2_15),
    (ONNX, ONNX_RUNTIME),
    (INT8["onnx"], ONNX_RUNTIME),
    (LITERT, LITERT_RUNTIME),
    (INT8["litert"], LITERT_RUNTIME),
    *((export, library) for library, export in OF_TORCH.items()),
)
# in words, what a runtime does not take
NOT_READ, NO_MODEL, OTHER_NETWORK = "not read", "no model", "refused"
REFUSALS = (NOT_READ, NO_MODEL, OTHER_NETWORK)

Results = Mapping[tuple[str, str, str], str]  # export, runtime, network → the cell


def note(export: str, runtime: str, network: str, relative: float) -> None:
    """The largest difference of logits, relative to the largest or to 1."""
    note_words(export, runtime, network, f"{relative:.0e}")


def note_words(export: str, runtime: str, network: str, result: str) -> None:
    """A refusal, or what is measured of 8 bits."""
    assert (export, runtime) in LINES, (export, runtime)
    assert network in NETWORKS, network
    keep("EXPORTS_RESULTS", {"export": export, "runtime": runtime, "network": network, "result": result})


def read(lines: Iterable[str]) -> Results:
    """Of several results for one cell, the last counts."""
    entries = map(json.loads, lines)
    return {(entry["export"], entry["runtime"], entry["network"]): cell(entry["result"]) for entry in entries}


def cell(result: str) -> str:
    """A result as the table has it."""
    return short(result) if is_number(result) else result


def of_int8(right: int, images: int, in_float32: int) -> str:
    """The cell of a network of 8 bits: how many images it has right."""
    return f"{right} of {images} right, float32 {in_float32}"


def counts(cell: str) -> tuple[int, int, int]:
    """The numbers that ``of_int8`` was given."""
    found = re.fullmatch(r"(\d+) of (\d+) right, float32 (\d+)", cell)
    assert found, cell
    right, images, in_float32 = map(int, found.groups())
    return right, images, in_float32


def is_number(result: str) -> bool:
    """Whether a result is a difference, and not in words."""
    return result[:1].isdigit() and " " not in result


def rendered(results: Results) -> str:
    """The table."""
    head = ["export", "read by", *NETWORKS]
    lines = [[*line, *(results.get((*line, network), NOT_TRIED) for network in NETWORKS)] for line in LINES]
    return (
        "\n".join(f"| {' | '.join(each)} |" for each in (head, ["---", "---", *["---:"] * len(NETWORKS)], *lines))
        + "\n"
    )


def cells(table: str) -> dict[tuple[str, str, str], str]:
    """Export, runtime, network → what the table has."""
    return {
        (export, runtime, network): found
        for export, runtime, *there in rows(table)
        for network, found in zip(NETWORKS, there, strict=True)
    }


def known(document: str) -> Results:
    """The results in the table of a document."""
    return {place: found for place, found in cells(PLACE.shown(document)).items() if found != NOT_TRIED}
