"""The network's predictions on the validation examples, beside the means: confusions, and the worst mistakes.

They are kept in ``predictions/step-N.json`` for the newest and the best validation of a run, for TensorBoard and
reports. No part of training depends on them. Reading them does not need TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.checkpoint import directory
from trainer.run_directory.layout import PREDICTIONS
from trainer.storage.documents import parse_json, to_json
from trainer.storage.durable import make_directory, replace
from trainer.storage.guarded import read_text
from trainer.storage.typed import build
from trainer.storage.unacceptable import Unacceptable

FORMAT_VERSION = 2
WITHOUT_PLACES = 1  # the format before it, whose mistakes do not say where their examples lie
NAME = re.compile(rf"{directory.NAME.pattern}\.json")
SIZE_LIMIT = 16 << 20  # bytes; a confusion has about 12, a picture 20,000
WORST = 16  # mistakes that are kept
COLUMNS = 5  # label, predicted, confidence, loss, weight: see trainer.training.step.make_evaluation_step


@dataclasses.dataclass(frozen=True)
class Mistake:
    """One example of the validation split, numbered from 0, whose most probable class is wrong.

    ``confidence`` is the probability of ``predicted``, ``loss`` the cross-entropy in nats; each is None when it is not
    finite. ``picture`` is a PNG file in base64; None when the example cannot be shown as an image. ``place`` is where
    the example lies, a file as a rule; None where an earlier version wrote it.
    """

    example: int
    label: int
    predicted: int
    confidence: float | None
    loss: float | None
    picture: str | None
    place: str | None


@dataclasses.dataclass(frozen=True)
class Predictions:
    """``confusions`` counts the ``examples`` by true and predicted class, ``(true, predicted, count)``. It includes
    hits and leaves out counts of 0 and examples whose loss is not finite, because they have no predicted class.
    ``mistakes`` are those with the highest loss, the highest first.
    """

    format_version: int
    step: int
    examples: int
    confusions: tuple[tuple[int, ...], ...]
    mistakes: tuple[Mistake, ...]


def summarize(step: int, examples: npt.NDArray[np.float32]) -> Predictions:
    """Count the predictions of a validation at ``step``.

    ``examples`` is float32 ``[n, 5]`` in the order of the split; see ``COLUMNS``.
    """
    label, predicted, confidence, loss, weight = examples.T.astype(np.float64)
    used, finite = weight > 0.0, np.isfinite(loss)
    pairs = np.stack([label, predicted], 1)[used & finite].astype(np.int64)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    wrong = np.flatnonzero(used & ((label != predicted) | ~finite))
    worst = wrong[np.argsort(-np.where(finite, loss, np.inf)[wrong], kind="stable")][:WORST]
    return Predictions(
        format_version=FORMAT_VERSION,
        step=step,
        examples=int(used.sum()),
        confusions=tuple(
            (int(true), int(other), int(count)) for (true, other), count in zip(found, counts, strict=True)
        ),
        mistakes=tuple(
            Mistake(
                example=int(number),
                label=int(label[number]),
                predicted=int(predicted[number]),
                confidence=_finite(confidence[number]),
                loss=_finite(loss[number]),
                picture=None,
                place=None,
            )
            for number in worst
        ),
    )


def _finite(value: np.float64) -> float | None:
    return float(value) if np.isfinite(value) else None


def with_pictures(predictions: Predictions, pictures: Sequence[str | None], places: Sequence[str]) -> Predictions:
    """The same predictions with a picture and a place for each mistake."""
    mistakes = zip(predictions.mistakes, pictures, places, strict=True)
    shown = tuple(dataclasses.replace(mistake, picture=picture, place=place) for mistake, picture, place in mistakes)
    return dataclasses.replace(predictions, mistakes=shown)


def write(run_dir: Path, predictions: Predictions, keep: Collection[int]) -> None:
    """Store the predictions, and delete those of steps that are not in ``keep``.

    Raises:
        OSError: a file cannot be written or deleted.
    """
    make_directory(run_dir / PREDICTIONS)
    text = to_json(dataclasses.asdict(predictions))
    replace(run_dir / PREDICTIONS / f"{directory.name_of(predictions.step)}.json", text.encode())
    for step, path in stored(run_dir).items():
        if step not in keep:
            path.unlink()


def forget_later(run_dir: Path, step: int) -> None:
    """Delete the predictions after the step that a run continues from."""
    with contextlib.suppress(OSError):  # they will be written again, or shown with their step
        for later, path in stored(run_dir).items():
            if later > step:
                path.unlink()


def stored(run_dir: Path) -> dict[int, Path]:
    """Step → file, in ascending order."""
    place = run_dir / PREDICTIONS
    if place.is_symlink() or not place.is_dir():
        return {}
    found = ((NAME.fullmatch(path.name), path) for path in place.iterdir())
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def read(path: Path) -> Predictions:
    """Read a file that ``write`` wrote. It may come from anywhere.

    Raises:
        Unacceptable: this version did not write it.
        OSError: it cannot be read.
    """
    predictions = build(Predictions, _with_places(parse_json(read_text(path, SIZE_LIMIT))), path.name)
    if predictions.format_version != FORMAT_VERSION:
        raise Unacceptable(f"{path.name} has format {predictions.format_version}; this version reads {FORMAT_VERSION}")
    if any(len(entry) != 3 or min(entry) < 0 for entry in predictions.confusions):
        raise Unacceptable(f"{path.name} has confusions that are not (true, predicted, count)")
    return predictions


def _with_places(value: object) -> object:
    """What an earlier version wrote, with the fields of this one."""
    if not isinstance(value, dict) or value.get("format_version") != WITHOUT_PLACES:
        return value
    mistakes = value.get("mistakes")
    if not isinstance(mistakes, list):
        return value
    placed = [{"place": None, **each} if isinstance(each, dict) else each for each in mistakes]
    return {**value, "format_version": FORMAT_VERSION, "mistakes": placed}
