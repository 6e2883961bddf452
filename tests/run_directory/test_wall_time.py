"""Where the wall time of a run went, over all its lives. Time here is what the test says it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from trainer.run_directory import wall_time
from trainer.run_directory.costs import SaveCost
from trainer.run_directory.layout import LOCK, TIME
from trainer.run_directory.phases import PHASES
from trainer.run_directory.wall_time import Account, Clock
from trainer.storage.lease import Fence


class Times:
    """Takes the place of the module ``time``. The seconds of the day begin at 1000."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return 1000.0 + self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    made = Times()
    monkeypatch.setattr(wall_time, "time", made)
    return made


class Life:
    """One life of a run in ``place`` that began ``starting`` seconds ago and continues at ``step``."""

    def __init__(self, place: Path, times: Times, step: int, starting: float) -> None:
        began = times.time()
        times.now += starting
        self.shown: list[Mapping[str, float]] = []
        self.clock = Clock(Fence(place / LOCK), place, began, step, lambda step, shares: self.shown.append(shares))
        self.clock.looping()
        self._place, self._times, self._step = place, times, step

    def steps(self, count: int, seconds: float, waiting: float = 0.0) -> None:
        """Make steps, each of so many seconds, and of as many in which it waited for its batch."""
        for _ in range(count):
            with self.clock.phase("waiting"):
                self._times.now += waiting
            self._times.now += seconds
            self._step += 1
            self.clock.at(self._step)
            os.utime(self._place / TIME, times=(self._times.time(), self._times.time()))  # the file has the test's time

    def spend(self, phase: wall_time.Phase, seconds: float) -> None:
        with self.clock.phase(phase):
            self._times.now += seconds


def spent(place: Path) -> Account:
    found = wall_time.read(place)
    assert found is not None
    return found


def test_every_second_of_a_life_is_in_one_phase(tmp_path: Path, times: Times) -> None:
    life = Life(tmp_path, times, 0, starting=7.0)
    life.spend("tracing", 5.0)
    life.steps(100, seconds=1.0, waiting=0.5)
    life.spend("validating", 11.0)
    life.spend("saving", 2.0)
    life.clock.close()
    account = spent(tmp_path)
    expected = {"starting": 7, "tracing": 5, "training": 100, "waiting": 50, "validating": 11, "saving": 2}
    assert account.seconds == pytest.approx({**expected, "lost": 0, "stopped": 0}, abs=0.1)
    assert account.wall == pytest.approx(175, rel=0.01)
    assert account.text().startswith("0:02:55 in 1 life: 57.1 % training, 28.6 % waiting")
    assert sum(life.shown[-1].values()) == pytest.approx(1.0), "as TensorBoard shows it"


def test_time_between_lives_is_stopped_and_that_of_steps_made_again_is_lost(tmp_path: Path, times: Times) -> None:
    first = Life(tmp_path, times, 0, starting=10.0)
    first.steps(50, seconds=2.0)
    first.clock.saved()  # of step 50
    first.steps(20, seconds=2.0)  # then it is killed: nothing is closed
    times.now += 300.0
    second = Life(tmp_path, times, 50, starting=10.0)
    second.steps(40, seconds=2.0)
    second.clock.close()
    account = spent(tmp_path)
    assert account.lives == 2
    expected = {"starting": 20, "training": 180, "lost": 40, "stopped": 300}
    assert account.seconds == pytest.approx({**dict.fromkeys(PHASES, 0.0), **expected}, abs=0.1)
    assert account.wall == pytest.approx(times.now, rel=0.01), "all the time there was"
    assert "; stopped for 0:05:00" in account.text()


def test_a_resume_from_an_older_checkpoint_loses_the_steps_after_it_and_no_line_is_cut_off(
    tmp_path: Path, times: Times
) -> None:
    first = Life(tmp_path, times, 0, starting=0.0)
    first.steps(100, seconds=1.0)
    first.clock.close()
    before = (tmp_path / TIME).read_bytes()
    second = Life(tmp_path, times, 25, starting=0.0)
    assert (tmp_path / TIME).read_bytes().startswith(before)
    second.steps(10, seconds=1.0)
    second.clock.close()
    Life(tmp_path, times, 35, starting=0.0).clock.close()
    account = spent(tmp_path)
    assert account.seconds["lost"] == pytest.approx(75, abs=0.1)
    assert account.seconds["training"] == pytest.approx(35, abs=0.1)


def test_a_file_that_was_copied_long_afterwards_shows_no_sign_of_life(tmp_path: Path, times: Times) -> None:
    first = Life(tmp_path, times, 0, starting=0.0)
    first.steps(10, seconds=1.0)
    first.clock.close()
    times.now += 5000.0
    os.utime(tmp_path / TIME, times=(times.time(), times.time()))
    Life(tmp_path, times, 10, starting=1.0).clock.close()
    assert spent(tmp_path).seconds["stopped"] == pytest.approx(5000, abs=0.1)


@pytest.mark.parametrize(
    "line",
    [
        "null",
        "{}",
        '{"at": 1e999, "step": 1, "seconds": {}}',
        '{"at": 1, "step": -1, "seconds": {}}',
        '{"at": 1, "step": 1, "seconds": {"training": -5}}',
        '{"at": 1, "step": 1, "seconds": {"training": "x"}}',
        '{"at": 1, "step": 1, "seconds": {"lost": 5}}',
        '{"began": 1, "at": 1, "step": 1, "seconds": {}}',
        '{"at": 1, "step": 1, "seconds": {}, "save": {"stall": -1, "written": 1}}',
        '{"at": 1, "step": 1, "seconds": {}, "save": {"stall": 1, "written": 1, "more": 1}}',
        '{"at": 1, "step": 1, "seconds": {}, "save": 1}',
        '{"began": null, "from": 0, "alive": null, "at": 1, "step": 1, "seconds": {}}',
        "[" * 100_000,
    ],
)
def test_a_line_of_another_program_is_left_out(line: str, tmp_path: Path, times: Times) -> None:
    life = Life(tmp_path, times, 0, starting=1.0)
    life.clock.close()
    before = spent(tmp_path)
    with (tmp_path / TIME).open("a") as file:
        file.write(f"{line}\n")
    assert spent(tmp_path) == before
    (tmp_path / TIME).write_text(f"{line}\n")
    assert wall_time.read(tmp_path) is None


def test_a_disk_that_refuses_a_line_costs_no_second(tmp_path: Path, times: Times) -> None:
    life = Life(tmp_path, times, 0, starting=1.0)
    there = (tmp_path / TIME).rename(tmp_path / "aside")
    (tmp_path / TIME).mkdir()
    life.clock.at(1)
    times.now += 100.0
    life.clock.at(2)
    (tmp_path / TIME).rmdir()
    there.rename(tmp_path / TIME)
    life.clock.close()
    assert spent(tmp_path).seconds["training"] == pytest.approx(100, abs=0.1)


def test_a_run_of_an_earlier_version_has_no_account(tmp_path: Path) -> None:
    assert wall_time.read(tmp_path) is None


def test_a_life_knows_what_saves_and_starts_cost_before_it_and_how_often_the_run_failed(
    tmp_path: Path, times: Times
) -> None:
    first = Life(tmp_path, times, 0, starting=10.0)
    assert first.clock.earlier.failures == 0
    first.spend("tracing", 5.0)
    assert first.clock.start_seconds() == pytest.approx(15.0)
    first.steps(50, seconds=2.0)
    first.clock.measured(SaveCost(0.5, 3.0))
    first.clock.saved()
    first.steps(20, seconds=2.0)  # killed
    second = Life(tmp_path, times, 50, starting=20.0)
    second.spend("tracing", 5.0)
    second.steps(1, seconds=2.0)
    second.clock.close()  # a signal: no failure
    Life(tmp_path, times, 51, starting=30.0)  # killed before its first step: no start that could be measured
    found = Life(tmp_path, times, 51, starting=10.0).clock.earlier
    assert (found.failures, found.save) == (2, SaveCost(0.5, 3.0))
    assert found.starts == pytest.approx((15.0, 25.0))
    assert found.running == pytest.approx(15 + 140 + 25 + 2 + 30 + 10, abs=0.1)
