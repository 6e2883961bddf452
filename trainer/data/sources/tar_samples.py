"""The samples of a tar file as webdataset understands them: members that follow one another and have one key.

The key of a member is its path up to the first dot of the base name; what follows is its ending, in any case. Hidden
names, names without a dot and names like ``__meta__`` belong to no sample.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from array import array
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.data.sources.labels import UNKNOWN
from trainer.data.sources.open_files import AnyPath, OpenFile, open_file
from trainer.data.sources.stored_labels import NoLabel
from trainer.data.sources.tar_members import BLOCK, FOLDER, NAME_BYTES, Member, TarHeaders, mark, title
from trainer.errors import UsageError, few

TOGETHER = " (the members of a sample must follow one another: tar --sort=name)"
SLASH, META_BEGIN = ord("/"), ord("_")
LAST: Member = (b"\0.", 0, 0, 0, None)  # behind the last member: another key
META = re.compile(rb"__[^/]*__($|/)")
LARGEST_IMAGE = 2**32 - 1  # bytes
LARGEST_LABEL = 2**20
NONE = -2  # a sample has no member with a label
REMEMBERED = 100_000  # texts of labels, none longer than LONGEST_REMEMBERED bytes
LONGEST_REMEMBERED = 32


@dataclasses.dataclass(frozen=True)
class SampleRules:
    """``endings`` are those of images, ``label_ending`` that of the member with the label, in small letters;
    ``label_of`` makes a label of its bytes, or raises ``NoLabel``.
    """

    endings: frozenset[bytes]
    label_ending: bytes
    label_of: Callable[[bytes], int]


class Samples(NamedTuple):
    """Of every sample of a file, 16 bytes: the ``block`` (512 bytes) in which the image's data begin, their ``size`` in
    bytes, the ``label``, the ``mark`` of the image's header (``tar_members.mark``). A sample that cannot be used has
    the block in which its headers begin, and ``UNKNOWN`` for its label.
    """

    block: npt.NDArray[Any]  # uint32 [n], as size and mark; label is int32 [n]
    size: npt.NDArray[Any]
    label: npt.NDArray[Any]
    mark: npt.NDArray[Any]


class _Labels:
    """The labels of texts. Those of short texts are ``known``, because there are few of them."""

    def __init__(self, rules: SampleRules) -> None:
        self._label_of = rules.label_of
        self.known: dict[bytes, int] = {}

    def of(self, data: bytes) -> int:
        """The label, or ``UNKNOWN``."""
        try:
            found = self._label_of(data)
        except NoLabel:
            return UNKNOWN
        if len(data) <= LONGEST_REMEMBERED and len(self.known) < REMEMBERED:
            self.known[data] = found
        return found


def index_samples(path: AnyPath, rules: SampleRules) -> Samples:
    """The samples that have an image or a label, in the order of the file; reads headers and labels only.

    Raises:
        UsageError: the file cannot be read, or is no whole tar file.
    """
    file = open_file(path, in_order=True)
    try:
        return _samples(TarHeaders(path, file), rules)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except OverflowError as error:
        raise UsageError(f"{path} is larger than 2 TiB; write smaller shards") from error
    finally:
        file.close()


def _samples(headers: TarHeaders, rules: SampleRules) -> Samples:
    """Every line of the loop is run a million times: it has no objects and few calls."""
    blocks, sizes, labels, marks = array("I"), array("I"), array("i"), array("I")
    endings, wanted, texts = rules.endings, rules.label_ending, _Labels(rules)
    key, first, images, image, image_size, image_mark, label = b"", 0, 0, 0, 0, 0, NONE
    for name, begin, size, start, special in itertools.chain(headers.members(), [LAST]):
        dot = name.find(b".", name.rfind(b"/") + 1)
        if dot < 1 or special == FOLDER or name[dot - 1] == SLASH or (name[0] == META_BEGIN and META.match(name)):
            continue
        if name[:dot] != key:
            if images == 1 and label >= 0 and 0 < image_size <= LARGEST_IMAGE:
                blocks.append(image // BLOCK)
                sizes.append(image_size)
                labels.append(label)
                marks.append(image_mark)
            elif images or label != NONE:
                blocks.append(first // BLOCK)
                sizes.append(0)
                labels.append(UNKNOWN)
                marks.append(0)
            key, first, images, label = name[:dot], start, 0, NONE
        ending = name[dot + 1 :].lower()
        if ending == wanted:
            if label != NONE or special is not None or size > LARGEST_LABEL:
                label = UNKNOWN
            else:
                place = begin - headers.first
                data = headers.window[place : place + size]
                if len(data) != size:
                    data = headers.read(begin, size)
                known = texts.known.get(data)
                label = texts.of(data) if known is None else known
        elif ending in endings:
            images += 1 if special is None else 2
            image, image_size = begin, size
            place = begin - BLOCK - headers.first
            header = headers.window[place : place + NAME_BYTES] if place >= 0 else b""
            image_mark = mark(header if len(header) == NAME_BYTES else headers.read(begin - BLOCK, NAME_BYTES))
    return Samples(
        np.array(blocks, np.uint32), np.array(sizes, np.uint32), np.array(labels, np.int32), np.array(marks, np.uint32)
    )


def _end_of_key(name: bytes) -> int:
    """Where the first dot of the base name is; less than 1 for a name that belongs to no sample."""
    dot = name.find(b".", name.rfind(b"/") + 1)
    if dot < 1 or name[dot - 1] == SLASH or (name.startswith(b"__") and META.match(name)):
        return -1
    return dot


def fault_of(path: AnyPath, file: OpenFile, block: int, rules: SampleRules) -> tuple[str, str]:
    """The key of the sample whose headers begin at ``block``, and why it cannot be used.

    Raises:
        UsageError: as ``index_samples``.
    """
    headers = TarHeaders(path, file)
    key, members = _members_of_sample(headers, block * BLOCK)
    return title(key), _fault(headers, key, members, rules)


def _fault(headers: TarHeaders, key: bytes, members: list[Member], rules: SampleRules) -> str:
    there = few([title(name[len(key) + 1 :]) for name, *_ in members])
    images = [member for member in members if member[0][len(key) + 1 :].lower() in rules.endings]
    labels = [member for member in members if member[0][len(key) + 1 :].lower() == rules.label_ending]
    wanted = title(rules.label_ending)
    if not images:
        return f"has no image, only {there}{TOGETHER}; the endings of images are data.extensions"
    if len(images) > 1:
        return f"has {len(images)} images ({few([title(name) for name, *_ in images])}); choose with data.extensions"
    if not labels:
        return f"has no label {wanted} (data.label_key), only {there}{TOGETHER}"
    if len(labels) > 1:
        return f"has {len(labels)} labels ({few([title(name) for name, *_ in labels])})"
    return _content_fault(headers, images[0], labels[0], rules)


def _content_fault(headers: TarHeaders, image: Member, label: Member, rules: SampleRules) -> str:
    for what, (name, _, size, _, special), most in (
        ("an image", image, LARGEST_IMAGE),
        ("a label", label, LARGEST_LABEL),
    ):
        if special is not None:
            return f"has {what}, {title(name)}, that is {special}, so its data are not there"
        if size > most or (not size and what == "an image"):
            return f"has {what}, {title(name)}, of {size} bytes"
    try:
        rules.label_of(headers.read(label[1], label[2]))
    except NoLabel as error:
        return str(error)
    return "has changed since its file was indexed; data must not change while it is in use"


def _members_of_sample(headers: TarHeaders, start: int) -> tuple[bytes, list[Member]]:
    """The key of the sample at ``start``, and its members."""
    key = b""
    found: list[Member] = []
    for member in headers.members(start):
        dot = _end_of_key(member[0])
        if dot < 1 or member[4] == FOLDER:
            continue
        if found and member[0][:dot] != key:
            break
        key = member[0][:dot]
        found.append(member)
    return key, found
