"""``check-data`` and ``train`` on images that a network would not see as a person does."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from handmade_images import png, saved, tiff
from image_data import jpeg, make_splits, write
from PIL import Image
from processes import NARROW
from stored_runs import keep_this_process

from trainer.__main__ import run

NOISE = np.random.Generator(np.random.PCG64(9)).integers(0, 256, (10, 12, 4), np.uint8)
TWELVE = NOISE[..., :1].astype(np.uint16) << 4


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_splits(tmp_path)


def checked(root: Path, capfd: pytest.CaptureFixture[str], *settings: str, status: int = 0) -> str:
    assert run(["check-data", "data=image_folder", f"data.root={root}", *settings]) == status
    found = capfd.readouterr()
    assert found.err == ""
    return found.out


def test_transparency_is_counted_and_what_is_blank_on_the_background(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    glyph = np.full((4, 4, 4), 255, np.uint8)
    glyph[1:, :, 3] = 0
    write(root / "train" / "cat" / "glyph.png", png(glyph))
    write(root / "train" / "dog" / "see-through.png", png(NOISE))
    write(
        root / "train" / "dog" / "opaque.png",
        png(np.concatenate([NOISE[..., :3], np.full_like(NOISE[..., 3:], 255)], -1)),
    )
    output = checked(root, capfd)
    assert "  2 of 15 have transparent pixels, shown on white (preprocess.background), the first train/cat/" in output
    assert "  warning: 1 of these are one colour on it, the first train/cat/glyph.png (record 4)" in output
    output = checked(root, capfd, "preprocess.background=[0,0,9]")
    assert "2 of 15 have transparent pixels, shown on [0, 0, 9] (preprocess.background)" in output
    assert "one colour" not in output
    assert "alpha is dropped and what is stored under it shows" in checked(root, capfd, "preprocess.background=none")


def test_the_share_of_sixteen_bits_that_is_used_is_said_with_what_to_set(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(root / "train" / "cat" / "ct.png", png(TWELVE))
    write(root / "val" / "cat" / "ct.tif", tiff(TWELVE))
    smallest, largest = int(TWELVE.min()), int(TWELVE.max())
    share = "6.2 % of the range from 0 to 65535"
    used = f"  1 of 13 have 16 bits a channel, with values from {smallest} to {largest}: {share}"
    output = checked(root, capfd)
    assert used in output
    assert "1 of 7 have 16 bits a channel" in output
    assert output.count("'preprocess.sixteen_bit_range=[0,4095]' spreads these values") == 2
    write(root / "train" / "cat" / "full.png", png(TWELVE << 4))
    assert "warning: 1 of these use less than an eighth of it each, the first train/cat/ct.png" in checked(root, capfd)
    (root / "train" / "cat" / "full.png").unlink()
    output = checked(root, capfd, "preprocess.sixteen_bit_range=[0,4095]")
    assert "% of the range from 0 to 4095 (preprocess.sixteen_bit_range)" in output
    assert "warning" not in output
    output = checked(root, capfd, "preprocess.sixteen_bit_range=[0,2047]")
    assert "  1 of these have values outside, which become black or white, the first train/cat/ct.png" in output


def test_what_a_decoder_warns_of_is_said_with_the_file_and_nowhere_else(
    root: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    whole = jpeg(1)
    write(root / "train" / "dog" / "padded.jpg", whole[:-2] + bytes(20) + whole[-2:])
    write(
        root / "train" / "ox" / "tags.tif",
        tiff(NOISE[..., :3], tags={270: 1}).replace(b"\x0e\1\3\0\1\0\0\0", b"\x0e\1\3\0\xff\xff\0\0"),
    )
    palette = Image.fromarray(NOISE[..., :3]).quantize(16)
    write(root / "train" / "ox" / "palette.png", saved(palette, "PNG", transparency=bytes(range(0, 256, 16))))
    output = checked(root, capfd)
    assert "images that a decoder warns of, and reads nevertheless: 2\n" in output
    assert "  train/dog/padded.jpg (record 8): Corrupt JPEG data: " in output
    assert "  train/ox/tags.tif (record 14): " in output
    assert "every record can be used" in output
    assert [str(each.message) for each in recwarn] == []


def test_a_run_that_would_see_black_images_is_refused(
    root: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_this_process(monkeypatch)
    for path in root.rglob("*.*"):
        if path.is_file():
            path.write_bytes(png(TWELVE >> 4))
    place = tmp_path / "run"
    folder = ("data=image_folder", f"data.root={root}", "data.train_examples=null", "data.validation_examples=null")
    assert run(["train", *NARROW, *folder, f"run_dir={place}"]) == 2
    message = capfd.readouterr().err
    assert message.startswith("error: images of 16 bits use 0.39 % of the values from 0 to 65535: ")
    assert "add 'preprocess.sixteen_bit_range=[0,255]' to spread these values" in message
    assert not place.exists()


def test_pillow_s_own_warning_needs_a_palette_that_is_converted_to_rgb() -> None:
    """That the warning exists: without it, nothing above proves anything."""
    palette = saved(Image.fromarray(NOISE[..., :3]).quantize(16), "PNG", transparency=bytes(range(0, 256, 16)))
    with pytest.warns(UserWarning, match="Palette images with Transparency"):
        Image.open(io.BytesIO(palette)).convert("RGB")


@pytest.mark.parametrize(("largest", "share"), [(65535, "100"), (65000, "99"), (32767, "50"), (255, "0.39")])
def test_a_share_is_written_without_an_exponent(
    largest: int, share: str, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(root / "train" / "cat" / "deep.png", png(np.array([[[0], [largest]]], np.uint16)))
    assert f"with values from 0 to {largest}: {share} % of the range" in checked(root, capfd)
