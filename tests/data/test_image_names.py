"""Which files are images: by their endings, by their content without one, and what is left out by a pattern."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from composing import compose
from image_data import everything, folder_source, jpeg, make_tree, png, write

from trainer.config import stored
from trainer.config.arguments import parse_arguments
from trainer.config.complete import complete
from trainer.data.sources.foreign import is_foreign
from trainer.data.sources.image_names import names_of
from trainer.errors import UsageError


def test_a_file_without_an_ending_is_an_image_by_its_content(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            write(tmp_path / split / name / "plain", jpeg(1))
            write(tmp_path / split / name / "photo.jfif", jpeg(2))
            write(tmp_path / split / name / "notes", b"no image")
            write(tmp_path / split / name / "photo.0001", png(3))
    assert everything(folder_source(tmp_path)) == ([jpeg(2), jpeg(1)] * 2, [0, 0, 1, 1])
    by_name = folder_source(tmp_path, "train", "data.without_extension=ignore")
    assert everything(by_name) == ([jpeg(2)] * 2, [0, 1])


def test_a_pattern_leaves_out_files_and_folders_in_any_case_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_tree(tmp_path / "tree", 10, ["cat", "dog", "Background"])
    write(root / "cat" / "deep" / "thumb_1.jpg", jpeg(5))
    write(root / "cat" / "thumbnails" / "1.jpg", jpeg(5))
    source = folder_source(root, "train", "data.ignore=[background,thumb*]")
    assert (source.class_names, source.count) == (("cat", "dog"), 18)
    assert capsys.readouterr().out == f"left out by data.ignore in {root}: 3 (the first Background)\n"
    assert folder_source(root).class_names == ("Background", "cat", "dog")


def test_what_other_programs_leave_is_left_out_whatever_the_patterns_are(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree", 10, ["cat", "dog", "__MACOSX", "@eaDir"])
    assert folder_source(root).class_names == ("cat", "dog")
    assert folder_source(root, "train", "data.ignore=[]").class_names == ("cat", "dog")
    default = compose("data=image_folder", "data.root=x").data.ignore  # type: ignore[attr-defined]
    assert all(is_foreign(name) for name in default), "so that runs of before have the same images"
    names = names_of(compose("data=image_folder", "data.root=x").data)  # type: ignore[arg-type]
    assert not names.is_ignored("__MACOSX"), "it is named as before, and not as left out by a key"


def test_an_empty_class_can_be_left_out_as_the_message_says(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree", 10, ["cat"])
    for name in ("dog [new]", "ox"):
        (root / name).mkdir()
    with pytest.raises(UsageError) as refused:
        folder_source(root)
    argument = shlex.split(re.search(r"or leave out dog \[new\], ox: (.*)$", str(refused.value))[1])[0]  # type: ignore[index]
    assert parse_arguments([argument])["data.ignore"] == ["__MACOSX", "@eaDir", "dog [[]new]", "ox"]
    make_tree(root, 10, ["yak"])
    assert folder_source(root, "train", argument).class_names == ("cat", "yak")


def test_a_pattern_of_a_path_is_refused() -> None:
    with pytest.raises(UsageError, match=r"data.ignore has 'a/b', but must have patterns of names, not of paths"):
        compose("data=image_folder", "data.root=x", "data.ignore=[a/b]")


def test_a_configuration_stored_before_these_keys_reads_what_it_read() -> None:
    text = stored.to_text(complete(compose("data=image_folder", "data.root=/x"), 100, 10))
    lines = ("  without_extension: content\n", "  ignore:\n  - __MACOSX\n  - '@eaDir'\n")
    for line in lines:
        assert line in text
        text = text.replace(line, "")
    data = stored.from_text(text).data
    assert (data.without_extension, data.ignore) == ("ignore", ())  # type: ignore[attr-defined]
