"""``predict``: what a checkpoint says of image files, one row for each."""

from __future__ import annotations

import contextlib
import csv
import os
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.cells import cell_len

from trainer.commands.arguments import refuse_rest, take_choice, take_list, take_text
from trainer.commands.consenting import offering
from trainer.commands.newest import read_newest
from trainer.commands.wrapping import wrapped
from trainer.config.arguments import parse_arguments
from trainer.config.schema.training import WeightsName
from trainer.errors import SPELLED, TrainerError, UsageError, one_line, warn
from trainer.inference.appearing import appearing, refuse_place
from trainer.run_directory import places
from trainer.runtime.importing import importing_tensorflow
from trainer.storage.documents import to_json

if TYPE_CHECKING:
    import numpy as np

    from trainer.config.schema import Config

HELP = f"""Predict the classes of image files with the network of a checkpoint.

  python -m trainer predict run_dir=DIR images=DIR|FILE|[A,B,…] [output=PATH] [format=csv|jsonl|table] [top=5]
                            [checkpoint=latest|best|step-N|PATH] [weights=raw|ema] [evaluation.batch_size=N]
                            [data.extensions=[jpg,…]] [allow=[behaviour,step]]

Each row has the path of an image, and its top most probable classes with their probabilities, or all classes where
there are fewer. A directory is searched with all folders in it, and its images are read by their names' endings, as
data=image_folder reads them; a file that is named itself is read whatever it is called.

csv    a head, then path,class_1,probability_1,class_2,…
jsonl  one JSON object a line: {{"path": …, "classes": [{{"class": …, "probability": …}}, …]}}
table  for people

Without output=, rows go to standard output, as a table; with it, the format is that of the ending .csv or .jsonl. The
output appears when it is complete; nothing is overwritten, and the run may be training meanwhile. By default, weights
are those that the run's validations use. The probabilities are those that evaluate computes, to the bit.

Files that are no image are named on standard error, with the reason and their number; all other images have their rows,
and the exit status is {UsageError.exit_status}."""
FORMATS = ("csv", "jsonl", "table")
READING = (
    "evaluation.batch_size",
    "data.extensions",
    "data.without_extension",
    "data.ignore",
)  # keys that say how files are found and read
TAKEN = ("run_dir", "images", "output", "format", "top", "checkpoint", "weights", "allow")
TOP = 5
SHOWN_BAD = 20

Row = tuple[str, "list[tuple[str, np.float32]]"]  # a path, and the most probable classes


def main(arguments: Sequence[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(wrapped(HELP))
        return 0
    overrides = [argument for argument in arguments if argument.partition("=")[0] in READING]
    values = parse_arguments([_keyed(argument) for argument in arguments if argument not in overrides])
    run_dir = Path(take_text(values, "run_dir", "predict"))
    if "images" not in values:
        raise UsageError("predict needs images=…, a directory, a file, or a list of them")
    images = [_there(each) for each in take_list(values, "images")]
    output = Path(str(values.pop("output"))) if values.get("output") is not None else None
    values.pop("output", None)
    form = _format(take_choice(values, "format", (None, *FORMATS)), output)
    top = _top(values.pop("top", TOP))
    checkpoint = str(values.pop("checkpoint", "latest"))
    asked = take_choice(values, "weights", (None, *typing.get_args(WeightsName)))
    allow = take_list(values, "allow")
    refuse_rest(values, (*TAKEN, *READING), "predict")
    if output is not None:
        _refuse_output(output)
    with importing_tensorflow():
        from trainer.data.sources.progress import tracked
        from trainer.inference.probabilities import most_probable, of_files, reading_files
        from trainer.run.restore import restore  # imports TensorFlow, which is slow

    with offering("predict", arguments):
        restored = read_newest(lambda: restore(run_dir, checkpoint, allow), run_dir)
    weights = restored.weights(asked)
    config = reading_files(restored.config, parse_arguments(overrides))
    paths = _paths(images, config)
    if restored.doubt is not None:
        warn(restored.doubt)
    doubts: list[str] = []
    bad: list[str] = []

    def rows() -> Iterator[Row]:
        found = of_files(restored, weights, config, paths, doubts.append)
        for path, result in tracked(found, "predicting", len(paths)) if output is not None else found:
            if isinstance(result, str):
                bad.append(result)
            else:
                yield path, most_probable(result, restored.output_names, top)

    columns = min(top, len(restored.output_names))
    try:
        with _place(output) as place:
            WRITERS[form](rows(), columns, place)
            if len(bad) == len(paths):
                raise UsageError("none of the images can be used, so there is nothing to write")
    finally:
        for text in doubts:
            warn(text)
        _name_bad(bad, len(paths))
    if output is not None:
        made = f"{len(paths) - len(bad)} predictions by {restored.path} ({weights} weights, step"
        print(f"{output}: {made} {restored.manifest.step})")
    return UsageError.exit_status if bad else 0


def _keyed(argument: str) -> str:
    """``argument``; a bare path gets a message about the key that it lacks here."""
    if "=" not in argument and not argument.startswith("-") and os.path.lexists(argument):
        raise UsageError(f"{argument!r} is not key=value: an image or a directory of images is images=…")
    return argument


def _there(given: str) -> str:
    if os.path.lexists(given):
        return given
    pattern = "; patterns are not expanded: name their directory" if set(given) & set("*?") else ""
    raise UsageError(f"images={given} does not exist{pattern}")


def _format(asked: str | None, output: Path | None) -> str:
    if asked is not None:
        return asked
    if output is None:
        return "table"
    ending = output.suffix.removeprefix(".").lower()
    if ending not in ("csv", "jsonl"):
        raise UsageError(f"output={output} must end with .csv or .jsonl, or have format={'|'.join(FORMATS)} beside it")
    return ending


def _top(value: object) -> int:
    if type(value) is not int or value < 1:
        raise UsageError(f"top={value} must be a whole number of classes, 1 or more")
    return value


def _refuse_output(output: Path) -> None:
    places.refuse_output(output, f"output={output}")
    refuse_place(output)


def _paths(images: Sequence[str], config: Config) -> list[str]:
    """The files that ``images`` name, and those in the directories that they name; what is not read is said."""
    from trainer.config.schema.sources import ImageFolderConfig
    from trainer.data.sources.image_folder import images_below
    from trainer.data.sources.image_names import names_of
    from trainer.data.sources.left_out import left_out

    assert isinstance(config.data, ImageFolderConfig), "see reading_files"
    paths: list[str] = []
    for each in images:
        if not os.path.isdir(each):
            paths.append(each)
            continue
        ignored: list[str] = []
        found = list(images_below(Path(each), ignored, names_of(config.data)))
        said = left_out(ignored, config.data.extensions, each) if ignored else []
        for line in said:
            print(line, file=sys.stderr)
        if not found:
            raise UsageError(f"images={each} has no image ({', '.join(config.data.extensions)})")
        paths += found
    return paths


@contextlib.contextmanager
def _place(output: Path | None) -> Iterator[TextIO]:
    """Where rows go: standard output, or a file that becomes ``output`` when the block has ended well. Its directory is
    made where it is missing.

    Raises:
        UsageError: it cannot be begun.
        TrainerError: it cannot be written to its end.
    """
    if output is None:
        yield sys.stdout
        return
    begun = False
    try:
        with appearing(output) as unfinished:
            begun = True
            with unfinished.open("w", encoding="utf-8", errors=SPELLED, newline="") as file:
                yield file
    except OSError as error:
        kind = TrainerError if begun else UsageError
        raise kind(f"output={output} cannot be written: {error.strerror}") from error


def _csv(rows: Iterable[Row], columns: int, place: TextIO) -> None:
    writer = csv.writer(place, lineterminator="\n")
    writer.writerow(["path", *(f"{name}_{n}" for n in range(1, columns + 1) for name in ("class", "probability"))])
    for path, classes in rows:
        writer.writerow([path, *(text for name, value in classes for text in (name, str(value)))])


def _jsonl(rows: Iterable[Row], columns: int, place: TextIO) -> None:
    for path, classes in rows:
        # the shortest text of the 32 bits
        named = [{"class": name, "probability": float(str(value))} for name, value in classes]
        place.write(to_json({"path": path, "classes": named}, ascii_only=_lacks_utf_8(path)) + "\n")


def _table(rows: Iterable[Row], columns: int, place: TextIO) -> None:
    there = [(one_line(path), [f"{name} {value:.4f}" for name, value in classes]) for path, classes in rows]
    cells = [[path, *classes] for path, classes in there]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = (text + " " * (width - cell_len(text)) for text, width in zip(row, widths, strict=True))
        place.write("  ".join(padded).rstrip() + "\n")


def _lacks_utf_8(path: str) -> bool:
    """Whether JSON must escape bytes of a path that are not UTF-8; a reader in Python gets the same path back."""
    return any("\ud800" <= character <= "\udfff" for character in path)


def _name_bad(bad: Sequence[str], count: int) -> None:
    if not bad:
        return
    print(f"{len(bad)} of {count} images cannot be used:", file=sys.stderr)
    for reason in bad[:SHOWN_BAD]:
        print(f"  {one_line(reason)}", file=sys.stderr)
    if len(bad) > SHOWN_BAD:
        print(f"  and {len(bad) - SHOWN_BAD} more", file=sys.stderr)


WRITERS: dict[str, Callable[[Iterable[Row], int, TextIO], Any]] = {"csv": _csv, "jsonl": _jsonl, "table": _table}
