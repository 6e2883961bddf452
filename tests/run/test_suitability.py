"""Numbers of a configuration that do not fit the data are refused or named at the start."""

from __future__ import annotations

from pathlib import Path

import pytest
from composing import compose
from image_data import folder_source, make_splits
from PIL import Image
from processes import Trainer

from trainer.config.complete import complete, with_leaves
from trainer.config.compose import compose_run
from trainer.config.schema import Config
from trainer.data.opened import Sources
from trainer.data.order.sampling import Sampling
from trainer.errors import UsageError
from trainer.run import session
from trainer.run.suitability import batch_warning, refuse_short_epochs, warnings
from trainer.runtime.signals import StopRequest


def configured(batch: int, steps: int | None = None) -> Config:
    values: dict[str, object] = {"train.global_batch_size": batch, "train.steps": steps, "train.epochs": 100.0}
    return with_leaves(compose(), values)


def test_epochs_shorter_than_a_batch_are_refused_with_the_value_that_fits() -> None:
    with pytest.raises(UsageError) as refused:
        refuse_short_epochs(configured(3200), 36)
    assert str(refused.value) == (
        "train.global_batch_size=3200 is more than an epoch, which has 36 training images: train.epochs=100 would be "
        "only 2 steps\nset train.global_batch_size=36 or less, or give the length in steps: train.steps=N"
    )


def test_a_length_in_steps_is_taken_with_a_warning() -> None:
    config = configured(3200, steps=5)
    refuse_short_epochs(config, 36)
    assert batch_warning(config, 36) == (
        "train.global_batch_size=3200 is more than the 36 training images, so each step shows every image "
        "88.9 times; train.global_batch_size=36 shows each once"
    )


def test_one_batch_may_be_the_whole_epoch() -> None:
    config = configured(36)
    refuse_short_epochs(config, 36)
    assert batch_warning(config, 36) is None


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (3, None),
        (
            4,
            "model.num_classes is 4, but the data has 3 classes: output 3 has no class and no image; leave it",
        ),
        (5, "outputs 3, 4 have no class and no image"),
        (1001, "outputs 3, …, 1000 have no class and no image"),
    ],
)
def test_outputs_without_a_class_are_named(outputs: int, message: str | None, tmp_path: Path) -> None:
    root = make_splits(tmp_path)
    config = complete(with_leaves(configured(4), {"model.num_classes": outputs}), 12, 3)
    training = folder_source(root)
    found = warnings(config, Sources(training, folder_source(root, "validation"), Sampling(training, config)), new=True)
    if message is None:
        assert found == []
    else:
        (warning,) = found
        assert message in warning


def test_a_new_run_looks_at_a_sample_of_its_images_and_a_continued_one_does_not(tmp_path: Path) -> None:
    root = make_splits(tmp_path)
    for path in (root / "train").rglob("*.*"):
        path.unlink()
    pages = [Image.new("L", (9, 7), colour) for colour in (0, 9)]
    for name in ("cat", "dog", "ox"):
        pages[0].save(root / "train" / name / "stack.tif", save_all=True, append_images=pages[1:])
    config = complete(with_leaves(configured(2), {"model.num_classes": 3}), 3, 3)
    training = folder_source(root)
    sources = Sources(training, folder_source(root, "validation"), Sampling(training, config))
    blank, several = warnings(config, sources, new=True)
    assert blank.startswith("3 of 3 training images looked at have a single colour")
    assert several.startswith("3 of 3 training images looked at have several pages or frames")
    assert warnings(config, sources, new=False) == []


def test_a_new_run_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    data = ("data=image_folder", f"data.root={make_splits(tmp_path / 'images')}")
    arguments = (*data, "train.global_batch_size=13", "train.epochs=3", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(UsageError, match="global_batch_size=13 is more than an epoch, which has 12 training images"):
        session.train(*compose_run(arguments), StopRequest())
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_new_run_says_what_does_not_fit_and_a_resumed_one_only_what_still_happens(
    small: tuple[str, ...], trainer: Trainer
) -> None:
    arguments = (*small, "data.train_examples=12", "data.validation_examples=6", "train.global_batch_size=16")
    output = trainer.run_in_one_process(
        ("train", *arguments, "schedule=constant", "model.num_classes=12", "train.steps=1", "run_dir=run"),
        ("resume", "run_dir=run", "train.steps=2"),
    )
    log = (trainer.cwd / "run" / "train.log").read_text()
    for text in (output, log):
        assert text.count("warning: train.global_batch_size=16 is more than the 12 training images") == 2
        assert text.count("warning: model.num_classes is 12, but the data has 10 classes: outputs 10, 11 have no") == 1
