"""Paths and names on the command line mean what was typed, whatever Hydra's grammar makes of their signs."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from composing import compose

from trainer.config.arguments import parse_arguments
from trainer.config.compose import compose_run
from trainer.config.spelling import PLACES, respelled
from trainer.errors import UsageError

PLAIN = (
    *("epoch=3", "my images (1)", "photos, 2024", "Bilder_äöü", "新しい", "a+b [x]", "it's", "a&b;c!", "#1", "100%"),
    *(
        "2024",
        "1e3",
        "1_000",
        "0.10",
        "true",
        "[a]",
        "{a:b}",
        "choice(a,b)",
        "int(3)",
        " x ",
        "tab\\slash",
        "<x>",
        "😀",
    ),
    *("~x", "a|b", "^", "`x`", "gs://b/x?y=1", "a@b", "a:b", "(", "$HOME", "*.tfrecord", "train[:80%]"),
)
QUOTED = {  # what is written in Hydra's grammar keeps its meaning
    '"a, b"': "a, b",
    "'it\\'s'": "it's",
    "a\\,b": "a,b",
    "'~x y'": "~x y",
    "'2024'": "2024",
}


@pytest.mark.parametrize("key", sorted(PLACES))
def test_a_path_is_the_text_that_was_typed(key: str) -> None:
    for text in PLAIN if key == "checkpoint" else PLAIN[:5]:  # one way for all keys: their list is what may be wrong
        assert parse_arguments([f"{key}={text}"]) == {key: text}
    for written, text in QUOTED.items():
        assert parse_arguments([f"{key}={written}"]) == {key: text}
    assert parse_arguments([f"{key}=~/a b (1)"]) == {key: os.path.expanduser("~/a b (1)")}
    assert parse_arguments([f"{key}='~/ab'"]) == {key: "~/ab"}
    assert parse_arguments([f"{key}=null"]) == {key: None}


def test_every_command_composes_the_path_that_was_typed() -> None:
    for text in ("epoch=3", "my images (1)", "photos, 2024", "新しい", "2024", "[a]"):
        there = f"/data/{text}"
        assert compose("data=image_folder", f"data.root={there}").data.root == there
        arguments = ["data=tfrecord", f"data.root={there}", f"data.labels_file={text}"]
        invocation, config = compose_run([*arguments, f"run_dir={text}" if text != "[a]" else "run_dir=x"])
        assert (config.data.root, config.data.labels_file, invocation.run_dir) == (
            there,
            text,
            text if text != "[a]" else "x",
        )
    assert compose("data=image_folder", "data.root=~/a (1)").data.root == os.path.expanduser("~/a (1)")


def test_a_list_of_paths_is_what_a_shell_would_make_of_them() -> None:
    home = os.path.expanduser("~")
    assert parse_arguments(["images=[~/a (1),b=c,'~/d']"]) == {"images": [f"{home}/a (1)", "b=c", "~/d"]}


def test_a_list_of_names_is_the_texts_that_were_typed() -> None:
    for written, names in (
        ("[10,1]", ("10", "1")),
        ("[null,1]", ("null", "1")),
        ("[1_0,1e3, true ,007]", ("1_0", "1e3", "true", "007")),
        ("[猫,my dog (1),it's]", ("猫", "my dog (1)", "it's")),
        ("['a, b','1',c]", ("a, b", "1", "c")),
        ("[cat,dog]", ("cat", "dog")),
    ):
        assert compose("data=image_folder", "data.root=x", f"data.classes={written}").data.classes == names
    assert compose("data=image_folder", "data.root=x", "data.classes=null").data.classes is None
    assert parse_arguments(["run_dir=[a b (1),2024]"]) == {"run_dir": ["a b (1)", "2024"]}


def test_other_values_and_interpolations_stay_as_they_are() -> None:
    kept = ["train.steps=3", "optimizer=adam", "~optimizer", "--cfg", "job", "allow=[data]", "experiment=3", "seed=1,2"]
    kept += ["hydra.sweep.dir=outputs/${now:%Y}", "data.root=a\\,b", "optimizer.learning_rate=1e-3", "checkpoint=null"]
    assert respelled(kept) == kept
    assert respelled(["hydra.sweep.dir=my (1)/${now:%Y}"]) == ['hydra.sweep.dir="my (1)/${now:%Y}"']
    with pytest.raises(UsageError, match=r"train.steps is '3\)', but must be an integer or null"):
        compose("train.steps=3)")


def test_in_a_sweep_commas_separate_jobs() -> None:
    for written, expected in (
        ("data.root=my (1),2024", 'data.root="my (1)","2024"'),
        ("data.root=a,b", "data.root=a,b"),
        ("data.root=choice(a,b)", "data.root=choice(a,b)"),
        ("data.root=photos", "data.root=photos"),
        ("data.classes=[10,1],[1,10]", 'data.classes=["10","1"],["1","10"]'),
        ("data.classes=[10,1],[ü,10]", 'data.classes=["10","1"],["ü","10"]'),
        ("seed=1,2", "seed=1,2"),
    ):
        assert respelled([written], sweeps=True) == [expected]


def test_a_second_time_changes_nothing() -> None:
    for text, sweeps in itertools.product(PLAIN, (False, True)):
        once = respelled([f"data.root={text}", f"data.classes=[{text}]"], sweeps=sweeps)
        assert respelled(once, sweeps=sweeps) == once


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("images", "put quotes around the whole: 'data.root=my images'"),
        ("/usr/bin", "a path has its key in front, such as run_dir=/usr/bin"),
    ],
)
def test_what_is_no_argument_is_refused_with_the_likely_mistake(argument: str, message: str) -> None:
    for refusing in (parse_arguments, compose_run):
        with pytest.raises(UsageError) as refused:
            refusing(["data.root=my", argument])
        assert f"{argument!r} is not key=value" in str(refused.value)
        assert message in str(refused.value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [("--run_dir=x", "leave out the dashes: run_dir=x"), ("--epochs", "arguments have no dashes: epochs=…")],
)
def test_an_argument_with_dashes_is_refused_without_them(argument: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_arguments(["data.root=my", argument])
    assert f"{argument!r} is not key=value" in str(refused.value)
    assert message in str(refused.value)


def test_a_number_where_a_text_belongs_is_refused_with_the_text_s_spelling() -> None:
    with pytest.raises(UsageError) as refused:
        compose("data=image_folder", "data.root=null")
    assert "set it: data.root=…\nthe text null is quoted, within the quotes of the shell: 'data.root=\"null\"'" in str(
        refused.value
    )


def test_a_path_that_is_not_utf_8_is_refused_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = os.fsencode(tmp_path) + b"/caf\xe9"
    with pytest.raises(UsageError, match=r"must be UTF-8\nrename it, or make a link to it and give the link"):
        compose("data=image_folder", f"data.root={os.fsdecode(place)}")
    os.mkdir(place)
    monkeypatch.chdir(place)
    with pytest.raises(UsageError, match=r"data.root is .* must be UTF-8"):
        compose("data=image_folder", "data.root=images")


@pytest.mark.parametrize("key", sorted(PLACES))
@pytest.mark.parametrize("text", ["", " ", "''", '"  "'])
def test_a_place_that_is_empty_is_a_variable_that_is_not_set_and_not_the_current_directory(key: str, text: str) -> None:
    with pytest.raises(UsageError, match=rf"^{key}= is empty; if a variable of the shell stands there, it is not set"):
        parse_arguments([f"{key}={text}"])
    with pytest.raises(UsageError, match="is empty"):
        compose_run([f"{key}={text}"])
