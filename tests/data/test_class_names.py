"""Files that name the classes, as Windows, Macs and TF-Slim write them; and records that hold a class by its name."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest
from image_data import everything, example, make_shards, png, shard_source, write, write_shard

from trainer.data.sources.class_names import read_labels_file
from trainer.errors import BadRecord, UsageError

TAKEN: dict[str, tuple[bytes, int, tuple[str, ...]]] = {
    # how it is written: (the file, data.label_offset, the names)
    "plain": (b"cat\ndog\n", 0, ("cat", "dog")),
    "no line end": (b"cat\ndog", 0, ("cat", "dog")),
    "byte order mark": (codecs.BOM_UTF8 + "chèvre\ndog\n".encode(), 0, ("chèvre", "dog")),
    "Windows": (codecs.BOM_UTF8 + b"cat\r\ndog\r\n\r\n", 0, ("cat", "dog")),
    "old Macs": (b"cat\rdog\r", 0, ("cat", "dog")),
    "blank lines at the end": (b"cat\ndog\n\n  \n\n", 0, ("cat", "dog")),
    "spaces": (b" sea lion \n\tdog\n", 0, ("sea lion", "dog")),
    "a line separator in a name": ("c\u2028at\ndog\n".encode(), 0, ("c\u2028at", "dog")),
    "numbers": (b"10\n1\n", 0, ("10", "1")),
    "TF-Slim's numbered lines": (b"0:cat\n1:sea lion\n2:a:b\n", 0, ("cat", "sea lion", "a:b")),
    "numbered lines in another order": (b"1:dog\r\n0:cat\r\n", 0, ("cat", "dog")),
    "names with numbers": (b"1 euro\n2 euro\n50 cent\n", 0, ("1 euro", "2 euro", "50 cent")),
    "years": (b"ford, 1978\nopel, 1990\n", 0, ("ford, 1978", "opel, 1990")),
    "names that are numbers": (b"0\n1\n2\n", 0, ("0", "1", "2")),
    "names with numbers that count, numbered": (b"0:0 cat\n1:1 dog\n", 0, ("0 cat", "1 dog")),
    "numbered lines with background": (b"0:background\n1:cat\n2:dog\n", 1, ("cat", "dog")),
    "numbered lines from 1": (b"1:cat\n2:dog\n", 1, ("cat", "dog")),
    "a JSON list": (b'["cat", "sea lion"]', 0, ("cat", "sea lion")),
    "JSON, numbers with names": (b'\n {"1": "dog", "0": "cat"}\n', 0, ("cat", "dog")),
    "JSON, names with numbers": (b'{"dog": 2, "cat": 1, "background": 0}', 1, ("cat", "dog")),
    "JSON, names that are numbers with numbers": (b'{"0": 0, "1": 1, "10": 2, "2": 3}', 0, ("0", "1", "10", "2")),
    "Keras's index of ImageNet": (
        b'{"0": ["n01440764", "tench"], "1": ["n02012849", "crane"], "2": ["n03126707", "crane"]}',
        0,
        ("n01440764 tench", "n02012849 crane", "n03126707 crane"),
    ),
    "ImageNet's synsets": (
        b"n01440764 tench, Tinca tinca\nn01443537 goldfish\n",
        0,
        ("n01440764 tench, Tinca tinca", "n01443537 goldfish"),
    ),
    "ImageNet's metadata": (b"n01440764\ttench\nn01443537\tgoldfish\n", 0, ("n01440764 tench", "n01443537 goldfish")),
}
REFUSED: dict[str, tuple[bytes, int, str]] = {
    "UTF-16": ("cat\ndog\n".encode("utf-16"), 0, "is not UTF-8, but UTF-16 or UTF-32"),
    "UTF-16 without a mark": ("cat\ndog\n".encode("utf-16-le"), 0, "is not UTF-8, but UTF-16 or UTF-32"),
    "UTF-32": ("cat\ndog\n".encode("utf-32-be"), 0, "is not UTF-8, but UTF-16 or UTF-32"),
    "Latin-1": (b"\xe9\nb\n", 0, "is not UTF-8: "),
    "a gap": (b"cat\n\ndog\n", 0, "has no name in line 2"),
    "a name twice": (b"cat\ndog\ncat\n", 0, "has cat in lines 1 and 3"),
    "a name twice, numbered": (b"1:cat\n0:cat\n", 0, "has cat in lines 2 and 1"),
    "one name": (b"cat\n\n", 0, "has 1 lines, but at least two classes"),
    "nothing": (b"", 0, "has 0 lines"),
    "a comment": (b"# my classes\ncat\ndog\n", 0, "begins with a comment (# my classes), but every line is a class"),
    "numbers without a colon": (b"0 cat\n1 dog\n", 0, "the number of the label in every line (0 cat): write it before"),
    "numbers behind": (b"dog,1\ncat,0\n", 0, "if it belongs to the name: 0:dog,1"),
    "numbers from the offset": (b"1; cat\n2; dog\n", 1, "the number of the label in every line (1; cat)"),
    "numbers on some lines": (b"0:cat\ndog\n", 0, "before the name in line 1 (0:cat), but not in line 2 (dog)"),
    "a number twice": (b"0:cat\n0:dog\n", 0, "has the number 0 in lines 1 and 2"),
    "a number missing": (b"0:cat\n2:dog\n", 0, "has no line for label 1, but one for 2"),
    "numbered from 1, without the offset": (b"1:cat\n2:dog\n", 0, "has no line for label 0, but one for 2"),
    "JSON of something else": (b'{"cat": "dog"}', 0, "is JSON, but neither a list of names, nor numbers with names"),
    "broken JSON": (b'{"0": "cat", ', 0, "is no list of names: it is not JSON"),
    "JSON with a gap": (b'{"0": "cat", "2": "dog"}', 0, "has no entry for label 1, but one for 2"),
    "JSON with a name twice": (b'["cat", "dog", "cat"]', 0, "has cat in entries 1 and 3"),
    "JSON with a number twice": (b'{"cat": 0, "dog": 0}', 0, "has the number 0 in entries 1 and 2"),
    "JSON with another value": (b'["cat", 3]', 0, "has 3 in entry 2, which is not a name"),
    "tabs": (b"cat\tfelis\ndog\tcanis\n", 0, r"has control characters in line 1: 'cat\tfelis'"),
    "a label map": (b"item {\n  id: 1\n  name: 'cat'\n}\n", 0, "another kind of file; write one class name a line"),
    "a control character": (b"c\x07at\ndog\n", 0, r"has control characters in line 1: 'c\x07at'"),
}


@pytest.mark.parametrize("how", TAKEN)
def test_a_labels_file_of_any_system_names_the_classes(how: str, tmp_path: Path) -> None:
    data, offset, names = TAKEN[how]
    assert read_labels_file(write(tmp_path / "labels.txt", data), offset) == names


@pytest.mark.parametrize("how", REFUSED)
def test_a_labels_file_that_could_be_misread_is_refused(how: str, tmp_path: Path) -> None:
    data, offset, message = REFUSED[how]
    with pytest.raises(UsageError) as refused:
        read_labels_file(write(tmp_path / "labels.txt", data), offset)
    assert str(refused.value).startswith(f"data.labels_file={tmp_path}/labels.txt ")
    assert message in str(refused.value)


def test_a_record_may_hold_its_class_by_name(tmp_path: Path) -> None:
    names = ("image/encoded", "image/class/text")
    root = make_shards(tmp_path)
    write(root / "labels.txt", "0:ox\n1:che\u0301vre\n2:sea lion\n".encode())
    labels = ["sea lion", "ch\u00e9vre", "ox ", "che\u0301vre"]
    for shard in ("train-00000-of-00002", "train-00001-of-00002"):
        write_shard(root / shard, [example(png(n), label.encode(), names) for n, label in enumerate(labels)])
    keys = ("data.label_key=image/class/text", "data.labels_file=labels.txt")
    source = shard_source(root, "train", *keys)
    assert everything(source)[1] == [2, 1, 0, 1] * 2
    assert source.labels().tolist() == [2, 1, 0, 1] * 2
    assert everything(shard_source(root, "train", *keys, "data.classes=[sea lion,ox]"))[1] == [0, 1] * 2
    with pytest.raises(BadRecord, match=r"if these are names of classes, list them in data.labels_file"):
        everything(shard_source(root, "train", keys[0]))
    for label, message in (
        (b"se lion", "has label se lion, which is not a name in data.labels_file; did you mean sea lion?"),
        (b"ch\xe9vre", r"has label ch\xe9vre, which is not a name"),
        (b"", "has label (no text), which is not a name"),
    ):
        write_shard(root / "train-00000-of-00002", [example(png(0), label, names)])
        with pytest.raises(BadRecord) as refused:
            everything(shard_source(root, "train", *keys))
        assert message in str(refused.value)
        assert f"{root}/train-00000-of-00002 record 0 " in str(refused.value)


def test_the_number_of_a_synset_names_its_class(tmp_path: Path) -> None:
    names = ("image/encoded", "image/class/synset")
    root = make_shards(tmp_path)
    write(root / "labels.txt", b"n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\n")
    labels = ["n03126707", "n02012849 crane", "n01440764", "n02012849"]
    for shard in ("train-00000-of-00002", "train-00001-of-00002"):
        write_shard(root / shard, [example(png(n), label.encode(), names) for n, label in enumerate(labels)])
    source = shard_source(root, "train", "data.label_key=image/class/synset", "data.labels_file=labels.txt")
    assert everything(source)[1] == [2, 1, 0, 1] * 2


def test_labels_kept_beside_the_records_are_read_again_when_the_names_change(tmp_path: Path) -> None:
    names = ("image/encoded", "image/class/text")
    root = make_shards(tmp_path)
    for shard in ("train-00000-of-00002", "train-00001-of-00002"):
        write_shard(root / shard, [example(png(0), b"ox", names), example(png(1), b"cat", names)])
    keys = ("data.label_key=image/class/text", "data.labels_file=labels.txt")
    for text, labels in ((b"ox\ncat\n", [0, 1]), (b"cat\nox\n", [1, 0])):
        write(root / "labels.txt", text)
        assert shard_source(root, "train", *keys).labels().tolist() == labels * 2
