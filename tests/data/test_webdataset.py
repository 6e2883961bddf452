"""Tar shards: what is found in them, as webdataset's own reader finds it, and what is refused or named."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shlex
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import braceexpand
import numpy as np
import pytest
import webdataset
from image_data import composed, everything, jpeg, png, write
from tar_shards import image, make_tars, numbered, plain_tar, tar_source, write_samples

from trainer.config.schema.sources import WebDatasetConfig
from trainer.data.sources import webdataset as source_module
from trainer.data.sources.braces import expanded
from trainer.data.sources.open_files import open_file
from trainer.data.sources.shard_names import between
from trainer.data.sources.split_files import split_files
from trainer.data.sources.stored_labels import NoLabel, StoredLabels
from trainer.data.sources.tar_members import TarHeaders
from trainer.data.sources.tar_samples import index_samples
from trainer.errors import BadRecord, NoSuchSplit, UsageError

T1 = "train-000001.tar"


def test_shards_are_one_sequence_as_webdataset_reads_it(tmp_path: Path) -> None:
    root = make_tars(tmp_path)
    source = tar_source(root)
    assert everything(source) == ([jpeg(n) if n % 2 == 0 else png(n) for n in range(12)], [n % 3 for n in range(12)])
    shards = [str(root / "train-000000.tar"), str(root / T1)]
    theirs = list(webdataset.WebDataset(shards, shardshuffle=False).to_tuple("jpg;png", "cls"))
    images, labels = everything(source)
    assert [(data, int(label)) for data, label in theirs] == list(zip(images, labels, strict=True))
    assert source.read(np.array([11, 0, 6, 0]))[1].tolist() == [2, 0, 0, 0]
    assert source.labels().tolist() == labels
    assert source.place(7) == f"{root / T1} record 1 (000007.png)"
    assert tar_source(root, "validation").count == 3
    assert everything(tar_source(root, "train", "data.train_examples=7"))[1] == [0, 1, 2, 0, 1, 2, 0]


def test_a_time_in_fractions_of_seconds_moves_the_data_and_they_are_found(tmp_path: Path) -> None:
    """webdataset's writer gives each member a PAX header for its time, so data begin at byte 1536 and not at 512."""
    path = write_samples(tmp_path / "a.tar", numbered(0, 2))
    file = open_file(path)
    places = [begin for _, begin, *_ in TarHeaders(path, file).members()]
    file.close()
    assert places[0] == 1536
    whole = write_samples(tmp_path / "b.tar", numbered(0, 2), mtime=0)
    file = open_file(whole)
    assert next(TarHeaders(whole, file).members())[1] == 512
    file.close()


LONG = "d" * 90 + "/" + "n" * 90  # longer than a field of a header, shorter than ustar's prefix and name
LONGER = "d" * 200 + "/" + "é" * 120


def forms(place: Path) -> dict[str, Path]:
    """Tar files of every form, each with members of several kinds."""
    made = {}
    for name, kind in (("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        path = place / f"{name}.tar"
        with tarfile.open(path, "w", format=kind, pax_headers={"comment": "x"} if name == "pax" else None) as archive:
            for number, member in enumerate(
                ("a.jpg", "./b.jpg", f"{LONG}.jpg", *(() if name == "ustar" else (f"{LONGER}.cls",)))
            ):
                info = tarfile.TarInfo(member)
                info.size = [0, 1, 511, 512, 513][number]
                info.mtime = 1.5 if number % 2 else 7
                info.uname, info.uid = "é" if name == "pax" else "e", 2**21 + 1 if name != "ustar" else 5
                archive.addfile(info, io.BytesIO(b"x" * info.size))
            folder = tarfile.TarInfo("folder")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            for kind_of_link in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                link = tarfile.TarInfo(f"link{kind_of_link.decode()}.jpg")
                link.type, link.linkname = kind_of_link, "a.jpg"
                archive.addfile(link)
            large = tarfile.TarInfo("last.jpg")
            large.size = 3000
            archive.addfile(large, io.BytesIO(b"y" * 3000))
        made[name] = path
    return made


def test_members_are_those_of_the_standard_library_in_every_form_of_tar(tmp_path: Path) -> None:
    files = forms(tmp_path)
    files["webdataset"] = write_samples(tmp_path / "webdataset.tar", numbered(0, 5))
    content = tmp_path / "content"
    for name in ("one.jpg", "one.cls", f"{'p' * 120}.jpg", ".hidden.jpg"):
        write(content / name, name.encode() * 99)
    sparse = content / "sparse.jpg"
    with sparse.open("wb") as file:
        file.truncate(10**6)
        file.seek(2 * 10**5)
        file.write(b"in the middle")
    for form in ("v7", "oldgnu", "gnu", "ustar", "posix"):
        names = [each.name for each in content.iterdir() if form not in ("v7", "ustar") or len(each.name) < 100]
        files[f"tar {form}"] = tmp_path / f"tar-{form}.tar"
        options = ["--sparse"] if form in ("oldgnu", "gnu", "posix") else []
        command = [
            "tar",
            f"--format={form}",
            *options,
            "-C",
            str(content),
            "-cf",
            str(files[f"tar {form}"]),
            *sorted(names),
        ]
        subprocess.run(command, check=True)
    for name, path in files.items():
        with tarfile.open(path, "r:", encoding="utf-8") as archive:
            expected = [
                (info.name, info.offset_data, info.size, info.isreg() and info.sparse is None) for info in archive
            ]
        file = open_file(path)
        found = [
            (member.decode(), begin, size, special is None)
            for member, begin, size, _, special in TarHeaders(path, file).members()
        ]
        file.close()
        assert found == expected, name
        assert len(found) >= 4, name


def samples(*members: tuple[str, bytes]) -> Callable[[Path], object]:
    return lambda root: plain_tar(root / T1, [("000.jpg", jpeg(0)), ("000.cls", b"0"), *members])


def linked(root: Path) -> None:
    plain_tar(root / T1, [("000.jpg", jpeg(0)), ("000.cls", b"0"), ("001.cls", b"1")])
    with tarfile.open(root / T1, "a") as archive:
        link = tarfile.TarInfo("001.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "000.jpg"
        archive.addfile(link)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    # what is wrong with the second sample of the second shard: how it is made, what is said
    "no label": (
        samples(("001.jpg", jpeg(1))),
        "(001) has no label cls (data.label_key), only jpg (the members of a sample must follow one another",
    ),
    "no image": (samples(("001.cls", b"1")), "(001) has no image, only cls ("),
    "apart": (
        samples(("001.jpg", jpeg(1)), ("002.jpg", jpeg(2)), ("001.cls", b"1"), ("002.cls", b"2")),
        "(001) has no label cls",
    ),
    "two images": (
        samples(("001.jpg", jpeg(1)), ("001.png", png(1)), ("001.cls", b"1")),
        "(001) has 2 images (001.jpg, 001.png); choose with data.extensions",
    ),
    "two labels": (
        samples(("001.jpg", jpeg(1)), ("001.cls", b"1"), ("001.CLS", b"1")),
        "(001) has 2 labels (001.cls, 001.CLS)",
    ),
    "not a number": (samples(("001.jpg", jpeg(1)), ("001.cls", b"cat")), "(001) has label cat, which is not a number"),
    "empty label": (samples(("001.jpg", jpeg(1)), ("001.cls", b"")), "(001) has label (no text), which is not a numb"),
    "half a number": (samples(("001.jpg", jpeg(1)), ("001.cls", b"1.0")), "(001) has label 1.0, which is not a number"),
    "too large": (
        samples(("001.jpg", jpeg(1)), ("001.cls", b"3")),
        "(001) has label 3, but 3 classes are labels 0 to 2",
    ),
    "negative": (samples(("001.jpg", jpeg(1)), ("001.cls", b"-1")), "(001) has label -1, but 3 classes are labels"),
    "empty image": (samples(("001.jpg", b""), ("001.cls", b"1")), "(001) has an image, 001.jpg, of 0 bytes"),
    "a link": (linked, "(001) has an image, 001.jpg, that is a link to 000.jpg, so its data are not there"),
    "a large label": (samples(("001.jpg", jpeg(1)), ("001.cls", bytes(2**21))), "(001) has a label, 001.cls, of 2097"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_sample_that_cannot_be_used_is_named_and_may_be_left_out(what: str, tmp_path: Path) -> None:
    make, message = FAULTS[what]
    root = make_tars(tmp_path)
    make(root)
    source = tar_source(root)
    assert everything(tar_source(root, "train", "data.train_examples=7"))[1][6] == 0
    for ask in (lambda: source.read(np.array([7])), source.labels):
        with pytest.raises(BadRecord) as refused:
            ask()
        assert f"{root / T1} record 1 {message}" in str(refused.value)
    assert "record 1 (001)" in source.place(7)
    left_out = tar_source(root, "train", "data.on_bad_record=skip", "data.class_weights=[1,1,1]")
    assert left_out.count < source.count


def first_header_of(path: Path, number: int) -> int:
    file = open_file(path)
    try:
        return list(TarHeaders(path, file).members())[number][3]
    finally:
        file.close()


def change(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut in an image": (
        lambda path: os.truncate(path, first_header_of(path, 5) + 1600),
        " ends inside 000008.jpg, which begins at byte ",
    ),
    "cut in a header": (
        lambda path: os.truncate(path, first_header_of(path, 5) + 300),
        " ends inside the header at byte ",
    ),
    "cut between members": (
        lambda path: os.truncate(path, first_header_of(path, 4)),
        " has no end: it was cut off behind the member before byte ",
    ),
    "a damaged name": (
        lambda path: change(path, first_header_of(path, 4) + 1024, b"1"),
        " is damaged: the header at byte ",
    ),
    "a damaged size": (
        lambda path: change(path, first_header_of(path, 4) + 1024 + 130, b"1"),
        " is damaged: the header at byte ",
    ),
    "zeros over a header": (
        lambda path: change(path, first_header_of(path, 4), bytes(512)),
        ", behind its end at byte ",
    ),
    "two archives in one file": (
        lambda path: path.write_bytes(path.read_bytes() * 2),
        ", behind its end at byte ",
    ),
    "not a tar file": (lambda path: path.write_bytes(b"hello " * 999), " is not a tar file, or the header at byte 0"),
    "an empty file": (lambda path: path.write_bytes(b""), " is empty (0 bytes)"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_whose_members_cannot_be_found_is_refused(what: str, tmp_path: Path) -> None:
    make, message = FILES[what]
    root = make_tars(tmp_path)
    make(root / T1)
    with pytest.raises(UsageError) as refused:
        tar_source(root)
    assert str(root / T1) in str(refused.value)
    assert message in str(refused.value)


def test_the_command_that_ends_an_archive_works(tmp_path: Path) -> None:
    root = make_tars(tmp_path)
    os.truncate(root / T1, first_header_of(root / T1, 4))
    with pytest.raises(UsageError) as refused:
        tar_source(root)
    subprocess.run(str(refused.value).splitlines()[-1], shell=True, check=True)
    assert tar_source(root).count == 8


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_a_compressed_shard_is_refused_with_the_command_that_unpacks_it(
    ending: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    root = make_tars(tmp_path / "it's here")
    packed = root / f"{T1}{ending}"
    packed.write_bytes(pack((root / T1).read_bytes()))
    (root / T1).unlink()
    with pytest.raises(
        UsageError, match=r"is compressed with .*: a member inside cannot be read without all bef"
    ) as refused:
        tar_source(root, "train", "data.train_pattern='train-*'")
    assert shlex.split(str(refused.value).splitlines()[-1])[2] == str(packed)
    subprocess.run(str(refused.value).splitlines()[-1], shell=True, check=True)
    assert tar_source(root).count == 12


def test_a_shard_that_changes_while_it_is_open_is_noticed(tmp_path: Path) -> None:
    """The file keeps its size and time, so that the index is not made again."""
    root = make_tars(tmp_path)
    tar_source(root)  # the index is kept
    for content in (numbered(50, 6), numbered(0, 6)):
        state = (root / T1).stat()
        other = write_samples(tmp_path / "other", content).read_bytes()
        (root / T1).write_bytes(other[: state.st_size].ljust(state.st_size, b"\0"))
        os.utime(root / T1, ns=(state.st_atime_ns, state.st_mtime_ns))
        with pytest.raises(BadRecord, match=r"record 1 has another header at byte \d+ than when its file was indexed"):
            tar_source(root).read(np.array([7]))
    os.truncate(root / T1, 5000)
    os.utime(root / T1, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_a_shard_that_was_replaced_is_other_data(tmp_path: Path) -> None:
    root = make_tars(tmp_path)
    listing = tar_source(root).listing
    write_samples(root / T1, numbered(6, 6))
    assert tar_source(root).listing == listing, "written again at another time, it is the same"
    write_samples(root / T1, [{**each, "__key__": f"x{each['__key__'][1:]}"} for each in numbered(6, 6)])
    assert tar_source(root).listing != listing
    write_samples(root / T1, [{**each, "cls": 0} for each in numbered(6, 6)])
    assert tar_source(root).listing != listing


def test_labels_in_json_and_in_text(tmp_path: Path) -> None:
    root = make_tars(tmp_path / "json")
    names = ("sea lion", "élan", "ox")
    write(root / "names.txt", "\n".join(names).encode())
    for name, start in (("train-000000.tar", 0), (T1, 6), ("val-000000.tar", 900)):
        write_samples(
            root / name,
            [
                {
                    "__key__": f"a.b/{n}",
                    "json": {"label": n % 3, "name": names[n % 3]},
                    "txt": f"{names[n % 3]}\n",
                    **image(n),
                }
                for n in range(start, start + 6)
            ],
        )
    json_keys = ("data.label_key=json", "data.label_field=label")
    expected = [n % 3 for n in range(12)]
    assert everything(tar_source(root, "train", *json_keys))[1] == expected
    named = ("data.labels_file=names.txt",)
    assert everything(tar_source(root, "train", "data.label_key=JSON", "data.label_field=name", *named))[1] == expected
    text = tar_source(root, "train", "data.label_key=txt", *named)
    assert everything(text)[1] == expected
    assert text.class_names == names
    for overrides, message in (
        (
            ("data.label_key=json",),
            "must have a whole number or the name of a class as its label, but has an object; set",
        ),
        (
            ("data.label_key=json", "data.label_field=lable"),
            "has no field lable (data.label_field) in its JSON; it has label, name; did you mean label?",
        ),
        (
            ("data.label_key=json", "data.label_field=name"),
            "has label sea lion, which is not a number\nif labels are na",
        ),
        (
            ("data.label_key=txt",),
            "has label sea lion, which is not a number\nif labels are names of classes, list them",
        ),
        ((), "has no label cls (data.label_key), only jpg, json, txt"),
    ):
        with pytest.raises(BadRecord) as refused:
            tar_source(root, "train", *overrides).read(np.array([0]))
        assert f"train-000000.tar record 0 (a.b/0) {message}" in str(refused.value)


def test_a_text_that_is_a_number_and_a_name_is_a_label_only_if_both_mean_the_same() -> None:
    digits = StoredLabels(3, 0, ("0", "1", "2"))
    assert digits.of_text(b"2\n") == 2
    assert digits.of_text("\ufeff2".encode()) == 2
    turned = StoredLabels(3, 0, ("2", "1", "x"))
    assert (turned.of_text(b"1"), turned.of_text(b"x")) == (1, 2)
    with pytest.raises(NoLabel, match="is the number of one class and the name of another"):
        turned.of_text(b"2")
    synsets = StoredLabels(2, 0, ("n01440764 tench, Tinca tinca", "n01443537 goldfish"))  # as for tfrecord
    assert (synsets.of_text(b"n01443537"), synsets.of_text(b"n01440764 tench, Tinca tinca")) == (1, 0)
    assert StoredLabels(3, 1, None).of_text(b"3") == 2
    with pytest.raises(NoLabel, match=r"has label 0, but 3 classes with data.label_offset=1 are labels 1 to 3"):
        StoredLabels(3, 1, None).of_text(b"0")
    for text, message in ((b"[", "is not JSON"), (b'{"a": 1.5}', "the number 1.5"), (b'{"a": true}', "true or false")):
        with pytest.raises(NoLabel, match=message):
            digits.of_json(text, "a")
    with pytest.raises(NoLabel, match="is not JSON"):
        digits.of_json(b"[" * 100_000, None)


def test_members_that_are_no_sample_are_passed_over(tmp_path: Path) -> None:
    root = make_tars(tmp_path)
    members = [
        ("README.md", b"read me"),
        ("__meta__/x.jpg", jpeg(9)),
        ("a/0.jpg", jpeg(0)),
        ("a/._0.jpg", b"a file manager's"),
        ("a/noending", b"x"),
        ("a/0.seg.png", png(1)),
        ("a/0.CLS", b"2"),
    ]
    plain_tar(root / T1, members)
    assert everything(tar_source(root))[1] == [0, 1, 2, 0, 1, 2, 2]
    for name in ("train-000000.tar", T1):
        plain_tar(root / name, [("README.md", b"read me")])
    with pytest.raises(UsageError, match=r"have no sample with an image \(bmp, .*\) or a label \(cls\)"):
        tar_source(root)


@pytest.mark.parametrize(
    "pattern",
    [
        "a",
        "a-{000..009}.tar",
        "{a,b}{1..3}",
        "{9..7}",
        "{08..11}",
        "x{a,b{1,2}c}y",
        "{0..10..5}",
        "{a}",
        "{-2..2}",
        "{,a}b",
    ],
)
def test_braces_mean_what_they_mean_for_webdataset(pattern: str) -> None:
    assert expanded(pattern, "data.train_pattern") == list(braceexpand.braceexpand(pattern))


def test_braces_name_shards_that_must_exist(tmp_path: Path) -> None:
    root = make_tars(tmp_path)
    both = tar_source(root, "train", "data.train_pattern='train-{000000..000001}.tar'")
    assert both.count == 12
    assert tar_source(root, "train", "data.train_pattern='train-{000000..000000}.tar'").count == 6
    with pytest.raises(
        UsageError, match=r"2 of the 4 names in data.train_pattern=.* are no file in .*: train-000002.tar"
    ):
        tar_source(root, "train", "data.train_pattern='train-{000000..000003}.tar'")
    config = composed(
        "data=webdataset", f"data.root={root}", "data.num_classes=3", "data.train_pattern='{b,train-*}.tar'"
    )
    assert isinstance(config.data, WebDatasetConfig)
    with pytest.raises(UsageError, match=r"no file in .* matches data.train_pattern=\{b,train"):
        split_files(config.data, tmp_path, "train")  # braces are letters there, as in the names of TFRecord files
    with pytest.raises(UsageError, match=r"train-\{0 has a brace that is not closed"):
        tar_source(root, "train", "data.train_pattern='train-{0'")
    with pytest.raises(UsageError, match="means more than 1,000,000 names"):
        tar_source(root, "train", "data.train_pattern='train-{0..9999999}'")


def test_a_shard_that_is_missing_between_others_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_tars(tmp_path)
    tar_source(root)
    assert capsys.readouterr().err == ""
    for number in (3, 4):
        write_samples(root / f"train-{number:06d}.tar", numbered(60 * number, 2))
    assert tar_source(root).count == 16
    assert "warning: train-000002.tar would be between the files that data.train_pattern=train-*.tar matches in" in (
        capsys.readouterr().err
    )
    tar_source(root, "train", "data.train_pattern='train-{000000,000003}.tar'")
    tar_source(root, "train", "data.train_pattern='train-00000[034].tar'")
    assert capsys.readouterr().err == "", "a pattern may choose a part"


def test_names_that_do_not_count_have_no_gaps() -> None:
    def missing(*names: str) -> list[str]:
        return between([Path(name) for name in names])

    assert missing("a-01.tar", "a-04.tar") == ["a-02.tar", "a-03.tar"]
    assert missing("a-01.tar", "b-04.tar") == missing("a-1.tar", "a-4.tar") == missing("2024-01.tar") == []
    assert missing("a-20240101.tar", "a-20250101.tar") == []
    assert missing("a-00001-of-00009", "a-00004-of-00009") == [], "another rule"


def test_splits_are_apart_and_keys_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    root = make_tars(tmp_path)
    with pytest.raises(NoSuchSplit, match=r"matches data\.test_pattern"):
        tar_source(root, "test")
    with pytest.raises(UsageError, match=r"train-000000\.tar is in both splits"):
        tar_source(root, "train", "data.validation_pattern='*.tar'")
    for overrides, message in (
        (("data.num_classes=null",), "Tar shards do not say how many classes there are: set data.num_classes=N, or"),
        (("data.extensions=[.jpg]", "data.label_key=x"), ""),
        (("data.extensions=[JPG]",), "data.extensions is ['JPG'], but must be endings of members without their first"),
        (("data.label_key=jpg",), "data.label_key=jpg is one of data.extensions, the endings of images"),
        (("data.train_pattern=/x/*.tar",), "data.train_pattern=/x/*.tar leads out of data.root"),
    ):
        with pytest.raises(UsageError) as refused:
            tar_source(root, "train", *overrides)
        assert message in str(refused.value)


def test_the_index_is_kept_and_made_again_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[str] = []

    def walk(path: Path, rules: Any) -> Any:
        walked.append(path.name)
        return index_samples(path, rules)

    monkeypatch.setattr(source_module, "index_samples", walk)
    root = make_tars(tmp_path)
    expected = everything(tar_source(root))
    assert everything(tar_source(root)) == expected
    assert sorted(walked) == ["train-000000.tar", T1]
    assert tar_source(root, "train", "data.num_classes=4").count == 12
    assert len(walked) == 4, "labels are in the index, so it is of these classes"
    write_samples(root / T1, numbered(6, 5))
    assert tar_source(root).count == 11
    assert len(walked) == 6


# Size


@pytest.mark.long
def test_the_index_of_an_imagenet_takes_16_bytes_a_sample_in_memory_and_on_disk(tmp_path: Path) -> None:
    """1.28 million samples in 128 shards, which are one file by many names."""
    samples = ({"__key__": f"{number:08d}", "jpg": b"x" * 100, "cls": number % 1000} for number in range(10_010))
    shard = write_samples(tmp_path / "shard", samples)
    for number in range(128):
        os.link(shard, tmp_path / f"train-{number:06d}.tar")
    os.link(shard, tmp_path / "val-000000.tar")
    tracemalloc.start()
    try:
        source: Any = tar_source(tmp_path, "train", "data.num_classes=1000")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert source.count == 1_281_280
    assert sum(each.nbytes for each in source._stored._samples) == 16 * 1_281_280
    (kept,) = tmp_path.glob(".trainer-index-*")
    assert kept.stat().st_size < 25e6
    assert peak < 64e6
