"""No run trains without a learning rate unasked, and the command that is printed for more has one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from composing import compose
from printed_commands import accepted, commands_in
from processes import NARROW
from small_plugin import SMALL, install, installed_here
from stored_runs import keep_this_process

from trainer.__main__ import run
from trainer.command_line import argument
from trainer.config.arguments import parse_arguments
from trainer.config.complete import complete, total_steps
from trainer.config.override import changes, override
from trainer.config.schema import Config
from trainer.errors import RestoreRefused, UsageError
from trainer.fingerprint.verdict import Request
from trainer.run import train_on
from trainer.run.train_on import Ahead, check_continued, check_new, longer

EPOCH = 40  # examples; 5 steps
RUN = Path("/runs/it's a=b [c]")


def config_of(*arguments: str) -> Config:
    return complete(compose(*NARROW, *arguments), EPOCH, 10)


def continued(config: Config, step: int, *arguments: str) -> tuple[Config, list[str]]:
    """What a resume at ``step`` has, and its notes."""
    values = parse_arguments(arguments)
    allow = [str(name) for name in values.pop("allow", [])]  # type: ignore[attr-defined]
    wanted = complete(override(config, values), EPOCH, 10)
    ahead = Ahead(wanted, step, total_steps(wanted, EPOCH))
    return wanted, check_continued(ahead, changes(config, wanted), allow, Request(RUN, values, ()))


def printed(text: str) -> list[list[str]]:
    """The arguments of each resume in a message, without the run directory."""
    lines = [line for line in text.splitlines() if "python -m trainer resume" in line]
    commands = [shlex.split(line.partition("python -m trainer ")[2]) for line in lines]
    assert all(command[:2] == ["resume", argument("run_dir", RUN)] for command in commands), text
    return [command[2:] for command in commands]


ENDED = {
    # a run that is finished at step 20: what gives the longer run a learning rate, the likeliest meaning first
    "cosine": (("schedule.warmup_steps=0",), ["decay", "constant"]),
    "cosine with a warm-up": (("schedule.warmup_steps=5",), ["decay", "constant"]),
    "cosine with a floor": (
        ("schedule.warmup_steps=0", "schedule.minimum_fraction=0.01"),
        ["decay", "constant", "floor"],
    ),
    "exponential to zero": (
        ("schedule=exponential", "schedule.decay_steps=1", "schedule.decay_rate=1e-4"),
        ["constant"],
    ),
}


@pytest.mark.parametrize("length", ["train.steps=40", "train.epochs=8"])
@pytest.mark.parametrize("case", ENDED)
def test_a_resume_past_the_end_of_its_schedule_is_refused_and_each_printed_command_trains(
    case: str, length: str
) -> None:
    arguments, meanings = ENDED[case]
    config = config_of(*arguments, "train.steps=20")
    with pytest.raises(RestoreRefused) as refused:
        continued(config, 20, length, "train.log_every_steps=7")
    message = str(refused.value)
    assert "schedule=" in message
    assert len(message.splitlines()) == 1 + 2 * len(meanings), message
    for command, meaning in zip(printed(message), meanings, strict=True):
        wanted, notes = continued(config, 20, *command)
        ahead = Ahead(wanted, 20, total_steps(wanted, EPOCH))
        assert ahead.total == 40
        assert wanted.train.log_every_steps == 7, "what else was asked for is kept"
        assert notes == []
        assert ahead.rate(20) >= {"floor": 0.009}.get(meaning, 0.09) * config.optimizer.learning_rate, command
        assert ahead.rate(38) > 0
        assert (wanted.schedule.name == "constant") == (meaning == "constant")


@pytest.mark.parametrize("case", ENDED)
def test_the_command_for_more_of_a_finished_run_trains(case: str) -> None:
    config = config_of(*ENDED[case][0], "train.steps=20")
    (command,) = printed(longer(RUN, config, 20, 20, EPOCH, 0))
    wanted, notes = continued(config, 20, *command)
    assert total_steps(wanted, EPOCH) == 40
    assert Ahead(wanted, 20, 40).is_worthwhile()
    assert notes == []


@pytest.mark.parametrize(("step", "total"), [(0, 0), (34, 17), (17, 34)])
def test_the_command_for_more_asks_for_steps_that_are_not_made_yet(step: int, total: int) -> None:
    """Of a run of no steps, one that is beyond what was asked for, and one that early stopping has ended."""
    config = config_of(f"train.steps={total}", "early_stopping.patience=2")
    (command,) = printed(longer(RUN, config, step, total, EPOCH, 3))
    wanted, _ = continued(config, step, *command)
    assert total_steps(wanted, EPOCH) > step
    assert wanted.early_stopping.patience == 5, "two more validations than were waited for"
    assert [text for text in command if text.startswith("allow=")], "patience needs consent"


def test_a_run_that_is_made_longer_before_its_schedule_ends_is_refused_too() -> None:
    """Half of the steps would have a rate."""
    config = config_of("schedule.warmup_steps=0", "train.steps=20")
    with pytest.raises(RestoreRefused, match="gives steps 21 to 40 learning rate 0"):
        continued(config, 10, "train.steps=40")
    assert continued(config, 10, "train.steps=21")[1] == [], "the last step of any cosine has next to none"
    assert continued(config, 10, "train.steps=15")[1] == []


def test_what_a_run_was_begun_with_goes_on_with_a_warning_after_an_interruption() -> None:
    config = config_of("schedule.warmup_steps=0", "schedule.decay_steps=5", "train.steps=20")
    (note,) = check_new(config, 20)
    assert note.startswith("steps 6 to 20 have learning rate 0 and train nothing")
    assert continued(config, 8)[1] == [note.replace("steps 6", "steps 9")]
    assert continued(config, 8, "checkpoint.keep_last=1")[1] != []
    with pytest.raises(RestoreRefused):
        continued(config, 8, "train.steps=30")
    assert continued(config, 8, "train.steps=30", "allow=[schedule]")[1] != [], "consent is possible, and is said"


@pytest.mark.parametrize(
    "asked",
    [
        ("schedule=cosine", "schedule.warmup_steps=0", "schedule.decay_steps=10"),
        ("schedule=cosine", "schedule.warmup_steps=0", "schedule.decay_steps=30"),
        ("schedule=exponential", "schedule.warmup_steps=0", "schedule.decay_steps=1", "schedule.decay_rate=1e-4"),
        ("schedule.name=cosine", "schedule.decay_steps=20"),
    ],
)
@pytest.mark.parametrize("stored", ["schedule=constant", "schedule=cosine"])
def test_another_schedule_without_a_rate_is_refused_although_the_schedule_may_change(
    stored: str, asked: tuple[str, ...]
) -> None:
    """``allow=[schedule]`` is needed for any other schedule, so it says nothing about a rate of 0."""
    config = config_of(stored, "schedule.warmup_steps=1", "train.steps=20")
    with pytest.raises(RestoreRefused, match=r"gives steps \d+ to 40 learning rate ") as refused:
        continued(config, 20, *asked, "train.steps=40", "train.log_every_steps=7", "allow=[schedule]")
    commands = printed(str(refused.value))
    assert commands
    for command in commands:
        wanted, notes = continued(config, 20, *command)
        ahead = Ahead(wanted, 20, total_steps(wanted, EPOCH))
        assert (ahead.total, wanted.train.log_every_steps, notes) == (40, 7, [])
        assert ahead.is_worthwhile(), command


def test_a_floor_of_another_schedule_is_accepted_by_name() -> None:
    config = config_of("schedule=constant", "train.steps=20")
    asked = ("schedule=cosine", "schedule.warmup_steps=0", "schedule.decay_steps=10", "schedule.minimum_fraction=0.1")
    with pytest.raises(RestoreRefused, match="would have its floor as learning rate"):
        continued(config, 20, *asked, "train.steps=40")
    assert continued(config, 20, *asked, "train.steps=40", "allow=[schedule]")[1] == []


def test_a_new_run_without_a_learning_rate_is_refused_and_one_with_a_tail_without_is_warned_of() -> None:
    with pytest.raises(UsageError, match=r"no step of this run has a learning rate: optimizer\.learning_rate=1e-46 "):
        check_new(config_of("optimizer.learning_rate=1e-46", "train.steps=20"), 20)
    (note,) = check_new(config_of("schedule.warmup_steps=0", "schedule.decay_steps=10", "train.steps=20"), 20)
    assert "steps 11 to 20 have learning rate 0 and train nothing" in note
    assert check_new(config_of("train.steps=20"), 20) == []
    assert check_new(config_of("train.steps=0"), 0) == []


def test_a_schedule_of_any_length_that_ends_at_zero_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    for steps in (1, 2, 20, 10_000, 1_000_000):
        config = config_of("schedule.warmup_steps=0", f"train.steps={steps}")
        assert check_new(config, steps) == []
        assert Ahead(config, steps // 2, steps).without_rate() == steps
    monkeypatch.setattr(train_on, "USUAL_TAIL", 0.0)
    assert Ahead(config, 0, steps).without_rate() < steps, "or the test would prove nothing"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that early stopping has ended, in a directory with a difficult name."""
    base = tmp_path_factory.mktemp("finished")
    install(base)
    place = base / RUN.name
    arguments = ("train.steps=40", "evaluation.every_steps=1", "early_stopping.patience=1", "schedule.warmup_steps=0")
    with installed_here(base), pytest.MonkeyPatch.context() as patch:
        keep_this_process(patch)
        settings = (*arguments, "early_stopping.min_change=0.9")
        assert run(["train", argument("run_dir", place), *SMALL, *settings]) == 0
        yield place


def test_the_closing_lines_say_why_a_run_ended_and_their_command_trains_more(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = (finished / "train.log").read_text()
    assert "done at step 2 of 40, by early stopping" in log
    assert "has not improved by more than 0.9 in 1 validations (early_stopping.patience=1)" in log
    rows = {name: line for line in log.splitlines() for name in ("report", "look", "more") if f"  {name}  " in line}
    for line in rows.values():
        (text,) = commands_in(line)
        accepted(text)
    more = rows["more"]
    command = shlex.split(more.partition("python -m trainer ")[2])
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert run(command) == 0
    assert "done at step 3 of 40, by early stopping" in capsys.readouterr().out
    assert run(["resume", command[1], "train.steps=3", *command[2:]]) == 0
    said = capsys.readouterr().out
    assert "is complete at step 3 of 3\n" in said
    further = shlex.split(said.partition("to train on: python -m trainer ")[2])
    assert run(further) == 0
    assert "done at step " in capsys.readouterr().out
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    trained = [record for record in records if record["split"] == "train"]
    assert trained[-1]["step"] > 3
    assert trained[-1]["learning_rate"] > 0
