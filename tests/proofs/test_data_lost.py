"""Data that vanish while a run goes on: every step is kept, and the run that goes on is the one that never stopped."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import pythons
from image_data import make_splits
from processes import SECONDS_ALLOWED, assert_same_run, checkpoint_names
from range_server import serving
from tar_shards import make_tars

from trainer.data.ahead import Ahead
from trainer.errors import UsageError

# Trains two runs in one process. From the second the training images vanish at step 3, and when these are back those
# for validation at step 20; each time the command is run that the message has. The pipeline reads a few batches ahead,
# so the second place is far behind what the first leaves to train on.
PROGRAM = """
import io, json, shlex, sys
from contextlib import redirect_stderr
from pathlib import Path
from trainer.monitoring import terminal
from trainer.__main__ import main, run

arguments = json.loads(sys.argv[1])
shown = terminal.Terminal.step
assert run(["train", "run_dir=straight", *arguments]) == 0
outcomes, command = [], ["train", "run_dir=lost", *arguments]
for folder, at in (("train", 3), ("val", 20)):
    there, away = Path("images", folder), Path(f"{folder}.away")
    def step(self, number):
        shown(self, number)
        if number == at:
            there.rename(away)
    terminal.Terminal.step = step
    said = io.StringIO()
    with redirect_stderr(said):
        status = run(command)
    terminal.Terminal.step = shown
    away.rename(there)
    outcomes.append((status, said.getvalue()))
    command = shlex.split(said.getvalue().strip().splitlines()[-1].partition("continue with: python -m trainer ")[2])
Path("outcomes").write_text(json.dumps(outcomes))
main(command)
"""


def test_when_the_images_vanish_every_step_is_committed_and_the_command_of_the_message_goes_on_exactly(
    small: tuple[str, ...], tmp_path: Path
) -> None:
    make_splits(tmp_path / "images", train=20, validation=8)
    arguments = [
        *(each for each in small if not each.startswith(("data.", "checkpoint."))),
        *("data=image_folder", "data.root=images", "train.steps=22", "evaluation.every_steps=20"),
        *("checkpoint.every_steps=100", "train.log_every_steps=1"),
    ]
    pythons.run(["-c", PROGRAM, json.dumps(arguments)], cwd=tmp_path, timeout=SECONDS_ALLOWED)
    committed = checkpoint_names(tmp_path / "lost")
    outcomes = json.loads((tmp_path / "outcomes").read_text())
    for (status, said), folder, name in zip(outcomes, ("train", "val"), committed[:2], strict=True):
        assert status == 2, said
        assert f"/images/{folder}/" in said, said
        assert "cannot be read: No such file or directory" in said, said
        assert "every step until here is committed: the last good checkpoint is " in said, said
        assert f"lost/checkpoints/{name}\n" in said, said
        assert said.endswith(f"then continue with: python -m trainer resume run_dir={tmp_path / 'lost'}\n")
    assert 3 <= int(committed[0].removeprefix("step-")) < 20, "what was read ahead is trained on"
    assert committed[1:] == ["step-00000020", "step-00000022"]
    assert_same_run(tmp_path / "straight", tmp_path / "lost")


# Trains two runs in one process. From the second the bucket, and what was kept of it on this disk, vanish at step 3.
REMOTE_PROGRAM = """
import io, json, shlex, shutil, sys
from contextlib import redirect_stderr
from pathlib import Path
from trainer.monitoring import terminal
from trainer.__main__ import main, run
from trainer.data.remote.remote_path import cache_directory

arguments = json.loads(sys.argv[1])
shown = terminal.Terminal.step
assert run(["train", "run_dir=straight", *arguments]) == 0
def step(self, number):
    shown(self, number)
    if number == 3:
        Path("bucket").rename("away")
        shutil.rmtree(cache_directory())
terminal.Terminal.step = step
said = io.StringIO()
with redirect_stderr(said):
    status = run(["train", "run_dir=lost", *arguments])
terminal.Terminal.step = shown
Path("away").rename("bucket")
Path("outcome").write_text(json.dumps([status, said.getvalue()]))
main(shlex.split(said.getvalue().strip().splitlines()[-1].partition("continue with: python -m trainer ")[2]))
"""


def test_when_a_bucket_is_gone_every_step_is_committed_and_the_run_goes_on_exactly(
    small: tuple[str, ...], tmp_path: Path
) -> None:
    make_tars(tmp_path / "bucket", train=40, validation=8)
    with serving(tmp_path / "bucket") as server:
        arguments = [
            *(each for each in small if not each.startswith(("data.", "checkpoint."))),
            *("data=webdataset", f"data.root={server.url}", "data.num_classes=3", "train.steps=22"),
            *("checkpoint.every_steps=100", "train.log_every_steps=1", "evaluation.every_steps=20"),
        ]
        pythons.run(["-c", REMOTE_PROGRAM, json.dumps(arguments)], cwd=tmp_path, timeout=SECONDS_ALLOWED)
        status, said = json.loads((tmp_path / "outcome").read_text())
        assert status == 2, said
        assert re.search(rf"{server.url}/train-00000[01].tar record \d+ cannot be read: it does not exist", said), said
        assert "every step until here is committed: the last good checkpoint is " in said, said
    assert 3 <= int(checkpoint_names(tmp_path / "lost")[0].removeprefix("step-")) < 20
    assert_same_run(tmp_path / "straight", tmp_path / "lost")


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_batch_that_cannot_be_read_is_known_of_as_far_ahead_as_asked_and_raised_in_its_place(depth: int) -> None:
    def batches():  # type: ignore[no-untyped-def]
        yield from ({"number": number} for number in range(3))
        raise UsageError("the disk is gone")

    failed: list[UsageError] = []
    ahead = Ahead(batches(), depth, failed.append)
    ahead.look()
    known = []
    for number in range(3):
        assert next(ahead) == {"number": number}
        known.append(bool(failed))
    assert known == [number + depth >= 3 for number in range(3)]
    with pytest.raises(UsageError, match="the disk is gone"):
        next(ahead)
    assert len(failed) == 1
    assert list(Ahead(iter([{"number": 1}]), depth, failed.append)) == [{"number": 1}]
