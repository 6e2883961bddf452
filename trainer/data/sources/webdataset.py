"""Images in tar shards as webdataset writes them: one sample after another, each an image and a label."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.config.contracts import Split
from trainer.config.schema.sources import WebDatasetConfig
from trainer.data.reads import reading
from trainer.data.sources.cache import Arrays, load_or_make
from trainer.data.sources.class_names import numbered, read_labels_file
from trainer.data.sources.labels import UNKNOWN
from trainer.data.sources.open_files import AnyRoot, OpenFiles
from trainer.data.sources.progress import tracked
from trainer.data.sources.record_index import CONCURRENT_FILES
from trainer.data.sources.remote_files import ahead_of
from trainer.data.sources.split_files import existing_root, split_files
from trainer.data.sources.stored_labels import StoredLabels
from trainer.data.sources.tar_members import BLOCK, NAME_BYTES, mark, size_in, title
from trainer.data.sources.tar_samples import SampleRules, Samples, fault_of, index_samples
from trainer.errors import BadRecord, UsageError
from trainer.storage.unreadable import unusable_record

Numbers = npt.NDArray[np.int64]

INDEX = "samples 2"  # another number where another index is made of the same files


class WebDatasetSplit:
    """One split of tar shards, as stored. Labels are in the index; an image is one read. Safe to use from several
    threads.
    """

    def __init__(self, config: WebDatasetConfig, split: Split) -> None:
        self._root = existing_root(config)
        self.class_names = _class_names(config, self._root)
        names = None if config.labels_file is None else self.class_names
        self._skip_bad = config.on_bad_record == "skip"
        self._rules = _rules(config, StoredLabels(len(self.class_names), config.label_offset, names))
        self._paths = split_files(config, self._root, split, braces=True)
        self.ahead = ahead_of(self._root, self._paths, split)
        how = (config.label_key, str(config.label_field), str(config.label_offset), str(names is None))
        settings = (INDEX, *config.extensions, *how)
        stored = load_or_make(self._root, "index", self._paths, (*settings, "\n".join(self.class_names)), self._build)
        self._samples = Samples(*(stored[name] for name in Samples._fields))
        self._first = np.cumsum([0, *stored["counts"]])
        self._files = OpenFiles(self._paths)
        self.count = int(self._first[-1])
        if not self.count:
            endings = ", ".join(config.extensions)
            raise UsageError(
                f"the shards of {split} in {self._root} have no sample with an image ({endings}) or a label "
                f"({config.label_key}): their members are others; see data.extensions and data.label_key"
            )

    def read(self, records: Numbers) -> tuple[list[bytes], Numbers]:
        return [self._image(int(record)) for record in records], self._samples.label[records].astype(np.int64)

    def labels(self) -> Numbers:
        labels = self._samples.label.astype(np.int64)
        bad = np.flatnonzero(labels == UNKNOWN)
        if len(bad) and not self._skip_bad:
            raise self._bad(int(bad[0]))
        return labels

    def expect(self, records: Numbers) -> None:
        """Those that can be used: of the others a part is read, for a message."""
        for record in records[self._samples.label[records] != UNKNOWN].tolist():
            begin, size = int(self._samples.block[record]) * BLOCK, int(self._samples.size[record])
            self._files[self._file_of(record)].expect(begin - BLOCK, begin + size)

    def place(self, record: int) -> str:
        key = self._key(record)
        return f"{self._numbered(record)} ({key})" if key else self._numbered(record)

    def listing(self, records: Numbers) -> str:
        """Of names, sizes and labels. A name is that of the image's member, its first 100 bytes."""
        digest = hashlib.sha256()
        for values in (self._samples.mark, self._samples.size, self._samples.label):
            digest.update(values[records].astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def part(self, records: Numbers, count: int) -> Numbers:
        return records[:count]

    def _image(self, record: int) -> bytes:
        if self._samples.label[record] == UNKNOWN:
            raise self._bad(record)
        begin, size = int(self._samples.block[record]) * BLOCK, int(self._samples.size[record])
        try:
            with reading(lambda: self.place(record)):
                data = self._files[self._file_of(record)].pread(BLOCK + size, begin - BLOCK)
        except OSError as error:
            raise unusable_record(self.place(record), error) from error
        if len(data) != BLOCK + size:
            raise BadRecord(
                f"{self._numbered(record)} ends after {max(0, len(data) - BLOCK)} of {size} bytes, although its file "
                "was longer when it was indexed; data must not change while it is in use"
            )
        if mark(data) != self._samples.mark[record] or size_in(data) not in (size, None):
            raise BadRecord(
                f"{self._numbered(record)} has another header at byte {begin - BLOCK} than when its file was indexed: "
                "it is damaged, or was changed or replaced; data must not change while it is in use"
            )
        return data[BLOCK:]

    def _bad(self, record: int) -> UsageError:
        file = self._file_of(record)
        try:
            key, reason = fault_of(self._paths[file], self._files[file], int(self._samples.block[record]), self._rules)
        except OSError as error:
            return unusable_record(self._numbered(record), error)
        return BadRecord(f"{self._numbered(record)} ({key}) {reason}")

    def _key(self, record: int) -> str:
        """The name in the last header of the sample's image or, of one that cannot be used, its key; for messages.
        Empty where it is not on this machine.
        """
        file, block = self._file_of(record), int(self._samples.block[record])
        try:
            if self._samples.label[record] == UNKNOWN:
                if not isinstance(self._paths[file], Path):
                    return ""
                return fault_of(self._paths[file], self._files[file], block, self._rules)[0]
            return title(self._files[file].at_hand(NAME_BYTES, (block - 1) * BLOCK).partition(b"\0")[0])
        except (OSError, UsageError):
            return "its name cannot be read"

    def _numbered(self, record: int) -> str:
        file = self._file_of(record)
        return f"{self._paths[file]} record {record - self._first[file]}"

    def _file_of(self, record: int) -> int:
        return int(np.searchsorted(self._first, record, side="right")) - 1

    def _build(self) -> Arrays:
        with ThreadPoolExecutor(CONCURRENT_FILES) as pool:
            walked = pool.map(lambda path: index_samples(path, self._rules), self._paths)
            found = list(tracked(walked, f"indexing {self._root}", len(self._paths)))
        counts = np.array([len(each.block) for each in found], np.int64)
        columns = [list(column) for column in zip(*found, strict=True)]
        del found
        arrays = {}
        for name, parts in zip(Samples._fields, columns, strict=True):
            arrays[name] = np.concatenate(parts)
            parts.clear()  # there may be millions of samples: not all of them twice
        return {**arrays, "counts": counts}


def _rules(config: WebDatasetConfig, labels: StoredLabels) -> SampleRules:
    ending = config.label_key.lower()
    json = ending.rpartition(".")[2] in ("json", "jsn")

    def label_of(data: bytes) -> int:
        return labels.of_json(data, config.label_field) if json else labels.of_text(data)

    return SampleRules(frozenset(each.encode() for each in config.extensions), ending.encode(), label_of)


def _class_names(config: WebDatasetConfig, root: AnyRoot) -> tuple[str, ...]:
    if config.labels_file is not None:
        return read_labels_file(root / config.labels_file, config.label_offset)
    assert config.num_classes is not None, "check_keys requires one of them"
    return numbered(config.num_classes)
