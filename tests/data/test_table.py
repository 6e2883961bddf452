"""Tables of images: every dialect that people have, and every row that cannot be used named with its line."""

from __future__ import annotations

import codecs
import json
import os
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from composing import compose
from image_data import composed, everything, jpeg, png, write

from trainer.commands import check_data
from trainer.config.arguments import parse_arguments
from trainer.config.override import override
from trainer.config.schema.sources import DataConfig
from trainer.data.evaluated import Trained, open_evaluated, refuse_without_effect
from trainer.data.sources import table
from trainer.data.sources.source import Source, open_source
from trainer.errors import BadRecord, NoSuchSplit, UsageError
from trainer.fingerprint.behaviour import data_facts
from trainer.fingerprint.facts import differences

HEADER = "path,label\n"
ROWS = "a.jpg,cat\nb.jpg,dog\nc.jpg,cat\nd.jpg,dog\n"


def data(file: Path, *overrides: str) -> DataConfig:
    values = {"data.file": str(file), **parse_arguments(overrides)}
    return override(composed("data=table", "data.file=x.csv"), values).data


def source(file: Path, split: Any = "train", *overrides: str) -> Source:
    return open_source(data(file, *overrides), split)


def images(folder: Path, names: str | Sequence[str] = "abcd", ending: str = ".jpg") -> Path:
    for number, name in enumerate(names):
        write(folder / f"{name}{ending}", jpeg(number))
    return folder


def both(file: Path, *overrides: str) -> list[tuple[str, int]]:
    """Name and label of every image of both splits, sorted."""
    found = []
    for split in ("train", "validation"):
        opened = source(file, split, *overrides)
        labels = opened.labels().tolist()
        found += [(Path(opened.place(record).split(" (")[0]).name, labels[record]) for record in range(opened.count)]
    return sorted(found)


WRITTEN: dict[str, tuple[str, bytes]] = {
    "plain": ("t.csv", (HEADER + ROWS).encode()),
    "byte order mark": ("t.csv", codecs.BOM_UTF8 + (HEADER + ROWS).encode()),
    "UTF-16, as Excel's Unicode text": ("t.txt", (HEADER + ROWS).replace(",", "\t").encode("utf-16")),
    "Windows": ("t.csv", (HEADER + ROWS).replace("\n", "\r\n").encode()),
    "old Macs": ("t.csv", (HEADER + ROWS).replace("\n", "\r").encode()),
    "no line end": ("t.csv", (HEADER + ROWS).rstrip().encode()),
    "empty lines": ("t.csv", (HEADER + "\n" + ROWS.replace("b", "\n \n,\nb", 1) + "\n\n").encode()),
    "semicolons": ("t.csv", (HEADER + ROWS).replace(",", ";").encode()),
    "tabs": ("t.tsv", (HEADER + ROWS).replace(",", "\t").encode()),
    "quotes": ("t.csv", b'"path","label"\n"a.jpg","cat"\n"b.jpg","dog"\n"c.jpg","cat"\n"d.jpg","dog"\n'),
    "spaces": ("t.csv", (HEADER + ROWS).replace(",", " , ").encode()),
    "backslashes": ("t.csv", (HEADER + ROWS).replace("a.jpg", ".\\a.jpg").encode()),
    "more columns, in another order": ("t.csv", b"n,label,path\n1,cat,a.jpg\n2,dog,b.jpg\n3,cat,c.jpg\n4,dog,d.jpg\n"),
    "a delimiter behind each row": ("t.csv", ("path,label,\n" + ROWS.replace("\n", ",\n")).encode()),
    "delimiters behind the rows alone": ("t.csv", (HEADER + ROWS.replace("\n", ",,\n")).encode()),
    "a repeated row": ("t.csv", (HEADER + ROWS + "b.jpg,dog\n").encode()),
    "a row in another spelling": ("t.csv", (HEADER + ROWS + "./x/../b.jpg,dog\n").encode()),
    "JSON Lines": (
        "t.jsonl",
        b'{"path": "a.jpg", "label": "cat"}\n{"label": "dog", "path": "b.jpg"}\n\n'
        b'{"path": "c.jpg", "label": "cat", "more": [1]}\n{"path": "d.jpg", "label": "dog"}',
    ),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_a_table_of_any_dialect_has_the_same_rows(how: str, tmp_path: Path) -> None:
    name, text = WRITTEN[how]
    file = write(images(tmp_path) / name, text)
    assert both(file) == [("a.jpg", 0), ("b.jpg", 1), ("c.jpg", 0), ("d.jpg", 1)]
    assert source(file).class_names == ("cat", "dog")


def test_repeated_rows_are_read_once_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(images(tmp_path) / "t.csv", (HEADER + ROWS + "b.jpg,dog\n" + ROWS).encode())
    assert source(file).whole == 4
    said = capsys.readouterr().out
    assert "warning: 5 rows repeat an earlier one and are read once; the first is line 6: b.jpg\n" in said


def test_a_quoted_cell_may_have_delimiters_quotes_and_line_ends(tmp_path: Path) -> None:
    for name in ("a, b.jpg", 'the "c".jpg', "d.jpg", "e.jpg"):
        write(tmp_path / name, jpeg(1))
    rows = 'path,label,note\n"a, b.jpg",cat,x\n"the ""c"".jpg","cat","one\ntwo"\nd.jpg,dog,\ne.jpg,dog,\n'
    file = write(tmp_path / "t.csv", rows.encode())
    assert len(both(file)) == 4
    os.unlink(tmp_path / "d.jpg")
    with pytest.raises(UsageError, match=r"d\.jpg \(line 5\), which does not exist"):
        both(file)


def test_labels_that_are_numbers_are_ordered_as_numbers_and_texts_as_texts(tmp_path: Path) -> None:
    images(tmp_path, "abcdef")

    def names(labels: Sequence[str]) -> tuple[str, ...]:
        rows = "".join(f"{name}.jpg,{label}\n" for name, label in zip("abcdef", labels, strict=True))
        return source(write(tmp_path / "t.csv", (HEADER + rows).encode())).class_names

    assert names(["10", "9", "9", "10", "2", "2"]) == ("2", "9", "10")
    assert names(["1.0", "0.0", "1.0", "0.0", "10.0", "10.0"]) == ("0", "1", "10")  # pandas, beside an empty cell
    assert names(["0.5", "-1", "0.5", "-1", "10", "10"]) == ("-1", "0.5", "10")
    assert names(["10", "9", "9", "10", "x", "x"]) == ("10", "9", "x")
    assert names(["Zebra", "ape", "Zebra", "ape", "élan", "e\u0301lan"]) == ("Zebra", "ape", "élan")
    with pytest.raises(UsageError, match=r"data.label_column=label has 0?1 and 0?1, which are the same number"):
        names(["1", "01", "1", "01", "2", "2"])


def test_labels_in_two_cases_are_two_classes_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(images(tmp_path) / "t.csv", (HEADER + ROWS.replace("c.jpg,cat", "c.jpg,Cat")).encode())
    with pytest.raises(UsageError):
        source(file, "train", "data.folds=2", "data.fold=0")
    assert (
        "warning: the classes Cat and cat differ in upper and lower case alone; they are two classes"
        in capsys.readouterr().out
    )


def test_json_lines_may_hold_numbers_truth_values_and_null(tmp_path: Path) -> None:
    images(tmp_path)
    for labels, names in (([10, 9, 10, 9], ("9", "10")), ([True, False, True, False], ("false", "true"))):
        lines = [json.dumps({"path": f"{n}.jpg", "label": label}) for n, label in zip("abcd", labels, strict=True)]
        assert source(write(tmp_path / "t.jsonl", "\n".join(lines).encode())).class_names == names
    write(tmp_path / "t.jsonl", "\n".join([*lines, '{"path": "a.jpg", "label": null}', '{"path": "e.jpg"}']).encode())
    with pytest.raises(
        UsageError, match=r"(?s)2 of 6 rows .* cannot be used.*2 rows with nothing in label; the first, line 5"
    ):
        source(tmp_path / "t.jsonl")


# Kaggle's form: names without their ending, and the images in a folder beside the table
def test_a_column_of_names_finds_images_elsewhere_with_an_ending(tmp_path: Path) -> None:
    images(tmp_path / "train")
    file = write(tmp_path / "train.csv", b"id,breed\na,cat\nb,dog\nc,cat\nd,dog\n")
    columns = ("data.path_column=id", "data.label_column=breed")
    with pytest.raises(UsageError) as refused:
        source(file, "train", *columns)
    keys = (f"data.root={tmp_path}/train", "data.path_suffix=.jpg")
    assert str(refused.value).splitlines()[-1] == f"there is {tmp_path}/train/a.jpg: set {' '.join(keys)}"
    assert len(both(file, *columns, *keys)) == 4
    opened = source(file, "train", *columns, *keys)
    first = opened.read(np.array([0]))[0][0]
    assert first == Path(opened.place(0).split(" (")[0]).read_bytes()


HOSPITAL = "image;finding;set;patient\n" + "".join(
    f"p{patient}/{view}.jpg;{'ill' if patient % 2 else 'well'};{part};P-{patient}\n"
    for patient, part in enumerate(["Training"] * 6 + ["VAL"] * 2 + ["test_set"] * 2)
    for view in "ab"
)
HOSPITAL_KEYS = (
    *("data.path_column=image", "data.label_column=finding"),
    *("data.split_column=set", "data.group_column=patient"),
)


def hospital(folder: Path) -> Path:
    for patient in range(10):
        images(folder / "scans" / f"p{patient}", "ab")
    return write(folder / "tables" / "labels.csv", codecs.BOM_UTF8 + HOSPITAL.encode())


def test_a_split_column_decides_and_no_patient_is_in_two_splits(tmp_path: Path) -> None:
    file, root = hospital(tmp_path), f"data.root={tmp_path}/scans"
    counts = {split: source(file, split, root, *HOSPITAL_KEYS).count for split in ("train", "validation", "test")}
    assert counts == {"train": 12, "validation": 4, "test": 4}
    file.write_text(HOSPITAL.replace("p6/a.jpg;well;VAL;P-6", "p6/a.jpg;well;VAL;P-2"))
    source(file, "train", root, *HOSPITAL_KEYS)
    with pytest.raises(
        UsageError, match=r"1 groups of data.group_column=patient have rows for train and for validation .*: P-2"
    ):
        source(file, "validation", root, *HOSPITAL_KEYS)
    without_validation = HOSPITAL.replace("VAL", "train")
    file.write_text(without_validation)
    parts = [
        source(file, split, root, *HOSPITAL_KEYS, "data.validation_share=0.3") for split in ("train", "validation")
    ]
    assert [part.whole for part in parts] == [16, 16], "the test set is no part of what is divided"
    patients = [{part.place(n).split("/")[-2] for n in range(part.count)} for part in parts]
    assert not patients[0] & patients[1]
    assert len(patients[0] | patients[1]) == 8
    file.write_text(HOSPITAL.replace("test_set", "train"))
    with pytest.raises(NoSuchSplit, match="marks no row for test"):
        source(file, "test", root, *HOSPITAL_KEYS)
    with pytest.raises(NoSuchSplit, match=r"has no test split: data.split_column=null"):
        source(file, "test", root, *HOSPITAL_KEYS, "data.split_column=null")


def test_without_a_split_column_the_hash_of_each_path_divides_every_class(tmp_path: Path) -> None:
    names = [f"{name}{number}" for name in "xy" for number in range(40)]
    images(tmp_path, names, ".png")
    rows = "".join(f"{name}.png,{name[0]}\n" for name in names)
    file = write(tmp_path / "t.csv", (HEADER + rows).encode())
    validation = source(file, "validation")
    assert np.bincount(validation.labels()).tolist() == [4, 4]
    kept = {validation.place(n).split(" (")[0] for n in range(8)}
    shuffled = "".join(sorted(rows.splitlines(keepends=True), key=hash))
    file.write_text(HEADER + shuffled)
    again = source(file, "validation")
    assert {again.place(n).split(" (")[0] for n in range(8)} == kept, "the order of the rows has no say"


FAULTS: dict[str, tuple[str, tuple[str, ...], str]] = {
    # what is wrong: (the rows, overrides, a pattern in the message)
    "an empty label": ("a.jpg,\n", (), r"1 rows with nothing in label; the first, line 6, has nothing in label\n"),
    "an empty path": (",cat\n", (), r"1 rows with nothing in path; the first, line 6"),
    "too few cells": ("e.jpg\n", (), r"the first, line 6, has 1 cells, but the header has 2"),
    "too many cells": ("e.jpg,cat,dog\n", (), r"the first, line 6, has 3 cells, but the header has 2"),
    "two labels": (
        "a.jpg,dog\n",
        (),
        r"2 rows that name a file again with .* line 2, names a.jpg, which lines 2 and 6 have with labels cat, dog",
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_row_that_cannot_be_used_is_named_with_its_line(what: str, tmp_path: Path) -> None:
    rows, overrides, message = FAULTS[what]
    file = write(images(tmp_path) / "t.csv", (HEADER + ROWS + rows).encode())
    with pytest.raises(UsageError, match=message) as refused:
        source(file, "train", *overrides)
    assert "have them left out and counted: data.on_bad_record=skip" in str(refused.value)
    kept = source(file, "train", "data.on_bad_record=skip", *overrides)
    bad = []
    for record in range(kept.count):
        try:
            kept.read(np.array([record]))
        except BadRecord as error:
            bad.append(str(error))
    assert len(bad) >= 1
    assert all("line " in each and "of t.csv)" in each for each in bad)


def test_all_kinds_of_faults_are_counted_in_one_message(tmp_path: Path) -> None:
    rows = ROWS + "e.jpg,\nf.jpg,\n,cat\n"
    file = write(images(tmp_path) / "t.csv", (HEADER + rows).encode())
    with pytest.raises(UsageError) as refused:
        source(file)
    assert str(refused.value) == (
        f"3 of 7 rows of data.file={file} cannot be used:\n"
        "  2 rows with nothing in label; the first, line 6, has nothing in label\n"
        "  1 rows with nothing in path; the first, line 8, has nothing in path\n"
        "correct them, or have them left out and counted: data.on_bad_record=skip"
    )


def test_missing_empty_and_odd_files_are_counted_and_named(tmp_path: Path) -> None:
    rows = "".join(f"m{number}.jpg,{'cat' if number % 2 else 'dog'}\n" for number in range(40))
    images(tmp_path, [f"m{number}" for number in range(40)])
    file = write(tmp_path / "t.csv", (HEADER + rows).encode())
    train = source(file)
    chosen = [Path(train.place(record).split(" (")[0]) for record in (3, 5)]
    chosen[0].unlink()
    chosen[1].write_bytes(b"")
    with pytest.raises(UsageError) as refused:
        source(file)
    line = train.place(3).split(", ")[1].split(" of")[0]
    assert f"2 of 36 files that {file} names for train cannot be used; the first is {chosen[0]} ({line})" in str(
        refused.value
    )
    assert "which does not exist\npaths are relative to data.root, now " in str(refused.value)
    kept = source(file, "train", "data.on_bad_record=skip")
    assert kept.count == 36
    with pytest.raises(BadRecord, match=r"cannot be read: No such file"):
        kept.read(np.array([3]))
    with pytest.raises(BadRecord, match=r"is empty \(0 bytes\)"):
        kept.read(np.array([5]))
    chosen[0].mkdir()
    with pytest.raises(UsageError, match="which is not a file"):
        source(file)


def test_check_data_lists_every_row_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ROWS + "e.jpg,cat\nf.jpg,\ng.jpg,cat\n"
    images(tmp_path)
    write(tmp_path / "g.jpg", jpeg(0))
    file = write(tmp_path / "t.csv", (HEADER + rows).encode())
    assert check_data.main(["data=table", f"data.file={file}"]) == 2
    said = capsys.readouterr().out
    assert "e.jpg (record " in said
    assert "line 6 of t.csv) cannot be read: No such file or directory" in said
    assert "line 7 of t.csv) has nothing in label" in said
    assert f"data.root: {tmp_path}\n" in said
    assert "a.jpg (record 0, line 2 of t.csv) = g.jpg (record " in said


WRONG_FILES: dict[str, tuple[str, bytes, str]] = {
    "missing": ("absent.csv", b"", "cannot be read: No such file or directory"),
    "empty": ("t.csv", b"", r"is empty \(0 bytes\)"),
    "only a header": ("t.csv", b"path,label\n", "has no row below its header"),
    "gzip": ("t.csv", b"\x1f\x8b\x08 and more", "is compressed with gzip; unpack it"),
    "a spreadsheet": ("t.csv", b"PK\x03\x04 and more", "save the sheet as CSV UTF-8"),
    "zero bytes": ("t.csv", b"path,label\n\0\0\0", "is not a text: it has zero bytes"),
    "Latin-1": ("t.csv", "path,label\nä.jpg,cat\n".encode("latin-1"), "is not UTF-8"),
    "an open quote": ("t.csv", b'path,label\na.jpg,cat\n"b.jpg,dog\nc.jpg,cat\n', "in the row that begins in line 3"),
    "another column": (
        "t.csv",
        b"filepath,label\na.jpg,cat\n",
        r"has no column path \(data.path_column\); its columns are filepath, label; did you mean filepath\?",
    ),
    "a column twice": ("t.csv", b"path,label,label\na.jpg,cat,dog\n", r"has 2 columns label \(data.label_column\)"),
    "no JSON": ("t.jsonl", b"path,label\n", "line 1 is not JSON"),
    "another key in JSON": (
        "t.jsonl",
        b'{"file": "a", "labels": 1}\n',
        r"has no column path \(data.path_column\); its columns are file, labels",
    ),
    "an empty first line": ("t.csv", b"\npath,label\n", "begins with an empty line"),
}


@pytest.mark.parametrize("what", WRONG_FILES)
def test_a_file_that_is_no_such_table_is_refused_with_the_reason(what: str, tmp_path: Path) -> None:
    name, text, message = WRONG_FILES[what]
    if name != "absent.csv":
        write(tmp_path / name, text)
    with pytest.raises(UsageError, match=message):
        source(tmp_path / name)


def test_the_nearest_column_is_named_and_the_same_column_twice_is_refused(tmp_path: Path) -> None:
    file = write(images(tmp_path) / "t.csv", (HEADER + ROWS).encode())
    with pytest.raises(
        UsageError, match=r"has no column lable \(data.label_column\).*did you mean label\?\nname the right"
    ):
        source(file, "train", "data.label_column=lable")
    for arguments, message in (
        (["data.label_column=path"], "data.path_column and data.label_column are both path"),
        (
            ["data.file=t.xlsx"],
            r"a .xlsx file, and a table is .csv, .tsv, .tab, .txt, .jsonl, .ndjson: save the sheet as",
        ),
        (["data.file=labels"], "without an ending"),
        (["data.labels_file=../n.txt"], "leads out of the folder of data.file="),
        (["data.fold=1"], "data.fold=1 is one of several folds: set data.folds"),
        (["data.folds=3"], r"(?s)data.folds=3 needs the fold .* --multirun data.fold=0,1,2"),
        (["data.folds=3", "data.fold=3"], r"data.fold=3 does not exist: data.folds=3 has 0 to 2"),
    ):
        with pytest.raises(UsageError, match=message):
            compose("data=table", *(["data.file=x.csv"] if "data.file" not in arguments[0] else []), *arguments)


def test_values_of_the_split_column_that_are_no_splits_are_named(tmp_path: Path) -> None:
    rows = "path,label,part\na.jpg,cat,train\nb.jpg,dog,train\nc.jpg,cat,val\nd.jpg,dog,dev2\n"
    file = write(images(tmp_path) / "t.csv", rows.encode())
    with pytest.raises(UsageError, match=r"1 rows whose split is none of train.*line 5, has the split dev2"):
        source(file, "train", "data.split_column=part")
    file.write_text(rows.replace("train", "yes").replace("val", "no").replace("dev2", "no"))
    with pytest.raises(UsageError, match=r"data.split_column=part of .* has no names of splits, but yes, no"):
        source(file, "train", "data.split_column=part")
    file.write_text(rows.replace("dev2", "val").replace("d.jpg,dog", "d.jpg,ox"))
    with pytest.raises(
        UsageError,
        match=r"1 rows for validation whose label no row for training has; the first, line 5, has the label ox",
    ):
        source(file, "validation", "data.split_column=part")
    write(tmp_path / "e.jpg", jpeg(9))
    file.write_text(file.read_text() + "e.jpg,dog,val\n")
    chosen = source(file, "validation", "data.split_column=part", "data.classes=[cat,dog]")
    assert (chosen.class_names, chosen.count) == (("cat", "dog"), 2), (
        "what lies beside the chosen classes is no obstacle"
    )


def test_faults_of_the_test_set_are_no_obstacle_to_training(tmp_path: Path) -> None:
    rows = "path,label,part\na.jpg,cat,train\nb.jpg,dog,train\nc.jpg,cat,val\nd.jpg,,test\ne.jpg,cat,test\n"
    file = write(images(tmp_path) / "t.csv", rows.encode())
    assert source(file, "train", "data.split_column=part").count == 2
    with pytest.raises(UsageError, match=r"1 of 2 rows of data.file"):
        source(file, "test", "data.split_column=part")


def test_a_labels_file_gives_the_classes_and_their_order(tmp_path: Path) -> None:
    images(tmp_path)
    names = write(tmp_path / "names.txt", b"1:ox\n2:dog\n3:cat\n")
    file = write(tmp_path / "t.csv", (HEADER + "a.jpg,cat\nb.jpg,2\nc.jpg,3.0\nd.jpg,dog\n").encode())
    assert both(file, "data.labels_file=names.txt") == [("a.jpg", 2), ("b.jpg", 1), ("c.jpg", 2), ("d.jpg", 1)]
    assert source(file, "train", "data.labels_file=names.txt").class_names == ("ox", "dog", "cat")
    file.write_text(HEADER + "a.jpg,cat\nb.jpg,0\nc.jpg,cta\nd.jpg,dog\n")
    with pytest.raises(
        UsageError, match=r"2 rows whose label is not in data.labels_file; the first, line 3, has the label 0"
    ):
        source(file, "train", "data.labels_file=names.txt")
    names.write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n")
    file.write_text(HEADER + "a.jpg,n01443537\nb.jpg,n01440764\nc.jpg,n01443537\nd.jpg,n01440764\n")
    assert [label for _, label in both(file, "data.labels_file=names.txt")] == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("1", "2", "3"), ["1.0", "2.0", "1.0", "2.0"]),  # pandas, beside an empty cell
        (("01", "02", "03"), ["1", "2", "1", "2"]),  # a spreadsheet
        (("1.0", "2.0", "3.0"), ["1", "2", "1", "2"]),
        (("1", "2", "3"), ["1", "2.0", "1.0", "2"]),
    ],
)
def test_a_label_is_the_name_in_the_labels_file_that_is_the_same_number(
    tmp_path: Path, names: Sequence[str], labels: Sequence[str]
) -> None:
    write(images(tmp_path) / "names.txt", "\n".join(names).encode())
    rows = "".join(f"{image}.jpg,{label}\n" for image, label in zip("abcd", labels, strict=True))
    file = write(tmp_path / "t.csv", (HEADER + rows).encode())
    assert [label for _, label in both(file, "data.labels_file=names.txt")] == [0, 1, 0, 1]


def test_labels_that_are_names_and_numbers_of_other_classes_are_refused(tmp_path: Path) -> None:
    write(images(tmp_path) / "names.txt", b"1\n2\n3\n")
    file = write(tmp_path / "t.csv", (HEADER + "a.jpg,0\nb.jpg,1\nc.jpg,0\nd.jpg,1\n").encode())
    with pytest.raises(
        UsageError, match=r"has 1, which is the name of a class .* and 0, .* can only be the number of the class 1\n"
    ):
        both(file, "data.labels_file=names.txt")
    (tmp_path / "names.txt").write_text("0:0\n1:1\n2:ten\n")  # each number is the name of its own class
    file.write_text(HEADER + "a.jpg,2\nb.jpg,1\nc.jpg,2.0\nd.jpg,1\n")
    assert [label for _, label in both(file, "data.labels_file=names.txt")] == [2, 1, 2, 1]


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_may_write_the_labels_of_training_in_another_way(tmp_path: Path, split: str) -> None:
    images(tmp_path, "abcdef")
    rows = "a.jpg,1,train\nb.jpg,0,train\nc.jpg,1,val\nd.jpg,0,val\n"
    rows += f"e.jpg,1.0,{split}\nf.jpg,0.0,{split}\n"
    file = write(tmp_path / "t.csv", ("path,label,part\n" + rows).encode())
    opened = source(file, "validation" if split == "val" else "test", "data.split_column=part")
    assert opened.class_names == ("0", "1")
    assert opened.labels().tolist()[-2:] == [1, 0]


def test_what_programs_write_for_an_empty_cell_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(tmp_path, "abcdef")
    rows = "path,label,who\na.jpg,x,p1\nb.jpg,x,p2\nc.jpg,x,nan\nd.jpg,none,p4\ne.jpg,none,p5\nf.jpg,NaN,nan\n"
    file = write(tmp_path / "t.csv", rows.encode())
    assert source(file, "train", "data.group_column=who").class_names == ("NaN", "none", "x")
    said = capsys.readouterr().out
    assert "warning: 1 rows have NaN in data.label_column=label, and are trained as a class; if" in said
    assert "warning: 2 rows have nan in data.group_column=who, and are kept together as one group; if" in said
    source(file, "validation", "data.group_column=who")
    assert capsys.readouterr().out == ""


def test_training_warns_of_groups_that_the_test_set_has_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(tmp_path, "abcdef")
    rows = "a.jpg,x,train,p1\nb.jpg,y,train,p2\nc.jpg,x,val,p3\nd.jpg,y,val,p4\ne.jpg,x,test,p1\nf.jpg,y,test,p5\n"
    file = write(tmp_path / "t.csv", ("path,label,part,who\n" + rows).encode())
    keys = ("data.split_column=part", "data.group_column=who")
    assert source(file, "train", *keys).count == 2
    warning = "1 groups of data.group_column=who have rows for train and for test in "
    assert f"warning: {warning}{file}, so test is no test of what is learned in train: p1\n" in capsys.readouterr().out
    with pytest.raises(UsageError, match=f"^{warning}"):
        source(file, "test", *keys)


def test_a_table_that_moved_is_the_same_data_and_an_edited_one_is_not(tmp_path: Path) -> None:
    def facts(folder: Path) -> Any:
        return data_facts(source(folder / "t.csv"), "train")

    names = [f"{name}{number}" for name in "xy" for number in range(10)]
    rows = "".join(f"{name}.jpg,{name[0]}\n" for name in names)
    for place in ("here", "there"):
        write(images(tmp_path / place, names) / "t.csv", (HEADER + rows).encode())
    expected = facts(tmp_path / "here")
    assert not differences(expected, facts(tmp_path / "there"))
    absolute = HEADER + "".join(f"{tmp_path}/there/{row}\n" for row in rows.splitlines())
    (tmp_path / "there" / "t.csv").write_text(absolute)
    assert not differences(expected, facts(tmp_path / "there")), "an absolute path below the root is a path below it"
    changed = HEADER + rows.replace("x3.jpg,x", "x3.jpg,y")
    (tmp_path / "there" / "t.csv").write_text(changed)
    assert "listing digest" in {each.fact.attribute for each in differences(expected, facts(tmp_path / "there"))}
    (tmp_path / "there" / "t.csv").write_text(HEADER + rows)
    write(tmp_path / "there" / "x0.jpg", png(99))
    assert differences(expected, facts(tmp_path / "there"))


def test_another_table_is_evaluated_whole_and_the_own_one_as_in_training(tmp_path: Path) -> None:
    names = [f"{name}{number}" for name in "xy" for number in range(20)]
    rows = "".join(f"{name}.jpg,{name[0]}\n" for name in names)
    own = write(images(tmp_path / "own", names) / "t.csv", (HEADER + rows).encode())
    write(images(tmp_path / "copy", names) / "t.csv", (HEADER + rows).encode())
    other = write(tmp_path / "other" / "t.csv", (HEADER + rows).encode())
    for number, name in enumerate(names):
        write(tmp_path / "other" / f"{name}.jpg", jpeg(500 + number))
    train = source(own)
    trained = Trained(Path("run/step"), data(own), train.class_names, train.listing)
    for file in (own, tmp_path / "copy" / "t.csv"):
        found = open_evaluated(trained, data(file), None)
        assert (found.split, found.source.count, found.source.whole, found.divided) == ("validation", 4, 40, True)
    found = open_evaluated(trained, data(other), None)
    assert (found.split, found.source.count, found.notes) == ("test", 40, ())
    with pytest.raises(UsageError, match=r"data.validation_share=0.5 has no effect on this evaluation"):
        refuse_without_effect(found, {"data.validation_share": 0.5})
    mixed = write(tmp_path / "own" / "part.csv", (HEADER + "".join(rows.splitlines(keepends=True)[7:])).encode())
    assert (
        " of 33 images have path and size of images that the network was trained on"
        in (
            open_evaluated(trained, data(mixed, "data.label_column=label", "data.validation_share=0.3"), "test").notes[
                0
            ]
        )
    )
    changed = open_evaluated(trained, data(own, "data.validation_share=0.3"), None)
    assert "data.validation_share was 0.1 in training, so the split has images" in changed.notes[0]
    marked = write(
        tmp_path / "other" / "marked.csv",
        ("path,label,split\n" + "".join(f"{row},test\n" for row in rows.splitlines())).encode(),
    )
    only_test = open_evaluated(trained, data(marked, "data.split_column=split"), None)
    assert (only_test.split, only_test.source.count) == ("test", 40)


def test_a_test_set_need_not_have_the_columns_that_divided_the_training_set(tmp_path: Path) -> None:
    names = [f"{number:02d}" for number in range(8)]
    rows = [f"{name}.jpg,{'ab'[number % 2]}" for number, name in enumerate(names)]
    images(tmp_path / "own", names)
    images(tmp_path / "other", names)
    marked = [f"{row},{'train' if number < 4 else 'val'},p{number}" for number, row in enumerate(rows)]
    own = write(tmp_path / "own" / "t.csv", "\n".join(["path,label,split,patient", *marked]).encode())
    test = write(tmp_path / "other" / "test.csv", "\n".join(["path,label", *rows]).encode())
    keys = ("data.split_column=split", "data.group_column=patient")
    train = source(own, "train", *keys)
    trained = Trained(Path("run/step"), data(own, *keys), train.class_names, train.listing)
    found = open_evaluated(trained, data(test, *keys), None)
    assert (found.split, found.source.count, found.divided) == ("test", 8, False)
    assert f"{test} has no column split (data.split_column), so all of its rows are evaluated" in found.notes
    with pytest.raises(UsageError, match=r"data.split_column=COLUMN, or set data.split_column=null$"):
        open_evaluated(trained, data(test, *keys), "validation")
    with pytest.raises(UsageError, match=r"has no column label .*\n.*data.label_column=COLUMN$"):
        open_evaluated(trained, data(write(test, b"path,class\n00.jpg,a\n"), *keys), None)


def test_what_pandas_writes_is_read_with_its_own_quotes_and_lines(tmp_path: Path) -> None:
    names = ["a b.jpg", 'q"uote.jpg', "comma,.jpg", "plain.jpg"]
    for number, name in enumerate(names):
        write(tmp_path / name, jpeg(number))
    frame = pandas.DataFrame({"path": names, "label": [3, 11, 3, 11], "note": ["x\ny", None, "a,b", 'c"d']})
    for file in (tmp_path / "t.csv", tmp_path / "t.tsv", tmp_path / "t.jsonl"):
        if file.suffix == ".jsonl":
            frame.to_json(file, orient="records", lines=True)
        else:
            frame.to_csv(file, sep="\t" if file.suffix == ".tsv" else ",", encoding="utf-8-sig")
        assert both(file) == sorted([("a b.jpg", 0), ('q"uote.jpg', 1), ("comma,.jpg", 0), ("plain.jpg", 1)])
        assert source(file).class_names == ("3", "11")


def test_a_batch_is_read_by_record_numbers_in_any_order(tmp_path: Path) -> None:
    names = [f"{number:02d}" for number in range(20)]
    images(tmp_path, names)
    file = write(tmp_path / "t.csv", (HEADER + "".join(f"{n}.jpg,{int(n) % 2}\n" for n in names)).encode())
    whole = table.TableSplit(data(file), "test", undivided=True)  # type: ignore[arg-type]
    assert everything(source(file))[0] == [
        (tmp_path / f"{name}.jpg").read_bytes() for name in names if f"{name}.jpg" in train_names(file)
    ]
    found, labels = whole.read(np.array([7, 3, 7]))
    assert found == [(tmp_path / f"{n}.jpg").read_bytes() for n in ("07", "03", "07")]
    assert labels.tolist() == [1, 1, 1]
    write(tmp_path / "03.jpg", b"changed")
    with pytest.raises(BadRecord, match="data must not change while it is in use"):
        whole.read(np.array([3]))


@pytest.mark.long
def test_a_row_takes_its_path_and_seventy_bytes_and_both_splits_read_the_table_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, path = 200_000, "n01440764/n01440764_{:06d}.JPEG"
    rows = "".join(f"{path.format(number)},{number % 1000}\n" for number in range(count))
    file = write(tmp_path / "t.csv", (HEADER + rows).encode())
    monkeypatch.setattr(table.TableSplit, "_sizes_of", lambda *arguments: np.ones(len(arguments[3]), np.int64))
    reads: list[object] = []
    read_rows = table.read_rows
    monkeypatch.setattr(table, "read_rows", lambda *arguments: reads.append(arguments) or read_rows(*arguments))
    tracemalloc.start()
    try:
        train = table.TableSplit(data(file), "train", say=lambda text: None)  # type: ignore[arg-type]
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    validation = table.TableSplit(data(file), "validation", say=lambda text: None)  # type: ignore[arg-type]
    assert (train.count, validation.count, len(reads)) == (180_000, 20_000, 1)
    assert held / count < len(path.format(0)) + 70
    assert peak / count < len(path.format(0)) + 150
    del train, validation
    table.TableSplit(data(file), "train", say=lambda text: None)  # type: ignore[arg-type]
    assert len(reads) == 2, "what no split holds is gone"


def train_names(file: Path) -> set[str]:
    opened = source(file)
    return {Path(opened.place(record).split(" (")[0]).name for record in range(opened.count)}
