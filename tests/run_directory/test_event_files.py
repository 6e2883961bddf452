"""TensorBoard's event files: cut from their end, and read in the order of their steps whatever the clock said."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from trainer.run_directory import event_files
from trainer.run_directory.event_files import put_in_order, truncate_events
from trainer.storage.checksums import masked_crc32c

CLOCK = 1_700_000_000
GRAPH = 0  # the step of the graph, which comes after others


def record(step: int, graph: bytes | None = None) -> bytes:
    event = Event(wall_time=1.5 + step, step=step)
    if graph is None:
        event.summary.CopyFrom(Summary(value=[Summary.Value(tag="loss", simple_value=step)]))
    else:
        event.graph_def = graph
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


def write(directory: Path, stamp: int, steps: Sequence[int], name: str = "host.7.0.v2") -> Path:
    path = directory / f"events.out.tfevents.{stamp:010d}.{name}"
    path.write_bytes(b"".join(map(record, steps)))
    return path


def shown(directory: Path) -> list[int]:
    """The steps that TensorBoard shows, which drops what an earlier step follows."""
    reader = EventAccumulator(str(directory))
    reader.Reload()
    return [event.step for event in reader.Scalars("loss")]


@pytest.mark.parametrize("first_read", [1, 60, 300, 1 << 20])
def test_a_file_is_cut_where_its_steps_are_later_however_little_of_its_end_is_looked_at(
    first_read: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_files, "FIRST_READ", first_read)
    steps = [GRAPH, 1, 1, 2, 3, GRAPH, 3, 4, 300, 300, 301, GRAPH, 40_000]
    large = record(GRAPH, bytes(range(256)) * 8 + bytes(2000))  # zeros look like the upper half of a length
    half = record(50_000)[:-3]  # of a process that was killed
    for step in (0, 1, 2, 3, 4, 299, 300, 301, 39_999, 40_000, 10**9):
        path = write(tmp_path, CLOCK, ())
        records = [(at, large if number == 5 else record(at)) for number, at in enumerate(steps)]
        path.write_bytes(b"".join(content for _, content in records) + half)
        truncate_events(tmp_path, step)
        kept = b"".join(content for at, content in records if at <= step)
        assert path.read_bytes() == (kept + half if step >= max(steps) else kept), step
        assert list(tmp_path.iterdir()) == [path]


def test_files_are_read_in_the_order_of_their_steps_after_the_clock_went_back(tmp_path: Path) -> None:
    ten_years = 10 * 365 * 24 * 3600
    first = write(tmp_path, CLOCK, [GRAPH, 1, 2, 3, 4])
    second = write(tmp_path, CLOCK + 60, [4, 5, 6])
    before = {path.name for path in tmp_path.iterdir()}
    put_in_order(tmp_path, CLOCK + 61)
    assert {path.name for path in tmp_path.iterdir()} == before, "a clock that is right changes no name"

    now = CLOCK - ten_years
    assert shown(tmp_path) == [0, 1, 2, 3, 4, 4, 5, 6]
    write(tmp_path, now, [7, 8])
    assert shown(tmp_path) != [0, 1, 2, 3, 4, 4, 5, 6, 7, 8], "nothing is wrong without it"
    (tmp_path / f"events.out.tfevents.{now:010d}.host.7.0.v2").unlink()
    put_in_order(tmp_path, now)
    write(tmp_path, now, [7, 8])
    assert shown(tmp_path) == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8]
    assert not first.exists()
    assert not second.exists()

    put_in_order(tmp_path, now)  # a restart within the same second
    write(tmp_path, now, [9], "host.10.0.v2")
    assert shown(tmp_path) == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9]


def test_files_that_a_clock_had_put_in_the_wrong_order_are_put_right(tmp_path: Path) -> None:
    write(tmp_path, CLOCK, [GRAPH, 1, 2, 3], "a host\nof two lines.7.0.v2")
    write(tmp_path, CLOCK - 1000, [3, 4, 5])
    (tmp_path / "events.out.tfevents.of another program").write_bytes(b"")
    put_in_order(tmp_path, CLOCK)
    assert shown(tmp_path) == [0, 1, 2, 3, 3, 4, 5]
