"""What is noted for the watchdog about the phases, the progress and the steps of a process."""

from __future__ import annotations

from trainer.run.watched import Watched


class Run:
    """Time is what the test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.watched = Watched(lambda: self.now)

    def step(self, number: int, seconds: float, waiting: float = 0.0, first: bool = False) -> None:
        with self.watched.phase("waiting"):
            self.now += waiting
        with self.watched.phase("tracing" if first else "training"):
            self.now += seconds
        self.watched.at(number)


def test_the_duration_of_a_step_is_that_without_waits_saves_and_tracing() -> None:
    run = Run()
    run.now += 100.0  # the start
    run.watched.looping()
    run.step(1, 50.0, first=True)
    run.step(2, 2.0, waiting=30.0)
    with run.watched.phase("saving"):
        run.now += 40.0
    run.step(3, 3.0)
    assert list(run.watched.steps) == [2.0, 3.0]
    assert run.watched.step == 3


def test_everything_that_happens_is_progress_and_a_phase_ends_with_its_block() -> None:
    run = Run()
    beats = [run.watched.beats]
    assert run.watched.state == "starting"
    run.watched.looping()
    beats.append(run.watched.beats)
    with run.watched.phase("validating"):
        assert run.watched.state == "validating"
        beats.append(run.watched.beats)
        run.now += 4.0
        run.watched.progress()
        beats.append(run.watched.beats)
    assert run.watched.state == "training"
    beats.append(run.watched.beats)
    assert beats == sorted(set(beats))
    assert list(run.watched.batches) == [4.0]
