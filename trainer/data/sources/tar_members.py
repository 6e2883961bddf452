"""The members of a tar file and where their data lie, from its headers alone.

Layout (POSIX pax; GNU tar's manual, "Basic Tar Format"): blocks of 512 bytes. A member is a header with a checksum of
itself, and its data, filled up to whole blocks. It may have further headers before its own: PAX records, GNU long
names. Blocks of zeros end the archive. Nothing checks the data.

The plain forms are read here, because the standard library takes twenty times as long. All others go through its
parser: names in several headers, sizes that are not octal numbers, links, sparse files.
"""

from __future__ import annotations

import io
import os
import shlex
import struct
import tarfile
import zlib
from collections.abc import Iterator
from typing import TypeAlias

from trainer.data.sources.open_files import AnyPath, OpenFile
from trainer.errors import UsageError, one_line

BLOCK = 512
WINDOW = 8 * BLOCK  # the headers of two members with PAX records, and a small label between them
LONGEST_PLAIN = 3 * BLOCK  # headers of a member with the times that PAX has in fractions of seconds
LONGEST_END = 2**20  # bytes of zeros that are read at once
MOST_SUMS = 4096  # that are remembered; of most files there are some hundreds
MODULUS = 65521  # of Adler-32 (RFC 1950)
NAME_BYTES = 100  # where a header begins
# of a header: name, size, the end of that number, checksum, type, and the first byte of the part before the name
FIELDS = struct.Struct("100s24x11sc12x8sB188xB166x")
TYPE = 156
ENDS, CHECKSUM_ENDS = (b"\0", b" "), (b"\0 ", b" \0")  # of numbers
FOLDER = "not a file"  # a folder, a device: nothing that could be an image
REGULAR, PAX = ord("0"), ord("x")
# a PAX record is its length in digits, a space, a name, an equals sign, a value, a line end; how one of a time begins
TIMES = {b"%d mtime=" % length: length for length in range(10, 100)}
TIME_BYTES = 9
# how a compressed file begins, and what unpacks it
COMPRESSED = {
    b"\x1f\x8b": ("gzip", ".gz"),
    b"BZh": ("bzip2", ".bz2"),
    b"\xfd7zXZ\x00": ("xz", ".xz"),
    b"\x28\xb5\x2f\xfd": ("zstd", ".zst"),
    b"\x04\x22\x4d\x18": ("lz4", ".lz4"),
}


# The name as stored; first byte and size of the data; first byte of the headers; what it is instead of a file whose
# data lie there: a folder, a link. A plain tuple, because there are millions of them.
Member: TypeAlias = tuple[bytes, int, int, int, str | None]


class TarHeaders:
    """The headers of an open tar file at ``path``, read through a ``window`` on it whose first byte is ``first``."""

    def __init__(self, path: AnyPath, file: OpenFile) -> None:
        self.path = path
        self._file = file
        self._size = file.size
        self.window, self.first = b"", 0
        self._library: tarfile.TarFile | None = None

    def read(self, begin: int, size: int) -> bytes:
        """``size`` bytes at ``begin``; fewer at the end of the file."""
        place = begin - self.first
        if place >= 0 and place + size <= len(self.window):
            return self.window[place : place + size]
        return self._file.pread(size, begin)

    def members(self, start: int = 0) -> Iterator[Member]:
        """All members from the header at ``start`` on.

        Raises:
            UsageError: the file is not a tar file, compressed, cut off, damaged, or has data behind its end; names the
                byte.
        """
        offset, window, first, length = start, b"", 0, 0
        fields, adler, sums = FIELDS.unpack_from, zlib.adler32, _SUMS
        while True:  # a million times: it has no objects and few calls
            place = offset - first
            if place < 0 or place + LONGEST_PLAIN > length:
                window, first, place = self._file.pread(WINDOW, offset), offset, 0
                length = len(window)
                self.window, self.first = window, first
            if place + LONGEST_PLAIN <= length and window[place + TYPE] == PAX:
                records = place + BLOCK
                time = TIMES.get(window[records : records + TIME_BYTES])
                if time is not None and not window[records + time]:  # the only one: it says nothing of name or size
                    place += 2 * BLOCK
            behind, size = place + BLOCK, -1
            if behind <= length:
                name, octal, end, checksum, kind, prefix = fields(window, place)
                plain = kind == REGULAR and not prefix and end in ENDS  # with its name in one field
                if plain and adler(window[place:behind]) & 0xFFFF == sums[checksum]:
                    try:
                        size = int(octal, 8)
                    except ValueError:
                        size = -1
            if size >= 0:
                begin = first + behind
                member: Member = name.partition(b"\0")[0], begin, size, offset, None
                after = begin + (size + BLOCK - 1) // BLOCK * BLOCK
            else:
                found = self._by_library(offset)
                if found is None:
                    return
                member, after = found
            if after > self._size:
                raise UsageError(
                    f"{self.path} ends inside {title(member[0])}, which begins at byte {offset}; it was cut off, or is "
                    "still being written: write or copy it again"
                )
            yield member
            offset = after

    def _by_library(self, offset: int) -> tuple[Member, int] | None:
        """The member whose headers begin at ``offset``, and where the next one's do; None at the end of the archive."""
        block = self.read(offset, BLOCK)
        if len(block) == BLOCK and not any(block):
            self._check_end(offset)
            return None
        if self._library is None:
            empty = io.BytesIO(bytes(2 * BLOCK))  # it wants to read a header now
            self._library = tarfile.TarFile(fileobj=empty, encoding="utf-8", errors="surrogateescape")
            self._library.fileobj = _At(self._file)
        library = self._library
        library.pax_headers = {}
        library.offset = offset
        assert library.fileobj is not None
        library.fileobj.seek(offset)
        try:
            info = tarfile.TarInfo.fromtarfile(library)
        except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
            raise self._unreadable(offset, block, str(error)) from error
        name = info.name.encode("utf-8", "surrogateescape")
        special = None
        if info.issym() or info.islnk():
            special = f"a link to {one_line(info.linkname)}"
        elif info.sparse is not None:
            special = "stored as a sparse file"
        elif not info.isreg():
            special = FOLDER
        return (name, info.offset_data, info.size, offset, special), int(library.offset)

    def _check_end(self, offset: int) -> None:
        """Refuse anything behind the end of the archive: what follows a block of zeros is not read by any program."""
        for begin in range(offset, self._size, LONGEST_END):
            found = self._file.pread(LONGEST_END, begin)
            if found.count(0) != len(found):
                byte = begin + len(found) - len(found.lstrip(b"\0"))
                raise UsageError(
                    f"{self.path} has data at byte {byte}, behind its end at byte {offset}: it is damaged there, or "
                    "two archives in one file, of which only the first would be read; write it again"
                )

    def _unreadable(self, offset: int, block: bytes, reason: str) -> UsageError:
        if offset == 0:
            for begin, (kind, ending) in COMPRESSED.items():
                if block.startswith(begin):
                    return UsageError(_compressed(self.path, kind, ending))
        if offset == self._size:
            return UsageError(
                f"{self.path} has no end: it was cut off behind the member before byte {offset}, or its writer was "
                "killed; write or copy it again\nif nothing is missing, this ends it:\n"
                f"  head -c {2 * BLOCK} /dev/zero >> {shlex.quote(str(self.path))}"
            )
        if len(block) < BLOCK:
            return UsageError(f"{self.path} ends inside the header at byte {offset}: write or copy it again")
        what = "is not a tar file, or" if offset == 0 else "is damaged:"
        return UsageError(
            f"{self.path} {what} the header at byte {offset} cannot be read ({reason})\nwrite or copy it again"
        )


class _At(io.RawIOBase):
    """An open file as the library wants it, with a place of its own."""

    def __init__(self, file: OpenFile) -> None:
        self._file, self._place = file, 0

    def seek(self, place: int, whence: int = 0) -> int:
        assert whence == os.SEEK_SET
        self._place = place
        return place

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1) -> bytes:
        assert size >= 0
        found = self._file.pread(size, self._place)
        self._place += len(found)
        return found


def mark(header: bytes) -> int:
    """A CRC-32 of the first ``NAME_BYTES`` of a header: of the name, as far as it is there."""
    return zlib.crc32(header[:NAME_BYTES])


def size_in(header: bytes) -> int | None:
    """The size of the data, where the header has it as an octal number."""
    try:
        return int(header[124:135], 8)
    except ValueError:
        return None


def title(name: bytes) -> str:
    """A member's name, for messages."""
    return one_line(name.decode("utf-8", "surrogateescape"))


class _Sums(dict[bytes, int]):
    """By a checksum as it is written, the lower half of the Adler-32 of such a header: one more than the sum of the
    bytes. A checksum counts its own field as eight spaces. -1 where it is not written as most programs do it.
    """

    def __missing__(self, field: bytes) -> int:
        try:
            found = (int(field[:6], 8) - 8 * ord(" ") + sum(field) + 1) % MODULUS
        except ValueError:
            found = -1
        if field[6:] not in CHECKSUM_ENDS:
            found = -1
        if len(self) < MOST_SUMS:
            self[field] = found
        return found


_SUMS = _Sums()


def _compressed(path: AnyPath, kind: str, ending: str) -> str:
    name = str(path)
    plain = name.removesuffix(ending) if name.endswith(ending) else f"{os.path.splitext(name)[0]}.unpacked.tar"
    plain = f"{plain.removesuffix('.tgz')}.tar" if not plain.endswith(".tar") else plain
    command = f"{kind} -dc {shlex.quote(name)} > {shlex.quote(plain)}"
    return (
        f"{path} is compressed with {kind}: a member inside cannot be read without all before it, so there is no exact "
        f"order to resume; images hardly get smaller by it\nthis unpacks it; let the pattern match the result:\n"
        f"  {command}"
    )
