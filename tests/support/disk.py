"""What a disk can hold after a process or the power died, computed from the calls that the process made.

A killed process leaves exactly what its calls did so far: the kernel has it. Power that fails leaves less. The model
of that is the weakest one that POSIX allows, as in "All File Systems Are Not Created Equal" (Pillai et al., OSDI 2014):

- what was written to a file is on disk for sure once that file was fsynced; before, any write may be there, missing,
  there by half, or there as zeros, whatever the order;
- a name in a directory (made, removed, renamed) is on disk for sure once that directory was fsynced; before, any of
  them may be there or not, whatever the order. A rename across directories needs both.
- a rename is atomic.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from interposed import Call

Fate = str  # kept, lost, and of a write also half or zeros
ROOT = 0


@dataclasses.dataclass(frozen=True)
class Operation:
    """A call in terms of inodes: numbers that stay the same when names change. ``target`` is the inode concerned,
    ``directories`` those whose entries change, as (inode, name).
    """

    call: Call
    target: int
    directories: tuple[tuple[int, str], ...]


class Disk:
    """A tree of directories and files by inode number."""

    def __init__(self) -> None:
        self.directories: dict[int, dict[str, int]] = {ROOT: {}}
        self.files: dict[int, bytearray] = {}

    def find(self, path: str) -> int:
        inode = ROOT
        for name in Path(path).parts:
            inode = self.directories[inode][name]
        return inode

    def place(self, path: str) -> tuple[int, str]:
        return self.find(str(Path(path).parent)), Path(path).name

    def apply(self, operation: Operation, fate: Fate) -> None:
        """Let one call take effect, as far as what it acts on is there."""
        call, target = operation.call, operation.target
        match call.name:
            case "creat" | "mkdir":
                (parent, name) = operation.directories[0]
                self.directories[parent][name] = target
            case "unlink" | "rmdir":
                (parent, name) = operation.directories[0]
                if name in self.directories[parent] and self.directories[parent][name] == target:
                    del self.directories[parent][name]
            case "rename":
                (source, old), (destination, new) = operation.directories
                if old in self.directories[source] and self.directories[source][old] == target:
                    del self.directories[source][old]
                self.directories[destination][new] = target
            case "write":
                data = call.data[: len(call.data) // 2] if fate == "half" else call.data
                self._write(target, call.offset, bytes(len(data)) if fate == "zeros" else data)
            case "truncate":
                content = self.files[target]
                del content[call.offset :]
                content.extend(bytes(call.offset - len(content)))

    def _write(self, target: int, offset: int, data: bytes) -> None:
        content = self.files[target]
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data

    def materialise(self, place: Path, inode: int = ROOT) -> None:
        """Write the tree out as real files below ``place``."""
        place.mkdir()
        for name, entry in self.directories[inode].items():
            if entry in self.directories:
                self.materialise(place / name, entry)
            else:
                (place / name).write_bytes(self.files[entry])


@dataclasses.dataclass(frozen=True)
class Trace:
    """The calls of a process that began with an empty directory."""

    operations: tuple[Operation, ...]
    inodes: int

    def __len__(self) -> int:
        return len(self.operations)

    def disk(self, end: int, fates: dict[int, Fate]) -> Disk:
        """The disk after the first ``end`` calls, each of them kept unless ``fates`` (by its index) says otherwise."""
        disk = Disk()
        for operation in self.operations:
            if operation.call.name == "mkdir":
                disk.directories[operation.target] = {}
            elif operation.call.name == "creat":
                disk.files[operation.target] = bytearray()
        for index, operation in enumerate(self.operations[:end]):
            fate = fates.get(index, "kept")
            if fate != "lost":
                disk.apply(operation, fate)
        return disk

    def unsettled(self, end: int) -> list[int]:
        """The calls among the first ``end`` whose effect no fsync among them has brought to disk."""
        synced: set[int] = set()
        found = []
        for index in reversed(range(end)):
            operation = self.operations[index]
            match operation.call.name:
                case "fsync":
                    synced.add(operation.target)
                case "write" | "truncate":
                    if operation.target not in synced:
                        found.append(index)
                case "creat" | "mkdir" | "unlink" | "rmdir" | "rename":
                    if not {parent for parent, _ in operation.directories} <= synced:
                        found.append(index)
        return found[::-1]

    def after_power_loss(self, end: int, draws: int, seed: int) -> Iterator[dict[int, Fate]]:
        """What may have become of the first ``end`` calls: all lost, each alone lost, each alone kept, and
        ``draws`` random choices.
        """
        unsettled = self.unsettled(end)
        yield dict.fromkeys(unsettled, "lost")
        for index in unsettled:
            for fate in self._fates(index)[1:]:
                yield {index: fate}
            yield dict.fromkeys((other for other in unsettled if other != index), "lost")
        generator = random.Random(f"{seed} {end}")
        for _ in range(draws if unsettled else 0):
            yield {index: generator.choice(self._fates(index)) for index in unsettled}

    def _fates(self, index: int) -> tuple[Fate, ...]:
        writes = self.operations[index].call.name == "write"
        return ("kept", "lost", "half", "zeros") if writes else ("kept", "lost")

    def marks(self, end: int) -> list[str]:
        """The remarks of the process among the first ``end`` calls."""
        return [operation.call.path for operation in self.operations[:end] if operation.call.name == "mark"]


def trace_of(calls: Sequence[Call]) -> Trace:
    """Follow names to inodes by executing the calls."""
    disk, operations, inodes = Disk(), [], ROOT
    for call in calls:
        directories: tuple[tuple[int, str], ...] = ()
        target = ROOT
        if call.name in ("creat", "mkdir") and call.path != ".":
            inodes += 1
            target, directories = inodes, (disk.place(call.path),)
            if call.name == "mkdir":
                disk.directories[target] = {}
            else:
                disk.files[target] = bytearray()
        elif call.name in ("unlink", "rmdir", "rename"):
            target, directories = disk.find(call.path), (disk.place(call.path),)
            if call.name == "rename":
                directories = (*directories, disk.place(call.other))
        elif call.name != "mark":
            target = disk.find(call.path)
        operation = Operation(call, target, directories)
        if call.path != "." or call.name == "fsync":
            disk.apply(operation, "kept")
            operations.append(operation)
    return Trace(tuple(operations), inodes)
