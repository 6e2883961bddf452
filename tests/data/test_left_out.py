"""Files that are not read are named by their format, with a count; images with an unusual name are found."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from handmade_images import saved
from image_data import folder_source, jpeg, make_splits, write
from PIL import Image

from trainer.data.images.other_formats import BEGIN, by_content, by_name
from trainer.data.sources.left_out import left_out
from trainer.errors import UsageError

EXTENSIONS = ["bmp", "jpg", "png"]
PICTURE = Image.fromarray(np.random.Generator(np.random.PCG64(1)).integers(0, 256, (16, 16, 3), np.uint8))
CONTENTS = {
    "AVIF": saved(PICTURE, "AVIF"),
    "JPEG 2000": saved(PICTURE, "JPEG2000"),
    "icon (ICO)": saved(PICTURE, "ICO"),
    "PNM": saved(PICTURE, "PPM"),
    "PDF": saved(PICTURE, "PDF"),
    "PostScript": saved(PICTURE, "EPS"),
    "DDS": saved(PICTURE, "DDS"),
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "camera raw": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
    "Photoshop": b"8BPS\0\1",
    "SVG": b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg width="1">',
    "DICOM": bytes(128) + b"DICM",
    "NIfTI": b"\x5c\1\0\0",
    "OpenEXR": b"\x76\x2f\x31\x01",
    "BigTIFF": b"II\x2b\0\x08\0\0\0",
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "NumPy": b"\x93NUMPY\1\0",
    "archive": b"PK\3\4",
    "video": b"\0\0\0\x18ftypisom\0\0\0\0isommp41",
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_format_is_known_by_its_content(name: str) -> None:
    assert by_content(CONTENTS[name][:BEGIN]) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("IMG_1.HEIC", "HEIC"),
        ("a.b.CR2", "camera raw"),
        ("x.nef", "camera raw"),
        ("brain.nii.gz", "NIfTI"),
        ("all.tar.gz", "archive"),
        ("slice.dcm", "DICOM"),
        ("logo.svg", "SVG"),
        ("heic", None),
        ("a.jpg", None),
        ("notes.txt", None),
    ],
)
def test_a_format_is_known_by_its_ending(name: str, expected: str | None) -> None:
    assert by_name(name) == expected


def test_every_format_is_named_with_its_count(tmp_path: Path) -> None:
    for number, content in enumerate(CONTENTS.values()):
        write(tmp_path / f"f{number:02}", content)
    for name in ("a.heic", "b.heic", "c.dcm", "notes.txt", ".hidden"):
        write(tmp_path / name, b"x")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # is not waited for
    (line,) = left_out(sorted(map(str, tmp_path.iterdir())), EXTENSIONS, str(tmp_path))
    kinds = "3 HEIC (the first a.heic), 2 DICOM (the first c.dcm), 1 AVIF (f00), "
    assert line.startswith(f"not read in {tmp_path}: {kinds}")
    (line,) = left_out([str(tmp_path / ".hidden"), str(tmp_path / "folder")], EXTENSIONS, str(tmp_path))
    assert line == f"not read in {tmp_path}: 1 hidden (.hidden), 1 folder (folder)"


def test_a_million_files_of_one_kind_are_not_all_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: (opened.append(path), real(path, *rest))[1])
    for number in range(300):
        write(tmp_path / f"{number:03}.xml", b"<annotation>")
    (line,) = left_out(sorted(map(str, tmp_path.iterdir())), EXTENSIONS, str(tmp_path))
    assert line == f"not read in {tmp_path}: 300 .xml (the first 000.xml)"
    assert len([path for path in opened if str(path).endswith(".xml")]) == 100


def test_an_image_with_an_unusual_name_is_found_and_read_when_its_ending_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_splits(tmp_path)
    write(root / "train" / "cat" / "photo.jpg_large", jpeg(1))
    write(root / "train" / "dog" / "photo.img", jpeg(2))
    assert folder_source(root).count == 12
    output = capsys.readouterr().out
    assert "1 JPEG named .img (train/dog/photo.img)" in output
    assert "1 JPEG named .jpg_large (train/cat/photo.jpg_large)" in output
    assert "warning: 2 of these are images by their content, but not by their names; rename them" in output
    assert folder_source(root, "train", "data.extensions=[jpg,png,img]").count == 13


def test_a_class_folder_of_another_format_is_refused_with_its_name(tmp_path: Path) -> None:
    root = make_splits(tmp_path)
    for split in ("train", "val"):
        for number in range(2):
            write(root / split / "elk" / f"{number}.heic", CONTENTS["HEIC"])
    with pytest.raises(UsageError, match=r"elk is a class folder without an image .*\n.*: 2 HEIC \(the first 0.heic\)"):
        folder_source(root)


def test_endings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for wrong in ("[.jpg]", "[JPG]", "[]"):
        with pytest.raises(UsageError, match="must be endings without their dot"):
            folder_source(make_splits(tmp_path), "train", f"data.extensions={wrong}")


def test_tiff_and_the_other_names_of_jpeg_are_images(tmp_path: Path) -> None:
    root = make_splits(tmp_path)
    for split in ("train", "val"):
        for ending, kind in (("TIF", "TIFF"), ("tiff", "TIFF"), ("jfif", "JPEG"), ("dib", "BMP")):
            write(root / split / "cat" / f"new {ending}.{ending}", saved(PICTURE, kind))
    assert folder_source(root).count == 16
    stored = "data.extensions=[bmp,gif,jpeg,jpg,png,webp]"  # as runs that were stored without the key
    assert folder_source(root, "train", stored).count == 12
