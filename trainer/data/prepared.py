"""Any data as TFRecord shards of small images: made once, in parallel, and gone on with after a kill.

A shard gets its name when it is complete and was read back; then the journal has a line about it. What a second process
finds of the same data and settings it keeps, so a killed one loses the shard that it was writing. The same data and
settings give the same bytes, with the same versions of Pillow and TensorFlow: no time, no place and no order of threads
is in them. The manifest comes last, and nothing that reads the data needs it.

A shard all of whose records are left out is no file: readers take an empty one for a loss. The others of its split then
get their names when all are made, because the names count them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import tensorflow as tf

from trainer.command_line import argument
from trainer.config.contracts import Split
from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.headers import ImageFault
from trainer.data.images.shrinking import shrunk
from trainer.data.sources.progress import tracked
from trainer.data.sources.sample import spread
from trainer.data.sources.source import Source
from trainer.data.sources.tfrecord import TFRecordReader, index_records
from trainer.errors import BadRecord, UsageError, few
from trainer.storage import durable
from trainer.storage.documents import parse_json
from trainer.storage.unacceptable import Unacceptable

MANIFEST, JOURNAL, LABELS = "prepared.json", "unfinished.jsonl", "labels.json"
FILE = "file"  # of a line: the name that a shard has in the end, where it is not that under which it was made
CONTENT = "content"
COMPARED = 256  # images of each split
LISTED = 20  # classes that a message names to be copied
RECORDS_A_SHARD = 1024
RECORDS_A_TASK = 8
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the bytes, beside the images: the longest side in pixels, and the quality of a JPEG, 1 to 100."""

    max_side: int
    quality: int
    preprocess: PreprocessConfig


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What is there now: records and shards of each split, bytes of the images before and after, and the records that
    were left out because they cannot be used, each with the reason. ``made`` shards are of this process.
    """

    records: Mapping[str, int]
    shards: Mapping[str, int]
    bytes_before: int
    bytes_after: int
    left_out: tuple[str, ...]
    made: int


def prepare(sources: Mapping[Split, Source], settings: Settings, output: Path) -> Prepared:
    """Write ``sources``, by the names of their splits, to the directory ``output``, which is made.

    Raises:
        UsageError: ``output`` holds something else, was begun with other data or settings, cannot be written, or
            another process prepares it; or a split has a class that the first one lacks.
        BadRecord: a record cannot be used, and the data's policy is to fail; what is complete stays.
    """
    about = _about(sources, settings)
    labelled = {split: _Labelled(source, split, about["classes"]) for split, source in sources.items()}
    lines, made = [], 0
    with _writing(output):
        done = _begin(output, about)
        planned = [each for split, source in sources.items() for each in _shards(split, source.count)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for split, name, records in tracked(planned, f"preparing {output}", len(planned)):
                line = done.get(name)
                if line is None or not _is_whole(output, line):
                    line = _shard(output / name, labelled[split], records, settings, pool)
                    _note(output, line)
                    made += 1
                lines.append(line)
        _finish(output, about, _named(output, sources, lines))
    counted = {split: _of(split, lines) for split in sources}
    return Prepared(
        records={split: sum(line["records"] for line in each) for split, each in counted.items()},
        shards={split: sum(line["records"] > 0 for line in each) for split, each in counted.items()},
        bytes_before=sum(line["bytes_before"] for line in lines),
        bytes_after=sum(line["bytes_after"] for line in lines),
        left_out=tuple(reason for line in lines for reason in line["left_out"]),
        made=made,
    )


def listing_of_originals(root: Path) -> str | None:
    """The listing of the training records that the shards in ``root`` were made of; None where something else wrote
    them.
    """
    try:
        with (root / MANIFEST).open(encoding="utf-8") as file:
            about = parse_json(file.readline())
    except (OSError, ValueError, Unacceptable):
        return None
    found = about.get("train: listing") if isinstance(about, dict) else None
    return found if isinstance(found, str) else None


def _about(sources: Mapping[Split, Source], settings: Settings) -> dict[str, Any]:
    """What decides every byte of the shards."""
    first = next(iter(sources.values()))
    return {
        "format": FORMAT,
        "max_side": settings.max_side,
        "quality": settings.quality,
        "preprocess.orientation": settings.preprocess.orientation,
        "preprocess.background": settings.preprocess.background,
        "preprocess.sixteen_bit_range": settings.preprocess.sixteen_bit_range,
        "classes": list(first.class_names),
        **{f"{split}: records": source.count for split, source in sources.items()},
        **{f"{split}: listing": source.listing for split, source in sources.items()},
        **{f"{split}: {CONTENT}": _content(source) for split, source in sources.items()},
        "pillow": PIL.__version__,
        "tensorflow": tf.__version__,
    }


def _content(source: Source) -> str:
    """A digest of some images: a listing has their sizes, which an edit of uncompressed images does not change."""
    digest = hashlib.sha256()
    for record, image in spread(source, COMPARED):
        digest.update(b"%d %d\0" % (record, len(image)) + image)
    return digest.hexdigest()[:16]


def _shards(split: Split, count: int) -> Iterator[tuple[Split, str, range]]:
    """Split, name and records of each shard."""
    total = -(-count // RECORDS_A_SHARD)
    for number in range(total):
        begin = number * RECORDS_A_SHARD
        yield split, f"{split}-{number:05d}-of-{total:05d}", range(begin, min(begin + RECORDS_A_SHARD, count))


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Make the directory, alone."""
    try:
        durable.make_directory(output)
        directory = os.open(output, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(directory)
    except BlockingIOError as error:
        raise UsageError(f"another process is preparing output={output}") from error
    except OSError as error:
        raise UsageError(f"output={output} cannot be written: {error.strerror}") from error
    except tf.errors.OpError as error:
        reason = str(error.message).splitlines()[0]
        raise UsageError(f"output={output} cannot be written: {reason}") from error


def _begin(output: Path, about: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is complete already, by the names of shards; begins the journal where nothing is."""
    about = dict(json.loads(json.dumps(about)))
    there = sorted(path.name for path in output.iterdir())
    kept = next((name for name in (MANIFEST, JOURNAL) if name in there), None)
    if there and kept is None:
        raise UsageError(f"output={output} is not empty: {few(there)}; choose another")
    lines = [about] if kept is None else _lines(output / kept)
    differing = [
        name
        for name in about | lines[0]
        if about.get(name) != lines[0].get(name) and (name in lines[0] or not name.endswith(CONTENT))
    ]
    if differing:
        name = differing[0]
        raise UsageError(
            f"output={output} was begun with other data or settings: {name} was {_short(lines[0].get(name))}, and is "
            f"{_short(about.get(name))}{f' (also {few(differing[1:])})' if differing[1:] else ''}\n"
            "choose another output, or remove that one"
        )
    # again, because a kill may have cut off its last line
    durable.replace(output / JOURNAL, "".join(f"{json.dumps(line)}\n" for line in lines).encode())
    return {line["name"]: line for line in lines[1:]}


def _is_whole(output: Path, line: Mapping[str, Any]) -> bool:
    path = output / line.get(FILE, line["name"])
    return not line["records"] or (path.is_file() and durable.digest(path) == line["sha256"])


def _lines(path: Path) -> list[dict[str, Any]]:
    """The settings, and what is said of each shard. A last line that a kill has cut off does not count."""
    lines = []
    try:
        for text in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if text.endswith("\n"):
                lines.append(json.loads(text))
        if not lines or not all(isinstance(line, dict) for line in lines):
            raise ValueError
        return lines
    except ValueError as error:
        raise UsageError(f"{path} is damaged; remove {path.parent}, and prepare the data again") from error


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Labelled:
    """Records with labels that count the classes of all splits, which are those of the first."""

    def __init__(self, source: Source, split: Split, classes: Sequence[str]) -> None:
        """
        Raises:
            UsageError: ``split`` has a class that is none of ``classes``.
        """
        self._source = source
        self.classes = classes
        self.skips = source.skip_bad
        label = {name: number for number, name in enumerate(classes)}
        strange = [name for name in source.class_names if name not in label]
        if strange:
            key = shlex.quote(argument("data.classes", list(classes)))
            choosing = len(classes) <= LISTED and set(classes) <= set(source.class_names)  # every class needs a record
            advice = f"to leave them out: {key}" if choosing else f"take them out of the data for {split}"
            raise UsageError(f"{split} has classes that training lacks: {few(strange)}\n{advice}")
        self._label = [label[name] for name in source.class_names]

    def read(self, number: int) -> tuple[bytes, int]:
        (image,), (label,) = self._source.read(np.array([number]))
        return image, self._label[int(label)]

    def place(self, number: int) -> str:
        return self._source.place(number)


def _shard(
    path: Path, source: _Labelled, records: range, settings: Settings, pool: ThreadPoolExecutor
) -> dict[str, Any]:
    """Write one shard; returns the line about it."""
    tasks = [records[begin : begin + RECORDS_A_TASK] for begin in range(0, len(records), RECORDS_A_TASK)]
    temporary = path.with_name(f".{path.name}")
    before, after, left_out, count = 0, 0, [], 0
    with tf.io.TFRecordWriter(str(temporary)) as writer:
        for results in pool.map(lambda numbers: [_example(source, number, settings) for number in numbers], tasks):
            for size, example in results:
                if isinstance(example, str):
                    left_out.append(example)
                    continue
                serialized, image_bytes = example
                writer.write(serialized)
                before, after, count = before + size, after + image_bytes, count + 1
    _verify(temporary, count)
    line = {
        "name": path.name,
        "sha256": durable.digest(temporary),
        "records": count,
        "bytes_before": before,
        "bytes_after": after,
        "left_out": left_out,
    }
    if not count:
        temporary.unlink()
        return line
    durable.sync(temporary)
    temporary.rename(path)
    durable.sync(path.parent)
    return line


def _example(source: _Labelled, number: int, settings: Settings) -> tuple[int, tuple[bytes, int] | str]:
    """The size of an image, and its record with the size of the new image, or why it is left out."""
    try:
        image, label = source.read(number)
        try:
            small = shrunk(image, settings.max_side, settings.quality, settings.preprocess)
        except ImageFault as error:
            raise BadRecord(f"{source.place(number)} cannot be decoded: {error}") from error
    except BadRecord as error:
        if not source.skips:
            raise
        return 0, str(error)
    features = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[small])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "image/class/text": tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[source.classes[label].encode("utf-8", "surrogateescape")])
        ),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return len(image), (example.SerializeToString(deterministic=True), len(small))


def _verify(path: Path, count: int) -> None:
    """Read back every record of a shard, and compare its checksum."""
    reader = TFRecordReader([path], [index_records(path)], verify_crc=True)
    try:
        if len(reader) != count:
            raise UsageError(f"{path} has {len(reader)} records after {count} were written")
        for number in range(count):
            reader.read(number)
    finally:
        reader.close()


def _note(output: Path, line: Mapping[str, Any]) -> None:
    with (output / JOURNAL).open("a", encoding="utf-8") as journal:
        journal.write(json.dumps(line) + "\n")
    durable.sync(output / JOURNAL)


def _of(split: Split, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines about the shards of a split."""
    return [line for line in lines if line["name"].startswith(f"{split}-")]


def _named(output: Path, splits: Iterable[Split], lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines, after the shards have got names that count those with a record.

    Raises:
        UsageError: a split has none.
    """
    named = []
    for split in splits:
        those = _of(split, lines)
        total = sum(line["records"] > 0 for line in those)
        if not total:
            reasons = [reason for line in those for reason in line["left_out"]]
            raise UsageError(f"no record for {split} can be used: {few(reasons)}")
        number = 0
        for line in those:
            name, made = f"{split}-{number:05d}-of-{total:05d}", output / line["name"]
            renamed = line["records"] > 0 and name != line["name"]
            if renamed and made.exists():  # it is not there where it was renamed before
                made.rename(output / name)
            named.append({**line, FILE: name} if renamed else line)
            number += line["records"] > 0
    return named


def _finish(output: Path, about: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> None:
    # with numbers, because a list of names may look numbered itself: "10:dog" behind "0:cat"
    labels = dict(enumerate(about["classes"]))
    durable.replace(output / LABELS, json.dumps(labels, indent=1).encode() + b"\n")
    texts = [json.dumps(about), *(json.dumps(line) for line in lines)]
    durable.replace(output / MANIFEST, "".join(f"{text}\n" for text in texts).encode())
    (output / JOURNAL).unlink(missing_ok=True)
