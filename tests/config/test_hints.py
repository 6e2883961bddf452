"""A name that no key has is answered with the key that is meant, also where other programs have that name."""

from __future__ import annotations

import pytest
from hydra._internal.utils import get_args_parser

from trainer.commands.arguments import take_text
from trainer.config.compose import compose, configuration_places, run_with_hydra
from trainer.config.explain import known_keys
from trainer.config.hints import HYDRA_OPTIONS, HYDRA_SHORT_OPTIONS, SYNONYMS, hint, key_meant
from trainer.config.override import override
from trainer.errors import UsageError

KNOWN = known_keys(configuration_places())


@pytest.mark.parametrize("key", SYNONYMS)
def test_every_synonym_leads_to_a_key_that_exists_and_is_none_itself(key: str) -> None:
    assert key in KNOWN
    for name in SYNONYMS[key]:
        assert name not in KNOWN
        assert hint(name, KNOWN) == f"; did you mean {key}?"


def test_no_name_has_two_meanings() -> None:
    names = [name for several in SYNONYMS.values() for name in several]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("argument", "key"),
    [
        ("lr=0.1", "optimizer.learning_rate"),
        ("train.lr=0.1", "optimizer.learning_rate"),
        ("batch_size=16", "train.global_batch_size"),  # evaluation.batch_size is as similar to it
        ("num_classes=4", "model.num_classes"),
        ("epochs=3", "train.epochs"),
        ("path=images", "data.root"),
        ("img_size=96", "preprocess.image_size"),
        ("workers=4", "runtime.threads"),
        ("device=gpu", "runtime.device"),
        ("output_dir=x", "run_dir"),
        ("opt=sgd", "optimizer"),
        ("learning_rat=1", "optimizer.learning_rate"),  # no synonym: the most similar key
    ],
)
def test_a_new_run_and_a_resume_name_the_key_that_is_meant(argument: str, key: str) -> None:
    with pytest.raises(UsageError) as refused:
        compose([argument])
    assert str(refused.value) == f"unknown key {argument}; did you mean {key}?"
    name, _, value = argument.partition("=")
    if key not in ("run_dir", "data.root"):  # no keys of the stored configuration of a run on digits
        with pytest.raises(UsageError) as refused:
            override(compose([]), {name: value})
        assert str(refused.value) == f"unknown key {argument}; did you mean {key}?"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epochs", "3"), "there is no option --epochs; keys have no dashes: train.epochs=3"),
        (("seed=1", "--lr=0.1"), "there is no option --lr; keys have no dashes: optimizer.learning_rate=0.1"),
        (("--train.epochs=3",), "there is no option --train.epochs; keys have no dashes: train.epochs=3"),
        (("--batch-size", "8", "seed=1"), "no option --batch-size; keys have no dashes: train.global_batch_size=8"),
        (("--data-dir", "my images"), "there is no option --data-dir; keys have no dashes: data.root='my images'"),
        (("--epochs",), "there is no option --epochs; keys have no dashes: train.epochs=…"),
        (("--resume", "seed=1"), "there is no option --resume; keys have no dashes: on_existing=…"),
        (("-e", "3"), "there is no option -e; keys have no dashes"),
    ],
)
def test_an_option_of_another_program_is_answered_with_the_assignment(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        run_with_hydra(arguments, lambda *_: None)
    assert str(refused.value).endswith(message)


def test_hydra_s_own_options_are_those_of_its_parser() -> None:
    options = [text for action in get_args_parser()._actions for text in action.option_strings]
    assert sorted(options) == sorted([*HYDRA_OPTIONS, *HYDRA_SHORT_OPTIONS])


@pytest.mark.parametrize("arguments", [("--cf", "job"), ("-cjob",), ("--cfg=job", "seed=1")])
def test_hydra_s_own_options_stay_as_hydra_reads_them(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run_with_hydra(arguments, lambda *_: None)
    assert "global_batch_size: 32" in capsys.readouterr().out


def test_a_path_for_data_is_answered_with_the_two_keys_it_takes() -> None:
    with pytest.raises(UsageError) as refused:
        compose(["data=my/images"])
    assert "data=my/images is a path, and data is one of digits, image_folder" in str(refused.value)
    assert str(refused.value).endswith("a folder of images: data=image_folder data.root=my/images")
    for path in ("labels.csv", "my/labels.TSV"):
        with pytest.raises(UsageError) as refused:
            compose([f"data={path}"])
        assert str(refused.value).endswith(f"\na table of images: data=table data.file={path}")


def test_a_command_that_lacks_an_argument_names_those_it_was_given() -> None:
    with pytest.raises(UsageError, match=r"^resume needs run_dir=… \(given: path, seed\)$"):
        take_text({"path": "x", "seed": 1}, "run_dir", "resume")


def test_a_name_that_is_a_key_is_no_synonym_of_another() -> None:
    assert key_meant("optimizer.learning_rate", KNOWN) is None
