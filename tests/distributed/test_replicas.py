"""The same mathematics on any number of devices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pythons
from composing import compose
from processes import NARROW, SMOOTH, Trainer, assert_same_run, metrics
from small_plugin import SMALL, SMALL_SMOOTH

from trainer.config.check import unequal_shares
from trainer.data.batches import Part
from trainer.errors import UsageError

GROUPS = ("model.batch_norm.synchronized=false", "model.batch_norm.group_size=8")


NARROW_SMOOTH = (*NARROW, *SMOOTH)
EVERYTHING = (*GROUPS, "train.accumulate_steps=2", "mixing=mixup", "optimizer.clip_norm=1", "ema.decay=0.9")


def curves(place: Path, steps: int, counts: list[int], *overrides: str) -> dict[int, dict[str, Any]]:
    return {count: curve(place, steps, count, *overrides) for count in counts}


def curve(place: Path, steps: int, count: int, *overrides: str) -> dict[str, Any]:
    arguments = [str(steps), str(count), json.dumps(overrides)]
    program = Path(__file__).parents[1] / "support" / "curves.py"
    printed = pythons.run([str(program), *arguments], cwd=place, timeout=900).stdout
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def assert_one_curve(found: dict[int, dict[str, Any]], tolerance: float) -> None:
    one = found.pop(1)
    assert len(set(one["losses"])) > 10, "the network learns something, so a wrong step would show"
    for count, many in found.items():
        assert (many["copies"], many["copies_equal"]) == (count, True)
        assert many["counters"].keys() == one["counters"].keys()
        for name in ("progress/step", "progress/examples", "progress/ledger", "progress/substituted"):
            assert many["counters"][name] == one["counters"][name], name
        np.testing.assert_allclose(many["losses"], one["losses"], rtol=tolerance, err_msg=f"{count} replicas")
        np.testing.assert_allclose(many["validation"]["loss"], one["validation"]["loss"], rtol=tolerance)


@pytest.mark.usefixtures("small")
def test_1_and_2_replicas_give_one_loss_curve_with_accumulation_mixing_clipping_and_averages(tmp_path: Path) -> None:
    """Of the small network; the next test has Inception V3."""
    assert_one_curve(curves(tmp_path, 50, [1, 2], *SMALL, *SMALL_SMOOTH, *EVERYTHING), 1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    "overrides",
    [(), GROUPS, ("train.accumulate_steps=2",), EVERYTHING],
    ids=["sync", "groups", "parts", "everything"],
)
def test_1_2_and_4_replicas_give_one_loss_curve(overrides: tuple[str, ...], tmp_path: Path) -> None:
    counts = [1, 2] if overrides == EVERYTHING else [1, 2, 4]  # a batch has two groups of each of two parts
    assert_one_curve(curves(tmp_path, 50, counts, *NARROW_SMOOTH, *overrides), 1e-5)


@pytest.mark.long
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_1_2_and_4_replicas_give_one_loss_curve_in_16_bits(precision: str, tmp_path: Path) -> None:
    assert_one_curve(curves(tmp_path, 50, [1, 2, 4], *NARROW_SMOOTH, *GROUPS, f"runtime.precision={precision}"), 1e-5)


def test_rows_of_all_parts_are_the_whole_batch_and_every_block_is_shared_by_all() -> None:
    for blocks, count in ((1, 1), (1, 4), (2, 2), (4, 3)):
        parts = [Part(index, count).rows(24, blocks) for index in range(count)]
        assert sorted(np.concatenate(parts)) == list(range(24))
        for block in range(blocks):
            size = 24 // blocks
            shares = [part[block * size // count :][: size // count] for part in parts]
            np.testing.assert_array_equal(np.concatenate(shares), np.arange(block * size, (block + 1) * size))


@pytest.mark.parametrize(
    ("overrides", "replicas", "message"),
    [
        ((), 3, "train.global_batch_size=8 cannot be divided equally among 3 replicas; the nearest that work: 6 and 9"),
        (("train.accumulate_steps=4",), 4, "among 4 replicas x train.accumulate_steps=4; the nearest that work: 16"),
        (("mixing=mixup",), 8, "among 8 replicas x pairs that are mixed; the nearest that work: 16"),
        (GROUPS, 2, "among 2 replicas x groups of model.batch_norm.group_size=8; the nearest that work: 16"),
        (("evaluation.batch_size=9",), 8, "evaluation.batch_size=9 cannot be divided equally among 8 replicas"),
    ],
)
def test_why_a_batch_cannot_be_shared_out_names_the_nearest_that_can(
    overrides: tuple[str, ...], replicas: int, message: str
) -> None:
    reason = unequal_shares(compose(*NARROW, *overrides), replicas)
    assert reason is not None
    assert message in reason


def test_a_batch_that_cannot_be_divided_into_groups_is_refused_on_one_device_too() -> None:
    with pytest.raises(UsageError, match="groups of model"):
        compose(*NARROW, "model.batch_norm.synchronized=false", "model.batch_norm.group_size=32")


@pytest.mark.long
def test_a_run_on_two_devices_resumes_exactly_and_goes_on_on_one_with_the_same_examples(trainer: Trainer) -> None:
    run = ("train", *NARROW, *SMOOTH, *GROUPS, "train.steps=6", "checkpoint.every_steps=3")
    two = "runtime.virtual_devices=2"
    trainer.run(*run, two, "run_dir=straight")
    trainer.run(*run, two, "run_dir=stopped", "train.steps=3")
    trainer.run("resume", "run_dir=stopped", "train.steps=6")
    assert_same_run(trainer.cwd / "straight", trainer.cwd / "stopped")
    elsewhere = ("runtime.strategy=one", "runtime.virtual_devices=null")
    output = trainer.run("resume", "run_dir=stopped", "checkpoint=step-3", "train.steps=6", *elsewhere)
    assert "changed on resume: runtime.strategy: auto -> one" in output
    for elastic, straight in zip(metrics(trainer.cwd / "stopped"), metrics(trainer.cwd / "straight"), strict=True):
        assert {name: elastic[name] for name in ("step", "split")} == {
            name: straight[name] for name in ("step", "split")
        }
        if elastic["split"] == "train":
            assert elastic["ledger"] == straight["ledger"]
        np.testing.assert_allclose(elastic["loss"], straight["loss"], rtol=1e-5)
