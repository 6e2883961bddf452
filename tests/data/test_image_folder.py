"""Image folders: what is found, in which order, and what is refused."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import sys
import tracemalloc
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from composing import compose
from image_data import CLASSES, everything, folder_source, jpeg, make_splits, make_tree, pixels, png, write
from PIL import Image

from trainer.data.images.decoding import decode, encoded_image
from trainer.data.sources.foreign import is_foreign
from trainer.data.sources.packed_images import PackedImages, rank
from trainer.errors import UsageError

PINNED_VALIDATION = [
    *("cat/004.jpg", "cat/012.jpg", "cat/014.jpg", "cat/023.png"),
    *("dog/020.jpg", "dog/024.jpg", "ox/012.jpg", "ox/027.png"),
]


def test_train_and_val_folders_are_the_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_splits(tmp_path)
    train, validation = folder_source(root), folder_source(root, "validation")
    assert train.class_names == validation.class_names == CLASSES
    assert (train.count, validation.count) == (12, 6)
    images, labels = everything(train)
    assert labels == [0] * 4 + [1] * 4 + [2] * 4
    assert images[5] == (root / "train" / "dog" / "001.png").read_bytes()
    expected = everything(validation)
    os.rename(root / "val", root / "validation")
    assert everything(folder_source(root, "validation")) == expected
    assert capsys.readouterr().out == ""


def test_classes_that_differ_in_case_alone_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("Cat", "cat", "dog"):
        for number in range(4):
            write(tmp_path / name / f"{number}.png", png(number))
    warning = "warning: the classes Cat and cat differ in upper and lower case alone; they are two classes\n"
    assert folder_source(tmp_path).class_names == ("Cat", "cat", "dog")
    assert warning in capsys.readouterr().out
    folder_source(tmp_path, "validation")
    folder_source(tmp_path, "train", "data.classes=[cat,dog]")
    assert warning not in capsys.readouterr().out


def test_one_tree_of_a_stored_run_is_split_by_a_hash_of_the_path_alone(tmp_path: Path) -> None:
    """Runs that were stored without ``data.split_by`` have these values: ``trainer/config/additions.py``."""
    root, stored = make_tree(tmp_path / "all", 40), ("data.split_by=path", "data.layout=exact")
    parts = {split: everything(folder_source(root, split, *stored))[0] for split in ("train", "validation")}
    assert len(parts["train"]) + len(parts["validation"]) == 120
    assert 3 <= len(parts["validation"]) <= 24  # a tenth of 120; five standard deviations around it
    assert not set(parts["train"]) & set(parts["validation"])
    # SHA-256 of the path: pinned, because another split would train on what validates a stored run
    validation = [path for path in sorted(root.rglob("*.*")) if path.read_bytes() in parts["validation"]]
    assert [str(path.relative_to(root)) for path in validation] == PINNED_VALIDATION
    # an added image moves no other
    write(root / "cat" / "new.png", png(7))
    again = {split: everything(folder_source(root, split, *stored))[0] for split in parts}
    assert all(set(parts[split]) <= set(again[split]) for split in parts)
    half = folder_source(root, "validation", "data.validation_share=0.5", *stored)
    assert 33 <= half.count <= 88
    assert set(parts["validation"]) <= set(everything(half)[0])


def test_the_order_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make_splits(tmp_path / "one")
    files = sorted(path.relative_to(one) for path in one.rglob("*.*"))
    for number in np.random.Generator(np.random.PCG64(5)).permutation(len(files)):
        write(tmp_path / "two" / files[number], (one / files[number]).read_bytes())
    expected = folder_source(one)
    assert everything(folder_source(tmp_path / "two")) == everything(expected)
    assert folder_source(tmp_path / "two").listing == expected.listing
    scandir = os.scandir

    class Backwards:
        def __init__(self, folder: Any) -> None:
            with scandir(folder) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> list[Any]:
            return self.entries

        def __exit__(self, *details: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Backwards)
    assert everything(folder_source(one)) == everything(expected)


def test_names_with_unicode_spaces_and_folders_within_a_class(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / split / "élan vital" / "Ü ber.PNG", png(1))
        write(tmp_path / split / "猫" / "deep" / "er" / "a b.JPeG", jpeg(2))
    source = folder_source(tmp_path)
    assert source.class_names == ("élan vital", "猫")
    assert everything(source) == ([png(1), jpeg(2)], [0, 1])
    other = tmp_path / "decomposed"
    for path in sorted(tmp_path.glob("*/*/**/*.*")):
        name = unicodedata.normalize("NFD", str(path.relative_to(tmp_path)))
        write(other / name, path.read_bytes())
    copied = folder_source(other)
    assert (copied.class_names, copied.listing) == (source.class_names, source.listing)


LISTED = """
import sys
from pathlib import Path
from trainer.config.compose import compose
from trainer.data.sources.source import open_source
config = compose(["data=image_folder", f"data.root={sys.argv[1]}"]).data
source = open_source(config, "validation")
print(ascii(source.class_names), source.count, source.listing, sys.getfilesystemencoding())
"""


def test_a_locale_without_utf_8_changes_no_name_and_no_split(tmp_path: Path) -> None:
    """The locale decides how Python reads file names. A job of cron must find the data of the terminal."""
    make_tree(tmp_path, 20, ["cat", unicodedata.normalize("NFD", "chèvre"), "猫"])
    found = {}
    for locale in ({"PYTHONUTF8": "1"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        command = [sys.executable, "-c", LISTED, str(tmp_path)]
        ended = subprocess.run(command, env={**os.environ, **locale}, capture_output=True, text=True, check=True)
        listed, _, encoding = ended.stdout.rstrip().rpartition(" ")
        found[encoding] = listed
    assert len(found) == 2
    assert len(set(found.values())) == 1
    assert found["utf-8"].startswith(ascii(("cat", "chèvre", "猫")))


def test_every_extension_that_is_read_is_one_that_decodes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        make_tree(tmp_path / split, 1, ["zebra"])
        for suffix, kind in (
            ("bmp", "BMP"),
            ("gif", "GIF"),
            ("jpg", "JPEG"),
            ("PNG", "PNG"),
            ("webp", "WEBP"),
            ("tif", "TIFF"),
        ):
            buffer = io.BytesIO()
            Image.fromarray(pixels(3).numpy()).save(buffer, kind)
            write(tmp_path / split / "ant" / f"image.{suffix}", buffer.getvalue())
    images, _ = everything(folder_source(tmp_path))
    assert len(images) == 7
    config = compose().preprocess
    for image in images:
        assert decode(encoded_image(image, config), config).shape == (10, 12, 3)


def test_what_is_not_an_image_is_counted_and_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_tree(tmp_path / "all", 30)
    write(root / "cat" / "notes.txt", b"x")
    write(root / "dog" / ".ipynb_checkpoints" / "a.png", png(1))
    write(root / "README", b"x")
    assert folder_source(root).count + folder_source(root, "validation").count == 90
    output = capsys.readouterr().out
    expected = "1 without an ending (README), 1 .txt (cat/notes.txt), 1 hidden (dog/.ipynb_checkpoints)"
    assert output == f"not read in {root}: {expected}\n"
    splits = make_splits(tmp_path / "splits")
    write(splits / "README", b"x")
    folder_source(splits), folder_source(splits, "validation")
    expected = f"not read in {splits}: 1 without an ending (README)\n"
    assert capsys.readouterr().out == expected


FOREIGN = (
    *("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "@Recycle"),
    *(".thumbnails", ".ipynb_checkpoints", ".Trash-1000", "__pycache__", "FOUND.000"),
)


def test_what_other_programs_leave_is_neither_a_class_nor_an_image(tmp_path: Path) -> None:
    expected = everything(folder_source(make_splits(tmp_path / "clean")))
    root = make_splits(tmp_path / "images")
    for name in FOREIGN:
        assert is_foreign(name)
        for place in (root, root / "train", root / "train" / "cat", root / "val" / "ox"):
            write(place / name / "cat" / "SYNOPHOTO_THUMB_M.jpg", jpeg(1))
    for name in ("._000.jpg", ".DS_Store", "Thumbs.db", "desktop.ini"):
        for place in (root, root / "train", root / "train" / "cat"):
            write(place / name, b"x")
    source = folder_source(root)
    assert (source.class_names, everything(source)) == (CLASSES, expected)
    assert folder_source(root, "validation").count == 6
    assert not any(map(is_foreign, ("cat", "MACOSX", "recycle", "lost", "data", "eaDir", "$100", "#1")))


def test_a_tree_with_another_program_s_folder_has_its_own_classes(tmp_path: Path) -> None:
    root = make_tree(tmp_path, 20, ["cat", "dog"])
    expected = [everything(folder_source(root, split)) for split in ("train", "validation")]
    write(root / "__MACOSX" / "cat" / "._000.jpg", b"x")
    write(root / "@eaDir" / "x" / "SYNOPHOTO_THUMB_M.jpg", jpeg(1))
    assert [everything(folder_source(root, split)) for split in ("train", "validation")] == expected


def test_classes_that_are_not_chosen_are_no_obstacle(tmp_path: Path) -> None:
    root = make_splits(tmp_path / "splits")
    chosen = "data.classes=[ox,cat]"
    expected = [(source := folder_source(root, split, chosen), source.listing) for split in ("train", "validation")]
    before = [(everything(source), listing) for source, listing in expected]
    for path in (root / "train" / "dog").iterdir():
        path.unlink()
    (root / "train" / "zebra").mkdir()  # empty, and not in val
    make_tree(root / "val", 1, ["zoo"])
    after = [
        (everything(source), source.listing)
        for source in (folder_source(root, split, chosen) for split in ("train", "validation"))
    ]
    assert after == before
    with pytest.raises(UsageError, match="dog is a class folder without an image"):
        folder_source(root, "train", "data.classes=[dog,cat]")
    with pytest.raises(UsageError, match="only in train: zebra"):
        folder_source(root, "train", "data.classes=[zebra,cat]")
    tree = make_tree(tmp_path / "tree", 20, ["cat", "dog"])
    (tree / "empty").mkdir()
    assert folder_source(tree, "train", "data.classes=[cat,dog]").class_names == ("cat", "dog")
    write(tree / "few" / "004.jpg", jpeg(4))
    share = f"data.validation_share={rank('few/004.jpg') + 0.01}"
    assert set(everything(folder_source(tree, "train", "data.classes=[cat,dog]", share))[1]) == {0, 1}


def test_a_choice_that_a_message_prints_is_taken_as_it_is(tmp_path: Path) -> None:
    root = make_splits(tmp_path)
    for split in ("train", "val"):
        make_tree(root / split, 1, ["sea lion, old", "it's", "10", "猫"])
    (root / "train" / "gone").mkdir()
    (root / "val" / "gone").mkdir()
    for name in ("cat", "dog", "ox"):
        for split in ("train", "val"):
            shutil.rmtree(root / split / name)
    with pytest.raises(UsageError) as refused:
        folder_source(root)
    choice = shlex.split(str(refused.value).rpartition("choose the others: ")[2])
    source = folder_source(root, "train", *choice)
    assert source.class_names == ("10", "it's", "sea lion, old", "猫")


def test_a_choice_is_printed_whole_or_not_at_all(tmp_path: Path) -> None:
    names = [f"c{number:03d}" for number in range(101)]
    make_tree(tmp_path, 1, names[:100])
    (tmp_path / "gone").mkdir()
    for count in (100, 1):
        for name in names[count:100]:
            shutil.rmtree(tmp_path / name)
        with pytest.raises(UsageError) as refused:
            folder_source(tmp_path)
        message = str(refused.value)
        assert ("choose" in message) is (count > 1), "one class is none to choose"
        if count > 1:
            assert message.endswith(f"or choose the others: 'data.classes=[{','.join(names[:100])}]'")


def test_a_part_of_the_images_is_spread_over_the_classes(tmp_path: Path) -> None:
    root = make_tree(tmp_path, 60)
    part = folder_source(root, "train", "data.train_examples=30")
    labels = everything(part)[1]
    assert labels == sorted(labels)
    assert np.bincount(labels, minlength=3).min() >= 3
    assert set(everything(part)[0]) <= set(everything(folder_source(root))[0])


def test_a_folder_called_train_may_be_a_class(tmp_path: Path) -> None:
    root = make_tree(tmp_path, 20, ["car", "train"])
    expected = {path.read_bytes(): int(path.parent.name == "train") for path in root.rglob("*.*")}
    found: dict[bytes, int] = {}
    for split in ("train", "validation"):
        source = folder_source(root, split)
        assert source.class_names == ("car", "train")
        images, labels = everything(source)
        assert set(labels) == {0, 1}
        assert not found.keys() & set(images)
        found |= zip(images, labels, strict=True)
    assert found == expected


def link(target: str, place: str) -> Callable[[Path], object]:
    return lambda root: (root / place).symlink_to(target)


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    # what is wrong: (how it is made in a good folder, the message with {root})
    "missing root": (shutil.rmtree, "data.root={root} does not exist"),
    "root is a file": (
        lambda root: (shutil.rmtree(root), root.write_bytes(b"")),
        "data.root={root} is not a directory",
    ),
    "empty root": (
        lambda root: (shutil.rmtree(root), root.mkdir()),
        "{root} has no class folders; expected a folder for each of at least two classes, {root}/CLASS/IMAGE",
    ),
    "one class": (
        lambda root: [shutil.rmtree(root / split / name) for split in ("train", "val") for name in CLASSES[1:]],
        "{root}/train has only one class folder, cat; expected a folder",
    ),
    "empty class folder": (
        lambda root: [path.unlink() for path in (root / "train" / "dog").iterdir()],
        "{root}/train/dog is a class folder without an image",
    ),
    "class folder with other files": (
        lambda root: [path.rename(path.with_suffix(".txt")) for path in (root / "train" / "dog").iterdir()],
        "{root}/train/dog is a class folder without an image",
    ),
    "class only in train": (
        lambda root: make_tree(root / "train", 1, ["elk"]),
        "{root}/train and {root}/val must have the same class folders\n  only in train: elk\n  only in val: none\n"
        "add what is missing, or choose the classes of both: 'data.classes=[cat,dog,ox]'",
    ),
    "class only in val": (
        lambda root: make_tree(root / "val", 1, ["elk", "yak"]),
        "only in train: none\n  only in val: elk, yak",
    ),
    "no val": (
        lambda root: shutil.rmtree(root / "val"),
        "{root} has train/ but no val/ or validation/; add it, or make its class folders data.root",
    ),
    "no train": (lambda root: shutil.rmtree(root / "train"), "{root} has val/ but no train/"),
    "val twice": (
        lambda root: make_tree(root / "validation", 1),
        "{root} has val and validation, which mean the same; keep one of them",
    ),
    "zero bytes": (
        lambda root: write(root / "train" / "ox" / "bad file.png", b""),
        "{root}/train/ox/bad file.png is empty (0 bytes)",
    ),
    "image without a class": (
        lambda root: write(root / "train" / "stray.png", png(0)),
        "{root}/train/stray.png lies beside the class folders, so it has no class",
    ),
    "class in two Unicode forms": (
        lambda root: [make_tree(root / "train", 1, [unicodedata.normalize(form, "é")]) for form in ("NFC", "NFD")],
        "are the same class name in two Unicode forms",
    ),
    "class under two names": (
        link("cat", "train/feline"),
        "{root}/train/feline and {root}/train/cat are the same folder under two class names",
    ),
    "name that is not UTF-8": (
        lambda root: os.mkdir(os.fsencode(root) + b"/train/\xff"),
        "{root}/train/\\xff cannot name a class, because it is not UTF-8; rename the folder",
    ),
    "name with a line end": (
        lambda root: os.mkdir(root / "train" / "a\nb"),
        "{root}/train/a\\nb cannot name a class, because it has control characters; rename the folder",
    ),
    "several empty class folders": (
        lambda root: [path.unlink() for name in ("cat", "ox") for path in (root / "train" / name).iterdir()],
        "{root}/train/cat is a class folder without an image (bmp, dib, gif, jfif, jpe, jpeg, jpg, png, tif, tiff, "
        "webp), and so is ox; fill or remove it",
    ),
    "link to its own folder": (link(".", "train/cat/loop"), "{root}/train/cat/loop leads back to {root}/train/cat"),
    "link to the class folders": (link("..", "train/cat/loop"), "{root}/train/cat/loop leads back to {root}/train"),
    "link to the file system": (link("/", "train/cat/loop"), "{root}/train/cat/loop leads back to /, which contains"),
    "class that links to an ancestor": (
        lambda root: [link("..", f"{split}/loop")(root) for split in ("train", "val")],
        "{root}/train/loop leads back to {root}, which contains it",
    ),
    "link to itself": (link("loop.png", "train/cat/loop.png"), "{root}/train/cat/loop.png, a symbolic link to loop"),
    "link to nothing": (
        link("/nowhere.png", "train/cat/gone.png"),
        "{root}/train/cat/gone.png, a symbolic link to /nowhere.png, cannot be read: No such file or directory",
    ),
    "folder that links to nothing": (link("gone", "train/elk"), "{root}/train/elk, a symbolic link to gone, cannot"),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_a_folder_that_is_not_right_is_refused(what: str, tmp_path: Path) -> None:
    root = make_splits(tmp_path / "images")
    make, message = FOLDERS[what]
    make(root)
    with pytest.raises(UsageError) as refused:
        folder_source(root)
    assert message.format(root=root) in str(refused.value)


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    make_tree(tmp_path / "store", 3, ["elk"])
    root = make_splits(tmp_path / "images")
    for split in ("train", "val"):
        link(str(tmp_path / "store" / "elk"), f"{split}/elk")(root)
    assert folder_source(root).class_names == ("cat", "dog", "elk", "ox")


def test_a_split_without_an_image_or_with_too_few_is_refused(tmp_path: Path) -> None:
    root = make_tree(tmp_path, 2)
    with pytest.raises(UsageError, match=r"data.validation_share=0.0001 leaves no image of .* for validation"):
        folder_source(root, "validation", "data.validation_share=0.0001", "data.split_by=path")
    write(root / "elk" / "004.jpg", jpeg(4))
    share = rank("elk/004.jpg") + 0.01
    with pytest.raises(UsageError, match=r"leaves no image of .*/elk for training"):
        folder_source(root, "train", f"data.validation_share={share}", "data.split_by=path")
    shutil.rmtree(root / "elk")
    with pytest.raises(UsageError, match=r"data.train_examples is 99, but train has 3 records"):
        folder_source(root, "train", "data.train_examples=99")
    singles = make_tree(tmp_path / "singles", 1)
    with pytest.raises(UsageError, match=r"every class of .*/singles has a single image, which is needed for training"):
        folder_source(singles, "validation")


# TFRecord files


def test_a_relative_root_is_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert compose("data=image_folder", "data.root=images").data.root == str(tmp_path / "images")
    assert compose("data=image_folder", "data.root='~/images'").data.root == os.path.expanduser("~/images")


@pytest.mark.long
def test_an_imagenet_of_files_takes_20_bytes_an_image_and_its_path() -> None:
    path = "n01440764/n01440764_{:05d}.JPEG"
    images = ((path.format(number % 1300), number // 1300, 110_000) for number in range(1_281_167))
    tracemalloc.start()
    try:
        packed = PackedImages(images)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(packed) == 1_281_167
    assert packed.path(1300) == path.format(0)
    assert held < 70e6
    assert peak < 90e6
