"""A trial of a run goes from its first step to its end and leaves nothing; the start of a run says what it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from processes import Trainer

from trainer.__main__ import run
from trainer.errors import UsageError
from trainer.run import fast_dev_run

TRIAL = "train.fast_dev_run=true"


def test_a_trial_makes_two_steps_a_validation_and_a_checkpoint_and_keeps_nothing(
    trainer: Trainer, small: tuple[str, ...]
) -> None:
    mirror = trainer.cwd / "mirror"
    settings = ("evaluation.batch_size=4", "evaluation.every_steps=1", "train.epochs=3", f"checkpoint.mirror={mirror}")
    before = sorted(trainer.cwd.iterdir())
    said = trainer.run("train", "run_dir=mine", *small, *settings, TRIAL)
    assert [path for path in sorted(trainer.cwd.iterdir()) if path.suffix != ".log"] == before
    (place,) = set(re.findall(r"^training in (\S+): 2 steps, 40 training images$", said, re.MULTILINE))
    assert not Path(place).parent.exists()
    assert said.count(" validation loss ") == 1
    assert "train.fast_dev_run: 2 steps, a validation and a checkpoint worked\n" in said
    assert re.search(r"^  last  validation accuracy .*  checkpoints/step-00000002$", said, re.MULTILINE)
    assert f"  kept  nothing; the same command without {TRIAL} trains the run\n" in said
    assert "resume" not in said, "there is nothing to resume"
    network, data = (re.search(rf"^{name} +(.*)$", said, re.MULTILINE) for name in ("network", "data"))
    assert network is not None
    assert network[1] == "small: 510 parameters, 10 classes; on cpu in float32"
    assert data is not None
    assert data[1] == "digits: 40 images to train on, 8 to validate; batches of 8, 5 steps an epoch"


def test_a_trial_is_of_a_new_run_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="keeps nothing, and a resume continues one"):
        fast_dev_run.refuse_resume({"train.fast_dev_run": True})
    fast_dev_run.refuse_resume({"train.fast_dev_run": False, "train.steps": 5})
    assert run(["train", "--multirun", TRIAL, "seed=1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}"]) == 2
    assert "so there is no sweep of it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
