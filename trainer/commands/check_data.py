"""``check-data``: read and decode every record once, and report what the data holds and what is wrong with it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from trainer.commands.pixel_lines import pixel_lines, warning_lines
from trainer.config.arguments import parse_arguments
from trainer.config.compose import compose
from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.config.schema.sources import DataConfig, SyntheticConfig, TFRecordConfig
from trainer.errors import UsageError
from trainer.run_directory import layout, places
from trainer.runtime.importing import importing_tensorflow

if TYPE_CHECKING:
    from trainer.data.audit import Places, SplitAudit

SHOWN = 20
HELP = f"""Read and decode every record of both splits once, and report what the data holds and what is wrong with it.

  python -m trainer check-data data=… [data.root=… key=value …] [report=PATH]

The configuration is composed as train composes it. All records are read, whatever data.classes, data.train_examples
and data.validation_examples say, and CRCs are compared. The output lists the records of each class, image sizes and
formats, unusable records with the reason, and repeated images within a split or, worse, in both. report=PATH gets the
full lists. Exit status 0, or {UsageError.exit_status} when a record cannot be used."""


def main(arguments: Sequence[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(HELP)
        return 0
    values = parse_arguments([argument for argument in arguments if argument.startswith("report=")])
    overrides = [argument for argument in arguments if not argument.startswith("report=")]
    composed = compose(overrides)
    config, preprocess = _everything(composed.data), composed.preprocess
    with contextlib.ExitStack() as stack:
        report = stack.enter_context(_opened(Path(str(values["report"])))) if "report" in values else None
        with importing_tensorflow():
            from trainer.data.audit import audit, duplicates  # imports TensorFlow, which is slow
            from trainer.data.sources.source import open_source
            from trainer.runtime.execution import leave_gpus_alone

            leave_gpus_alone()
        training = audit(open_source(config, "train"), "train", preprocess)
        audits = (training, audit(open_source(config, "validation"), "validation", preprocess))
        repeated = duplicates(audits)
        for line in _lines(audits, repeated, SHOWN, preprocess):
            print(line)
        if report is not None:
            report.writelines(f"{line}\n" for line in _lines(audits, repeated, None, preprocess))
    return UsageError.exit_status if any(each.bad for each in audits) else 0


def _opened(path: Path) -> TextIO:
    """The report, opened before any reading: a failure must not come after an hour."""
    places.refuse_output(path, f"report={path}", layout.OWN)
    try:
        return path.open("w", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(f"report={path} cannot be written: {error.strerror}") from error


def _everything(config: DataConfig) -> DataConfig:
    """``config`` without the keys that leave records out, and with every check."""
    if isinstance(config, SyntheticConfig):
        raise UsageError("data=synthetic is made up, so there is nothing to check")
    changed = dataclasses.replace(
        config, classes=None, class_weights=None, train_examples=None, validation_examples=None, on_bad_record="skip"
    )
    return dataclasses.replace(changed, verify_crc=True) if isinstance(changed, TFRecordConfig) else changed


def _lines(
    audits: Sequence[SplitAudit], repeated: Sequence[Places], shown: int | None, preprocess: PreprocessConfig
) -> list[str]:
    lines = []
    for each in audits:
        lines += [*_split_lines(each, shown), *pixel_lines(each, preprocess)]
    for each in audits:
        if each.bad:
            lines.append(f"{len(each.bad)} of {each.source.count} records for {each.split} cannot be used")
            lines += _limited([f"  {reason}" for reason in each.bad], shown)
    leaked = [places for places in repeated if len(places) > 1]
    if leaked:
        lines.append(f"images in both splits, so that validation is no test of them: {len(leaked)}")
        lines += _limited([f"  {places['train'][0]} = {places['validation'][0]}" for places in leaked], shown)
    for split in (each.split for each in audits):
        within = [places[split] for places in repeated if split in places and len(places[split]) > 1]
        if within:
            lines.append(f"images more than once in {split}: {len(within)}")
            lines += _limited([f"  {places[0]} = {places[1]}{_and_more(len(places) - 2)}" for places in within], shown)
    warned = warning_lines(audits)
    if warned:
        lines.append(f"images that a decoder warns of, and reads nevertheless: {len(warned)}")
        lines += _limited(warned, shown)
    if not any(each.bad for each in audits):
        lines.append("every record can be used")
    return lines


def _and_more(count: int) -> str:
    return f" and {count} more" if count else ""


def _split_lines(each: SplitAudit, shown: int | None) -> list[str]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in each.kinds.most_common())
    lines = [f"{each.split}: {each.source.count} records, {each.usable} usable{': ' if kinds else ''}{kinds}"]
    for title, extreme in (("smallest", each.smallest), ("largest", each.largest)):
        if extreme is not None:
            number, (height, width) = extreme
            lines.append(f"  {title} {width}x{height}: {each.source.place(number)}")
    counts = sorted(each.class_counts.items(), key=lambda item: -item[1])
    if shown is None or len(counts) <= shown:
        lines.append(f"  {', '.join(f'{name} {count}' for name, count in each.class_counts.items())}")
    else:
        (most, most_count), (least, least_count) = counts[0], counts[-1]
        lines.append(f"  {len(counts)} classes of {least_count} ({least}) to {most_count} ({most}) records")
    return lines


def _limited(lines: Sequence[str], shown: int | None) -> list[str]:
    if shown is None or len(lines) <= shown:
        return list(lines)
    return [*lines[:shown], f"  and {len(lines) - shown} more; report=PATH lists all"]
