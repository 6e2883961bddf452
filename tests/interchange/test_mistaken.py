"""What lies under the name of weights after a download or a checkout that went wrong is called what it is."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from foreign_files import save_with_saver

from trainer.errors import NoValidCheckpoint, RestoreRefused
from trainer.run import warm_start

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 95120544\n"


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("inception_v3.ckpt"))
    return buffer.getvalue()


MISTAKEN = {
    "pointer": (POINTER, "is a pointer of Git LFS and not the file itself, which has 95120544 bytes"),
    "page": (b"\n<!DOCTYPE html>\n<html><title>Sign in</title>", "is a web page, saved under the name of a file of"),
    "page with a mark": (b"\xef\xbb\xbf<html lang=en>", "is a web page"),
    "error": (
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "is an XML document, as a server sends",
    ),
    "tar": (tar(), "is a tar archive: unpack it"),
    "gzip": (gzip.compress(b"weights"), "is a gzip archive: unpack it"),
}
ENDINGS = (".safetensors", ".h5", ".weights.h5", ".keras", ".ckpt", "")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", MISTAKEN)
def test_it_is_refused_by_name_under_any_ending(kind: str, ending: str, tmp_path: Path) -> None:
    content, message = MISTAKEN[kind]
    path = tmp_path / f"model{ending}"
    path.write_bytes(content)
    with pytest.raises(RestoreRefused) as refused:
        warm_start.find(path)
    assert f"init_from={path}: {path} {message}" in str(refused.value)
    if kind == "pointer":
        assert f"git lfs pull --include {path.name}" in str(refused.value)


@pytest.mark.parametrize("part", [".index", ".data-00000-of-00001"])
def test_so_is_a_pointer_in_place_of_a_part_of_a_tensorflow_checkpoint(part: str, tmp_path: Path) -> None:
    prefix = save_with_saver(tmp_path / "model.ckpt", {"a": np.ones(3, np.float32)})
    Path(f"{prefix}{part}").write_bytes(POINTER)
    with pytest.raises(RestoreRefused, match=f"model.ckpt{part} is a pointer of Git LFS"):
        warm_start.find(prefix)


def test_keras_files_in_several_parts_are_refused_with_the_line_that_writes_one(tmp_path: Path) -> None:
    (tmp_path / "model.weights.json").write_text('{"weight_map": {}}')
    with pytest.raises(RestoreRefused, match=r"several files\n.*model.save_weights\('model.weights.h5'\)"):
        warm_start.find(tmp_path / "model.weights.json")


@pytest.mark.parametrize("ending", [".safetensors", ".h5", ".weights.h5", ".keras"])
def test_an_empty_file_is_no_checkpoint(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"model{ending}").touch()
    with pytest.raises(NoValidCheckpoint, match=r"model\S* (ends too early|does not begin as)"):
        warm_start.find(tmp_path / f"model{ending}")
