"""TensorBoard's event files as files: truncating them where a run goes back, and the order in which they are read.

One process writes a file, so its steps never decrease, except events of step 0 (the graph, the format's version), which
can be anywhere. That is why reading its end is enough to find what to cut, however long the file is. A record is uint64
length, uint32 CRC of the length, the data, uint32 CRC of the data (tensorflow/core/lib/io/record_writer.h). The first
CRC identifies the beginning of a record when one searches near the end.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event

from trainer.storage.checksums import masked_crc32c
from trainer.storage.durable import sync
from trainer.storage.guarded import open_regular

HEADER = struct.Struct("<QI")
LENGTH_BYTES = 8
FOOTER_BYTES = 4
STEP_AT, STEP_TAG = 9, 0x10  # in an Event: the double wall_time with its tag, then the tag of the integer step
FIRST_READ = 1 << 18  # bytes at the end of a file; doubled until they are enough
FIRST_EVENTS = 20  # the first step of a file is searched among these

# seconds since 1970, by TensorFlow's EventsWriter; then the name of a host, which may contain a line end
NAME = re.compile(r"events\.out\.tfevents\.(\d{10})\.(.+)", re.DOTALL)


def truncate_events(directory: Path, step: int) -> None:
    """Rewrite the event files without events later than ``step``.

    Otherwise TensorBoard would draw both the abandoned and the new values of the same steps.

    Raises:
        OSError: a file cannot be read or written. The error names it.
    """
    for path in _files(directory):
        try:
            _truncate(path, step)
        except OSError as error:
            error.filename = error.filename or str(path)  # a read or write knows only the descriptor
            raise


def _truncate(path: Path, step: int) -> None:
    with open_regular(path) as file:
        begin = _before_later(file, step)
        if all(at <= step for at, _ in _events(file, begin)):
            return
        temporary = path.with_name(f".{path.name}")  # TensorBoard reads every name that contains "tfevents"
        temporary = temporary.with_name(temporary.name.replace("tfevents", "rewriting"))
        temporary.unlink(missing_ok=True)  # a crash may have left it, or in a foreign directory it may lead elsewhere
        file.seek(0)
        with temporary.open("xb") as kept:
            _copy(file, kept, begin)
            kept.writelines(record for at, record in _events(file, begin) if at <= step)
    sync(temporary)
    temporary.rename(path)


def put_in_order(directory: Path, now: int) -> None:
    """Rename event files, where needed, so that their names sort in the order of their steps, and before the name of a
    file made at ``now`` (seconds since 1970). TensorBoard reads files in the order of their names, and a clock can go
    back.
    """
    found = [(path, match) for path in _files(directory) if (match := NAME.fullmatch(path.name)) is not None]
    found.sort(key=lambda entry: (*_span(entry[0]), entry[0].name))
    later, names = now, []
    for path, match in reversed(found):
        later = min(int(match[1]), later - 1)
        names.append((path, path.with_name(f"events.out.tfevents.{max(0, later):010d}.{match[2]}")))
    for path, target in reversed(names):  # the oldest first: no name becomes a later one, so none is taken
        if target != path and not target.exists():
            path.rename(target)


def _files(directory: Path) -> list[Path]:
    """The regular event files. TensorFlow would follow a link, or wait for a FIFO."""
    found = sorted(directory.glob("events.out.tfevents.*"))
    return [path for path in found if path.is_file() and not path.is_symlink()]


def _span(path: Path) -> tuple[int, int]:
    """The last and the first step in a file; 0 when it has none."""
    with open_regular(path) as file:
        first = next((at for at, _ in itertools.islice(_events(file, 0), FIRST_EVENTS) if at), 0)
        last = max((at for at, _ in _events(file, _before_later(file, 0, any_step=True))), default=0)
        return last, first


def _before_later(file: io.BufferedReader, step: int, *, any_step: bool = False) -> int:
    """The byte where a record begins, near the end of the file if possible. No event before it is later than ``step``.

    With ``any_step``, any record will do that has a step in it or after it.
    """
    size, length = os.fstat(file.fileno()).st_size, FIRST_READ
    while length < size:
        begin = _first_record(file, size - length)
        steps = (at for at, _ in _events(file, begin)) if begin is not None else iter(())
        first = next((at for at in steps if at), None)
        if begin is not None and first is not None and (any_step or first <= step):
            return begin
        length *= 2
    return 0


def _first_record(file: io.BufferedReader, begin: int) -> int | None:
    """The byte where the first record at or after byte ``begin`` begins; None when no length there has its CRC."""
    file.seek(begin)
    content = file.read()
    at = content.find(bytes(4), 4)  # the upper half of a length
    while at >= 4:
        header = content[at - 4 : at - 4 + HEADER.size]
        if len(header) == HEADER.size and HEADER.unpack(header)[1] == masked_crc32c(header[:LENGTH_BYTES]):
            return begin + at - 4
        at = content.find(bytes(4), at + 1)
    return None


def _events(file: io.BufferedReader, begin: int) -> Iterator[tuple[int, bytes]]:
    """Step and record of every event from byte ``begin`` on. A killed process leaves a record without its end."""
    size = os.fstat(file.fileno()).st_size
    file.seek(begin)
    while len(header := file.read(HEADER.size)) == HEADER.size:
        length, crc = HEADER.unpack(header)
        begin += HEADER.size + length + FOOTER_BYTES
        if crc != masked_crc32c(header[:LENGTH_BYTES]) or begin > size:
            return
        rest = file.read(length + FOOTER_BYTES)
        step = _step_of(rest[:length])
        if step is None:
            return
        yield step, header + rest


def _step_of(event: bytes) -> int | None:
    if len(event) > STEP_AT and event[STEP_AT] == STEP_TAG:
        step = 0
        for shift, byte in enumerate(event[STEP_AT + 1 : STEP_AT + 11]):
            step |= (byte & 0x7F) << 7 * shift
            if byte < 0x80:
                return step
    try:
        return Event.FromString(event).step
    except DecodeError:
        return None


def _copy(source: io.BufferedReader, target: io.BufferedWriter, count: int) -> None:
    while count:
        piece = source.read(min(count, 1 << 20))
        target.write(piece)
        count -= len(piece)
