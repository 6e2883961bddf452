"""find-lr trains a copy of a state at rising rates, changes nothing, and prints a command that uses what it found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, LIGHT, seen
from printed_commands import accepted, commands_in
from small_plugin import SMALL, install, installed_here
from stored_runs import keep_this_process

from trainer.__main__ import run
from trainer.commands import find_lr
from trainer.config import stored
from trainer.report.rate_page import Curve, render
from trainer.run import rate_range_test
from trainer.run.rate_range_test import Range
from trainer.training import rate_range
from trainer.training.rate_range import Tried

SETTINGS = ("optimizer=sgd", "optimizer.learning_rate=0.05", "train.log_every_steps=1", "train.steps=8")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a run of eight steps, which keeps the state after four, and the small network."""
    place = tmp_path_factory.mktemp("rates")
    install(place)
    with installed_here(place), pytest.MonkeyPatch.context() as patch:
        keep_this_process(patch)
        patch.chdir(place)
        assert (
            run(
                [
                    "train",
                    "run_dir=mine",
                    *SMALL,
                    *SETTINGS,
                    "schedule=cosine",
                    "schedule.warmup_steps=0",
                    "checkpoint.every_steps=4",
                ]
            )
            == 0
        )
        yield place


def contents(place: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }


def test_the_run_is_as_it_was_and_the_curve_is_where_it_was_asked_for(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(base / "mine")
    assert run(["find-lr", "run_dir=mine", "steps=12", "highest=100", "output=here.html"]) == 0
    assert contents(base / "mine") == before
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "here.html"
    page = (base / "here.html").read_text()
    assert "Learning rates of mine at step 8" in page
    assert page.count("<circle") + page.count("NaN") >= 10
    assert len(page) < 30_000
    assert "suggested" in said, "a rate, or why there is none"


def test_the_first_step_is_the_one_that_the_run_has_made_next(base: Path) -> None:
    """The same weights, examples, dropout and statistics: so its loss is the recorded one, bit for bit. What its
    optimizer adds to the velocities is the lowest rate times the recorded gradient.
    """
    rate = 1e-3
    subject = rate_range_test.of_run(Path("mine"), "step-4", [])
    assert subject.step == 4
    state = subject.prepared.assembly.state
    slots = state.optimizer.slots["momentum"]
    before = {name: slots[name].numpy() for name in state.trained}
    assert any(np.any(velocity) for velocity in before.values())
    first = next(subject.tried(Range(rate, 1.0, 10)))
    record = recorded(5)
    assert first.loss == record["loss"]
    momentum = subject.prepared.config.optimizer.momentum
    added = [np.sum(np.square(slots[name].numpy() - momentum * before[name])) for name in before]
    assert np.sqrt(np.sum(added)) == pytest.approx(rate * record["gradient_norm"], rel=1e-3)


def recorded(step: int) -> dict[str, float]:
    records = [json.loads(line) for line in Path("mine/metrics.jsonl").read_text().splitlines()]
    return next(each for each in records if each["split"] == "train" and each["step"] == step)


@pytest.mark.parametrize("asked", [(), ("checkpoint=step-4",)])
def test_the_command_for_a_run_gives_its_next_step_the_rate_that_was_found(
    base: Path, asked: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = rate_range.Finding([1.0], 0.02, "because")
    monkeypatch.setattr(rate_range, "judge", lambda tried: found)
    monkeypatch.setattr(rate_range_test, "try_rates", lambda *arguments: iter([Tried(1e-3, 1.0), Tried(1e-2, 2.0)]))
    assert run(["find-lr", "run_dir=mine", *asked]) == 0
    (command,) = commands_in(capsys.readouterr().out)
    words = accepted(command)
    assert words[3] == "resume"
    assert ("checkpoint=step-4" in words) == bool(asked)
    assert ("schedule=constant" in words) == (not asked)
    step = 4 if asked else 8
    assert run([*words[3:], f"train.steps={step + 1}"]) == 0
    assert recorded(step + 1)["learning_rate"] == pytest.approx(0.02, rel=0.06), "the peak is rounded to two digits"


def test_what_rollbacks_have_taken_of_the_rate_is_in_the_command(
    base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on with the factor, and the test did without: the command gave a quarter of what was found."""
    skipped = ("divergence.learning_rate_factor=0.5", "train.skip_examples=['8-15','16-23','800-807']")
    assert run(["train", "run_dir=halved", *SMALL, *SETTINGS, "schedule=constant", *skipped]) == 0
    monkeypatch.setattr(rate_range, "judge", lambda tried: rate_range.Finding([1.0], 0.02, "because"))
    monkeypatch.setattr(rate_range_test, "try_rates", lambda *arguments: iter([Tried(1e-3, 1.0), Tried(1e-2, 2.0)]))
    capsys.readouterr()
    assert run(["find-lr", "run_dir=halved"]) == 0
    output = capsys.readouterr().out
    assert "divergence.learning_rate_factor leaves 0.25 of it" in output
    (command,) = commands_in(output)
    assert run([*accepted(command)[3:], "train.steps=9"]) == 0
    records = [json.loads(line) for line in Path("halved/metrics.jsonl").read_text().splitlines()]
    rates = [each["learning_rate"] for each in records if each["split"] == "train" and each["step"] == 9]
    assert rates == [pytest.approx(0.02)]


def test_a_new_run_is_tested_as_it_would_begin_and_its_command_trains_it(
    base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_range, "judge", lambda tried: rate_range.Finding([1.0], 0.02, "because"))
    assert run(["find-lr", "run_dir=not-there", *SMALL, *SETTINGS, "steps=10"]) == 0
    assert not Path("not-there").exists()
    (command,) = commands_in(capsys.readouterr().out)
    words = accepted(command)
    assert words[3:5] == ["train", f"run_dir={base / 'not-there'}"]
    assert run(words[3:]) == 0
    assert stored.read(base / "not-there" / stored.FILE_NAME).optimizer.learning_rate == 0.02


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run_dir=mine", "seed=3"), "the run that run_dir names is there, with a configuration of its own"),
        (("run_dir=mine", "step=3"), "did you mean steps?"),
        (("run_dir=nowhere",), "run_dir=nowhere does not exist"),
        (("checkpoint=best",), "find-lr needs run_dir=DIR with it"),
        (("steps=3",), "steps=3 must be an integer of at least 10"),
        (("lowest=1", "highest=0.1"), "lowest=1 must be below highest=0.1"),
        (("lowest=0",), "lowest=0 must be a number above 0"),
        (("run_dir=mine", "output=mine/config.yaml"), "belongs to the run"),
    ],
)
def test_a_wrong_argument_is_named(
    base: Path, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["find-lr", *arguments]) == 2
    assert said in capsys.readouterr().err


def drawn() -> Curve:
    rates = rate_range.rates(1e-7, 10.0, 60)
    losses = [4.0 - min(number, 40) / 20 + max(0, number - 45) ** 2 for number in range(59)] + [float("nan")]
    found = rate_range.judge([Tried(rate, loss) for rate, loss in zip(rates, losses, strict=True)])
    return Curve("<b>mine</b>", rates, losses, found.smoothed, found.rate, find_lr._lines(found, ("to go on", "x")))


def test_a_title_is_text() -> None:
    assert "<b>mine" not in render(drawn())


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here (Debian's package: chromium)")
@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_can_be_read_in_a_browser(tmp_path: Path, width: int) -> None:
    (tmp_path / "rates.html").write_text(render(drawn()))
    facts = seen(tmp_path / "rates.html", width, LIGHT)
    assert facts["scroll_width"] <= width
    assert facts["outside"] == []
    assert facts["covered"] == []
    assert "suggested learning rate" in facts["text"]
