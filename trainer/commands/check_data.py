"""``check-data``: read and decode every record once, and report what the data holds and what is wrong with it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from trainer.commands.pixel_lines import pixel_lines, warning_lines
from trainer.commands.wrapping import wrapped
from trainer.config.arguments import parse_arguments
from trainer.config.compose import compose
from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.config.schema.sources import DataConfig, ImageFolderConfig, SyntheticConfig, TFRecordConfig, root_of
from trainer.errors import SPELLED, NoSuchSplit, UsageError, few, one_line
from trainer.run_directory import places
from trainer.runtime.importing import importing_tensorflow

if TYPE_CHECKING:
    from trainer.config.contracts import Split
    from trainer.data.audit import Occurrence, SplitAudit
    from trainer.data.sources.source import Source

SHOWN = 20
HELP = f"""Read and decode every record of all splits once, and report what the data holds and what is wrong with it.

  python -m trainer check-data data=… [data.root=… key=value …] [report=PATH]

The configuration is composed as train composes it. All records are read, whatever data.classes, data.train_examples
and data.validation_examples say, and CRCs are compared. The output begins with identical images that have different
labels, and with images that are in two splits. Then it lists the splits that were found, the records of each class in
each split, image sizes and formats, images of a single colour, files with several pages or frames, unusable records
with the reason, and images that a split has more than once. Paths are relative to data.root. report=PATH gets the
full lists. Exit status 0, or
{UsageError.exit_status} when a record cannot be used."""


def main(arguments: Sequence[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(wrapped(HELP))
        return 0
    values = parse_arguments([argument for argument in arguments if argument.startswith("report=")])
    overrides = [argument for argument in arguments if not argument.startswith("report=")]
    composed = compose(overrides)
    config, preprocess = _verifying(composed.data), composed.preprocess
    with contextlib.ExitStack() as stack:
        report = stack.enter_context(_opened(Path(str(values["report"])))) if "report" in values else None
        with importing_tensorflow():
            from trainer.data.audit import audit, repeated  # imports TensorFlow, which is slow
            from trainer.data.sources.source import open_whole_split
            from trainer.runtime.execution import leave_gpus_alone

            leave_gpus_alone()
        sources: dict[Split, Source] = {"train": open_whole_split(config, "train")}
        sources["validation"] = open_whole_split(config, "validation")
        try:
            sources["test"] = open_whole_split(config, "test")
            without = None
        except NoSuchSplit as reason:
            without = str(reason).splitlines()[0]
        audits = [audit(source, split, preprocess) for split, source in sources.items()]
        found = _Found(audits, repeated(audits), _splits_found(config, sources, without), root_of(config), preprocess)
        for line in _lines(found, SHOWN):
            print(line)
        if report is not None:
            report.writelines(f"{line}\n" for line in _lines(found, None))
    return UsageError.exit_status if any(each.bad for each in audits) else 0


def _opened(path: Path) -> TextIO:
    """The report, opened before any reading: a failure must not come after an hour."""
    places.refuse_output(path, f"report={path}")
    try:
        return path.open("w", encoding="utf-8", errors=SPELLED)
    except OSError as error:
        raise UsageError(f"report={path} cannot be written: {error.strerror}") from error


def _verifying(config: DataConfig) -> DataConfig:
    """``config`` with every check."""
    if isinstance(config, SyntheticConfig):
        raise UsageError("data=synthetic is made up, so there is nothing to check")
    return dataclasses.replace(config, verify_crc=True) if isinstance(config, TFRecordConfig) else config


@dataclasses.dataclass(frozen=True)
class _Found:
    audits: Sequence[SplitAudit]
    repeated: Sequence[Sequence[Occurrence]]
    splits: Sequence[str]  # lines about the splits that were found
    root: str | None
    preprocess: PreprocessConfig


def _splits_found(config: DataConfig, sources: Mapping[Split, Source], without: str | None) -> list[str]:
    """Which folders are the splits, why there is no test set, and whose classes are not those of training."""
    from trainer.data.sources.folders import folder_at  # not before a --help
    from trainer.data.sources.split_folders import layout_of

    lines = [f"no test split: {without}"] if without is not None else []
    if isinstance(config, ImageFolderConfig):
        lines = [
            layout_of(config, folder_at(config.root, config.disk_cache_gigabytes, None)).sentence()
        ]  # it says of the test set, too
    known = dict.fromkeys(sources["train"].class_names)
    for split, source in sources.items():
        there = set(source.class_names)
        strange = [name for name in source.class_names if name not in known]
        absent = [name for name in known if name not in there]
        if strange:
            lines.append(f"{split} has classes that train lacks, so evaluate refuses them: {few(strange)}")
        if absent:
            lines.append(f"{split} lacks {len(absent)} of {len(known)} classes: {few(absent)}")
    return lines


def _lines(found: _Found, shown: int | None) -> list[str]:
    """The worst first: labels that contradict each other, then images that make the validation no test."""
    audits = found.audits
    contradictory = [_first_of_each(group, lambda each: each.class_name) for group in found.repeated]
    lines = _section(
        "identical images with different labels",
        [_pair([f"{each.place}: {each.class_name}" for each in firsts]) for firsts in contradictory if len(firsts) > 1],
        shown,
    )
    for first, second in itertools.combinations([each.split for each in audits], 2):
        leaked = [_first_of_each(group, lambda each: each.split) for group in found.repeated]
        of_both = [[each.place for each in firsts if each.split in (first, second)] for firsts in leaked]
        both = "both splits" if len(audits) == 2 else f"{first} and {second}"
        lines += _section(
            f"identical images in {both}, so that {second} is no test of them",
            [_pair(places) for places in of_both if len(places) > 1],
            shown,
        )
    if found.root is not None:
        lines.append(f"data.root: {one_line(found.root)}")
    lines += found.splits
    for each in audits:
        lines += [*_split_lines(each, shown), *pixel_lines(each, found.preprocess)]
    for each in audits:
        blank = [each.source.place(record) for record in each.blank]
        lines += _section(f"images of a single colour in {each.split}, from which nothing can be learned", blank, shown)
    for each in audits:
        files = [f"{each.source.place(record)}: {count}" for record, count in each.pixels.several]
        lines += _section(
            f"files with several pages or frames in {each.split}, of which only the first is read", files, shown
        )
    for each in audits:
        if each.bad:
            lines.append(f"{len(each.bad)} of {each.source.count} records for {each.split} cannot be used")
            lines += _limited([f"  {reason}" for reason in each.bad], shown)
    for split in (each.split for each in audits):
        places = [[each.place for each in group if each.split == split] for group in found.repeated]
        within = [_pair(group) for group in places if len(group) > 1]
        lines += _section(f"images more than once in {split}", within, shown)
    lines += _section("images that a decoder warns of, and reads nevertheless", warning_lines(audits), shown)
    if not any(each.bad for each in audits):
        lines.append("every record can be used")
    return [_relative(line, found.root) for line in lines]


def _first_of_each(group: Sequence[Occurrence], kind: Callable[[Occurrence], str | None]) -> list[Occurrence]:
    """The first record of each kind, without those that have none."""
    firsts: dict[str, Occurrence] = {}
    for each in group:
        name = kind(each)
        if name is not None:
            firsts.setdefault(name, each)
    return list(firsts.values())


def _pair(texts: Sequence[str]) -> str:
    return f"{texts[0]} = {texts[1]}{_and_more(len(texts) - 2)}"


def _section(title: str, entries: Sequence[str], shown: int | None) -> list[str]:
    """A heading with the number of entries, and the entries; nothing when there are none."""
    return [f"{title}: {len(entries)}", *_limited([f"  {entry}" for entry in entries], shown)] if entries else []


def _relative(line: str, root: str | None) -> str:
    """``line`` with paths relative to ``root``, where they begin."""
    return line if root is None else re.sub(rf"(?<= ){re.escape(os.path.join(one_line(root), ''))}", "", line)


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
    without = [name for name, count in counts if not count]
    if without:
        lines.append(f"  {len(without)} of {len(counts)} classes have no usable record: {_some(without)}")
    if shown is None or len(counts) <= shown:
        lines.append(f"  {', '.join(f'{name} {count}' for name, count in each.class_counts.items())}")
    else:
        (most, most_count), (least, least_count) = counts[0], counts[-1]
        lines.append(f"  {len(counts)} classes of {least_count} ({least}) to {most_count} ({most}) records")
    return lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + _and_more(len(names[SHOWN:]))


def _limited(lines: Sequence[str], shown: int | None) -> list[str]:
    if shown is None or len(lines) <= shown:
        return list(lines)
    return [*lines[:shown], f"  and {len(lines) - shown} more; report=PATH lists all"]
