"""What is due at a step, over every combination of what can be known of it. No TensorFlow is involved."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import pytest

from trainer.training.due import Cadence, Due, Standing, due

TOTAL = 7
FLAGS = (False, True)


def cadences() -> Iterator[Cadence]:
    for validate_every, save_every, saves_best in itertools.product((1, 2, 3, 7, 100), (1, 2, 3, 7, None), FLAGS):
        yield Cadence(TOTAL, validate_every, save_every, saves_best)


def situations() -> Iterator[tuple[Standing, Cadence]]:
    for cadence in cadences():
        for step in range(TOTAL + 2):
            known = itertools.product(
                {0, max(step - 1, 0), step}, {None, max(step - 1, 0), step}, FLAGS, FLAGS, FLAGS, FLAGS
            )
            for noted, committed, *flags in known:
                yield Standing(step, noted, committed, *flags), cadence


def complete(standing: Standing, cadence: Cadence) -> bool:
    return standing.step >= cadence.total or standing.out_of_patience


def test_a_process_ends_only_with_its_step_committed_and_for_one_reason() -> None:
    for standing, cadence in situations():
        now = due(standing, cadence)
        assert not (now.stop and now.finish)
        if now.end:
            assert now.save or standing.committed == standing.step
        assert now.end == (complete(standing, cadence) or standing.stop_asked)


def test_a_committed_step_is_never_committed_again_and_every_cadence_is_kept() -> None:
    for standing, cadence in situations():
        now = due(standing, cadence)
        if standing.committed == standing.step:
            assert not now.save
        elif standing.step > 0 and cadence.save_every is not None and standing.step % cadence.save_every == 0:
            assert now.save
        elif standing.improved:
            assert now.save or not cadence.saves_best


def test_a_validation_is_made_at_its_cadence_and_at_the_end_once_and_never_after_a_stop_was_asked_for() -> None:
    for standing, cadence in situations():
        now = due(standing, cadence)
        on_cadence = standing.step > 0 and standing.step % cadence.validate_every == 0
        missing = standing.noted != standing.step if on_cadence else not standing.recorded
        at_the_end = standing.step > 0 and complete(standing, cadence)
        assert now.validate == (missing and (on_cadence or at_the_end) and not standing.stop_asked)
        assert now.closing == (at_the_end and not on_cadence)


def test_a_stop_that_finds_everything_done_is_no_stop() -> None:
    for standing, cadence in situations():
        now = due(standing, cadence)
        left = not complete(standing, cadence) or due(dataclasses.replace(standing, stop_asked=False), cadence).validate
        assert now.stop == (standing.stop_asked and left)


@dataclasses.dataclass
class Life:
    """What a run leaves behind: the state of its last checkpoint, and its history."""

    step: int = 0
    noted: int = 0
    committed: int | None = None
    validated: list[int] = dataclasses.field(default_factory=list)
    noted_steps: list[int] = dataclasses.field(default_factory=list)


def live(life: Life, cadence: Cadence, stop_at: int | None) -> Due:
    """One process of a run, from its checkpoint until it ends; it is asked to stop when it has made ``stop_at`` steps.

    As in the loop, but with nothing behind it.
    """
    standing = Standing(life.step, life.noted, life.committed, life.step in life.validated, False, False, False)
    while True:
        standing = dataclasses.replace(standing, stop_asked=standing.step == stop_at)
        now = due(standing, cadence)
        if now.validate:
            life.validated.append(standing.step)
            standing = dataclasses.replace(standing, recorded=True)
            if not now.closing:
                life.noted_steps.append(standing.step)
                standing = dataclasses.replace(standing, noted=standing.step)
            now = due(standing, cadence)
        if now.save:
            life.step, life.noted, life.committed = standing.step, standing.noted, standing.step
            standing = dataclasses.replace(standing, committed=standing.step)
        if now.end:
            return now
        step = standing.step + 1
        standing = dataclasses.replace(standing, step=step, recorded=step in life.validated, improved=False)


@pytest.mark.parametrize("stop_at", range(TOTAL + 1))
def test_a_run_that_is_stopped_after_any_step_validates_the_same_steps_as_one_that_never_stopped(stop_at: int) -> None:
    for cadence in cadences():
        straight, stopped = Life(), Life()
        assert live(straight, cadence, None).finish
        first = live(stopped, cadence, stop_at)
        assert stopped.committed == stop_at
        assert first.stop or stop_at == TOTAL
        assert live(stopped, cadence, None).finish
        if first.stop and stop_at == TOTAL:
            # the last step was committed without its validation, and no step is committed twice
            stopped.noted = straight.noted
        assert stopped == straight


@pytest.mark.parametrize("first_total", range(1, TOTAL))
def test_a_run_that_ended_early_and_is_prolonged_has_the_state_of_one_that_never_ended(first_total: int) -> None:
    for cadence in cadences():
        straight, prolonged = Life(), Life()
        live(straight, cadence, None)
        assert live(prolonged, dataclasses.replace(cadence, total=first_total), None).finish
        assert live(prolonged, cadence, None).finish
        assert prolonged.noted_steps == straight.noted_steps
        assert (prolonged.step, prolonged.noted) == (straight.step, straight.noted)


def test_minutes_since_the_last_save_make_one_due_and_decide_nothing_else() -> None:
    cadence = Cadence(total=100, validate_every=50, save_every=40, saves_best=False)
    standing = Standing(7, 0, None, False, False, False, False)
    assert due(dataclasses.replace(standing, long_since_saved=True), cadence) == dataclasses.replace(
        due(standing, cadence), save=True
    )
    assert not due(dataclasses.replace(standing, long_since_saved=True, committed=7), cadence).save
    assert not due(dataclasses.replace(standing, long_since_saved=True, step=0), cadence).save
