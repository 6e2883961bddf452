"""A run that begins with functions from the start cache is, bit for bit, the one that traced them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from processes import NARROW, Trainer, assert_same_run
from small_plugin import SMALL

STEPS = ("train.steps=4", "schedule.decay_steps=9", "evaluation.every_steps=2", "checkpoint.every_steps=2")
EVERYTHING = (
    "ema.decay=0.9",
    "model.aux_logits=true",
    "model.dropout=0.2",
    "train.accumulate_steps=2",
    "optimizer.clip_norm=1",
    "mixing=mixup_cutmix",
    "train.on_divergence=rollback",
)
KEPT = {"train_step", "evaluation_step", "step_facts", "evaluation_facts", "preprocessing_facts"}
IMPORTS = """
import sys
from trainer.__main__ import main
"""
CHANGED = """
from trainer.training import step
step.CHAIN_FACTOR = step.CHAIN_FACTOR + 2
"""
MAIN = """
main(sys.argv[1:])
"""


def kept(trainer: Trainer) -> dict[str, int]:
    """The entries of the cache of this test, and when each was last used, in nanoseconds."""
    return {path.name: path.stat().st_mtime_ns for path in (trainer.cwd / "cache/trainer/start").iterdir()}


def run(trainer: Trainer, *arguments: str, cache: str = "cache", changed: str = "") -> str:
    program = IMPORTS + changed + MAIN
    process = trainer.start_python("-c", program, *arguments, XDG_CACHE_HOME=str(trainer.cwd / cache))
    assert process.wait() == 0, process.output
    return process.output


def test_a_second_start_and_a_resume_take_what_the_first_has_traced_and_changed_code_does_not(
    small: tuple[str, ...], trainer: Trainer
) -> None:
    first, second = trainer.cwd / "first", trainer.cwd / "second"
    run(trainer, "train", f"run_dir={first}", *small, *STEPS)
    before = kept(trainer)
    assert {name.partition("-")[2] for name in before} == KEPT
    run(trainer, "train", f"run_dir={second}", *small, *STEPS)
    after = kept(trainer)
    assert after.keys() == before.keys()
    assert all(after[name] > before[name] for name in before), "they were not used"
    assert_same_run(first, second)

    for name in ("step-00000004", "step-00000002"):
        assert (second / "checkpoints" / name).is_dir()
    run(trainer, "resume", f"run_dir={second}", "checkpoint=step-00000002")
    resumed = kept(trainer)
    assert resumed.keys() == before.keys()
    assert all(resumed[name] > after[name] for name in before), "a resume did not use them"
    assert_same_run(first, second)
    assert fingerprint(second) == fingerprint(first), "whether it was found or kept"
    run(trainer, "resume", f"run_dir={second}", "train.steps=5", "checkpoint.keep_last=1")
    longer = kept(trainer)
    assert longer.keys() == before.keys()
    assert all(longer[name] > resumed[name] for name in before), "more steps did not use them"

    traced, taken = (evaluated(trainer, first) for _ in range(2))
    assert traced == taken
    (name,) = kept(trainer).keys() - before.keys()
    assert name.endswith("-prediction_step-raw")

    other = trainer.cwd / "other"
    run(trainer, "train", f"run_dir={other}", *small, *STEPS, changed=CHANGED)
    assert len(kept(trainer)) == 2 * len(KEPT) + 1
    with pytest.raises(AssertionError):
        assert_same_run(first, other)


def fingerprint(run_dir: Path) -> str:
    return (run_dir / "checkpoints" / "step-00000004" / "fingerprint.json").read_text()


def evaluated(trainer: Trainer, run_dir: Path) -> dict[str, Any]:
    output = run(trainer, "evaluate", f"run_dir={run_dir}", "format=json")
    found: dict[str, Any] = json.loads(output[output.index("{") :])
    return found


@pytest.mark.parametrize(
    "variant",
    [
        ("optimizer=rmsprop", "runtime.precision=mixed_bfloat16", *EVERYTHING),
        *(
            pytest.param((f"optimizer={optimizer}", f"runtime.precision={precision}", *extra), marks=pytest.mark.long)
            for optimizer in ("adam", "adamw", "sgd", "rmsprop")
            for precision in ("float32", "mixed_bfloat16", "mixed_float16")
            for extra in ((), EVERYTHING)
        ),
    ],
    ids=" ".join,
)
def test_inception_from_the_cache_is_the_one_that_was_traced(variant: tuple[str, ...], trainer: Trainer) -> None:
    traced, taken = trainer.cwd / "traced", trainer.cwd / "taken"
    run(trainer, "train", f"run_dir={traced}", *NARROW, *STEPS, *variant)
    before = kept(trainer)
    run(trainer, "train", f"run_dir={taken}", *NARROW, *STEPS, *variant)
    after = kept(trainer)
    assert after.keys() == before.keys()
    assert all(after[name] > before[name] for name in before)
    assert_same_run(traced, taken)


def test_where_nothing_can_be_kept_a_run_is_as_ever(small: tuple[str, ...], trainer: Trainer) -> None:
    (trainer.cwd / "file").touch()
    run(trainer, "train", f"run_dir={trainer.cwd / 'without'}", *SMALL, *STEPS, cache="file")
    run(trainer, "train", f"run_dir={trainer.cwd / 'with'}", *small, *STEPS)
    assert_same_run(trainer.cwd / "with", trainer.cwd / "without")
