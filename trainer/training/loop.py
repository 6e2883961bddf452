"""The training loop. A fresh and a resumed run execute the same code; only the state they begin with differs."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import tensorflow as tf

from trainer.config.schema.training import AUTO
from trainer.data.ahead import Ahead
from trainer.data.batch import Batch
from trainer.data.supply import Supply, WaitEnded
from trainer.distributed.stop_vote import Stalled, WithoutData
from trainer.distributed.stragglers import OwnWork
from trainer.errors import DataLost, Diverged, PeerLost, Stopped, TrainingFailed, UsageError
from trainer.run_directory.metrics import TRAIN, Record
from trainer.runtime.signals import EXIT_STOPPED, exit_status
from trainer.training.divergence import Watch
from trainer.training.due import Cadence, Due, Standing, due
from trainer.training.interfaces import EvaluationStep, Run
from trainer.training.loss_scale import MINIMUM
from trainer.training.pace import Pace
from trainer.training.save_interval import SaveInterval
from trainer.training.schedules import learning_rate
from trainer.training.state import Progress, flatten
from trainer.training.step import EVALUATION_STEP, TRAIN_STEP, Told, make_evaluation_step, make_train_step
from trainer.training.validation import patience_is_exhausted, validate

ADVICE = "try a lower optimizer.learning_rate or optimizer.clip_norm=1, or resume from an earlier checkpoint"


def train(run: Run) -> None:
    """Train until ``total_steps`` or early stopping.

    What is due at a step is decided from the state alone (``trainer.training.due``), so a run that was interrupted
    between a validation and a save does the missing one first when it resumes.

    Raises:
        Stopped: a signal asked for it; the current step is committed.
        DataLost: the data cannot be read any more; the current step is committed.
        UsageError: the data cannot be read at the start; nothing is committed.
        PeerLost: a signal came, the data did not, and other processes wait in a step; nothing is committed.
        TrainingFailed: the loss or a variable is not finite; nothing is committed.
        Diverged: a step diverges, and the configuration wants to go on without its batch; nothing is committed.
        NotSaved: the disk refused a save and the policy is to stop, or it refused the last save.
    """
    with contextlib.closing(Supply(_iterate(run), run.stop.is_asked, run.terminal.warn)) as supply:
        batches = Ahead(supply, 2 if run.stop.is_shared else 0, run.stop.data_failed)
        if run.stop.is_shared:
            batches.look()
        try:
            _Loop(run, batches).go()
        except Diverged as diverged:
            _refuse_another_rollback(run, diverged)
            raise


def _refuse_another_rollback(run: Run, diverged: Diverged) -> None:
    """End the run where there were enough rollbacks: one more would not help either."""
    entries, most = run.config.train.skip_examples, run.config.divergence.max_rollbacks
    if len(entries) < most:
        return
    before = f"after {len(entries)} rollbacks" if entries else "and no rollback is allowed"
    raise TrainingFailed(
        f"{diverged}, {before} (train.skip_examples={list(entries)}, divergence.max_rollbacks={most}); nothing was "
        f"committed since; {run.checkpointer.last_good()}\n{ADVICE}"
    )


class _Loop:
    """The steps of one process, and what is due between them."""

    def __init__(self, run: Run, batches: Iterator[Batch]) -> None:
        self._run = run
        self._batches = batches
        self._train_step, self._evaluation_step = _compiled(run)
        self._cadence = _cadence(run)
        self._standing = _standing(run)
        self._stretch, self._own_work = _Stretch(), OwnWork()
        self._watch = Watch(int(run.state.progress.examples.numpy()), run.config.train.global_batch_size)
        self._stopping: signal.Signals | WithoutData | Stalled | None = None
        run.clock.looping()
        self._by_time = SaveInterval(run.config.checkpoint, run.clock, run.terminal.line)

    def go(self) -> None:
        """Step after step, with what is due before each, until the run ends."""
        while True:
            self._note()
            now = self._due()
            # with several processes, where all look at once; not where the chief alone saves because of the time
            self._watch.look(newest=now.validate or now.end or self._cadence.saves_at(self._standing.step))
            if now.validate:
                self._validate(closing=now.closing)
                self._stopping = self._run.stop.poll()  # one that arrives later is seen after the next step
                now = self._due()
            if now.save and self._watch.is_sound():
                self._save()
            if now.end:
                self._finish_saving()
            if now.stop:
                raise _stopped(self._run, self._stopping, self._standing.step)
            if now.finish:
                return
            batch = self._next()
            if batch is not None:
                self._step(batch)

    def _note(self) -> None:
        """Hear of what has happened since: a save that failed, a request to stop, time that has passed."""
        run = self._run
        run.checkpointer.check()
        self._by_time.step(writing=run.checkpointer.is_writing)
        run.stop.note(self._own_work.seconds())
        self._stopping = run.stop.poll()
        _tell_stragglers(run)
        self._standing = dataclasses.replace(self._standing, long_since_saved=self._by_time.is_over())

    def _due(self) -> Due:
        return due(dataclasses.replace(self._standing, stop_asked=self._stopping is not None), self._cadence)

    def _validate(self, *, closing: bool) -> None:
        run = self._run
        with (
            self._stretch.paused(),
            self._by_time.paused(),
            run.clock.phase("validating"),
            _keeping_steps(run, self._standing, self._watch, unless=False),
        ):
            self._standing = validate(run, self._standing, self._evaluation_step, closing=closing)

    def _save(self) -> None:
        run = self._run
        with self._stretch.paused(), self._by_time.saving(), run.clock.phase("saving"):
            run.checkpointer.save()
        run.clock.saved()
        self._standing = dataclasses.replace(self._standing, committed=self._standing.step)

    def _finish_saving(self) -> None:
        with self._run.clock.phase("saving"):
            self._run.checkpointer.finish()

    def _next(self) -> Batch | None:
        """The batch of the next step; None when a request to stop did not wait for it."""
        run = self._run
        try:
            # unless shared: the others have not agreed and continue
            with (
                run.clock.phase("waiting"),
                _keeping_steps(run, self._standing, self._watch, unless=run.stop.is_shared),
            ):
                return self._stretch.next(self._batches)
        except WaitEnded:
            if run.stop.is_shared:
                raise _without_batch(run, self._standing.step) from None
            return None

    def _step(self, batch: Batch) -> None:
        run = self._run
        self._standing = _after_step(run, self._standing)
        step = self._standing.step
        run.views.before(step, batch)
        with run.clock.phase("training" if self._stretch.traced else "tracing"):
            told = self._train_step(batch)
            self._own_work.add(told.marks)
            self._stretch.add(told)
            self._watch.add(step, told.loss, told.gradient_norm, told.judged)
        run.clock.at(step)
        _show_step(run, step, self._stretch, self._watch)


def _compiled(run: Run) -> tuple[Callable[[Batch], Told], EvaluationStep]:
    """The functions that train and evaluate; the start cache has them where an earlier process has left them."""
    train_step, evaluation_step = (
        make_train_step(run.state, run.config),
        make_evaluation_step(run.state, run.config, scores=True),
    )
    if run.start_cache is None:
        return train_step, evaluation_step
    variables = flatten(run.state.tree())
    return (
        run.start_cache.kept(TRAIN_STEP, train_step, variables, Told.of),
        run.start_cache.kept(EVALUATION_STEP, evaluation_step, variables, lambda values: (values[0], values[1])),
    )


def _cadence(run: Run) -> Cadence:
    config = run.config
    assert config.evaluation.every_steps is not None
    save_every = config.checkpoint.every_steps
    return Cadence(
        total=run.total_steps,
        validate_every=config.evaluation.every_steps,
        save_every=None if save_every == AUTO else save_every,
        saves_best=config.checkpoint.keep_best > 0,
    )


def _standing(run: Run) -> Standing:
    """The standing with which the run begins in this process."""
    progress = run.state.progress
    step = int(progress.step.numpy())
    return Standing(
        step=step,
        noted=int(progress.evaluated_step.numpy()),
        committed=run.committed_step,
        recorded=step in run.history.validations,
        improved=False,
        out_of_patience=patience_is_exhausted(progress, run.config),
        stop_asked=False,
    )


def _after_step(run: Run, standing: Standing) -> Standing:
    step = standing.step + 1
    return dataclasses.replace(standing, step=step, recorded=step in run.history.validations, improved=False)


@contextmanager
def _keeping_steps(run: Run, standing: Standing, watch: Watch, *, unless: bool) -> Iterator[None]:
    """Commit the current step when the block meets data that cannot be read: the state is good, and its steps need not
    be made again. A run that has made none leaves nothing behind.

    Raises:
        Diverged: the state is not good.
        DataLost: the data cannot be read; UsageError where other processes may still read theirs.
    """
    try:
        yield
    except UsageError as error:
        if unless or standing.step == 0:
            raise
        watch.look(newest=True)
        if standing.committed != standing.step:
            run.checkpointer.save()
        run.checkpointer.finish()
        lost = _data_lost(run, str(error))
        # tells the other processes, which have not met the same error and must not wait
        raise (UsageError(str(lost)) if run.stop.is_shared else lost) from error


def _data_lost(run: Run, reason: str) -> DataLost:
    return DataLost(f"{reason}\nevery step until here is committed: {run.checkpointer.way_on()}")


def _stopped(run: Run, stopping: signal.Signals | WithoutData | Stalled | None, step: int) -> Stopped | DataLost:
    assert stopping is not None
    if isinstance(stopping, WithoutData):
        return _data_lost(run, stopping.reason)
    why, status = (
        (stopping.reason, EXIT_STOPPED) if isinstance(stopping, Stalled) else (stopping.name, exit_status(stopping))
    )
    committed = f"{why} at step {step}; checkpoint step-{step:08d} is committed"
    return Stopped(f"{committed}\n{run.checkpointer.to_continue()}", status)


def _tell_stragglers(run: Run) -> None:
    """Name a process that has become slow; the chief tells it for all."""
    if run.stop.is_chief:
        for line in run.stragglers.add(run.stop.work_seconds()):
            run.terminal.warn(line)


def _without_batch(run: Run, step: int) -> PeerLost:
    """The end of a process that cannot make the steps in which all would agree to stop: it had no batch left."""
    stalled = run.stop.stalled
    why = "a signal came" if stalled is None else f"{stalled.reason};"
    return PeerLost(
        f"{why} at step {step} while this process waited for data and had read none ahead, so the others could "
        f"not agree to stop at one step; {run.checkpointer.last_good()}"
    )


def _show_step(run: Run, step: int, stretch: _Stretch, watch: Watch) -> None:
    run.terminal.step(step)
    if step % run.config.train.log_every_steps == 0 or step == run.total_steps:
        watch.look(newest=True)
        _log_training(run, step, stretch)
    run.views.after(step)


def _iterate(run: Run) -> Iterator[Batch]:
    """The batches from the current position on; opened when the first is asked for."""
    yield from run.training_batches(int(run.state.progress.examples.numpy()))


def _log_training(run: Run, step: int, stretch: _Stretch) -> None:
    """Write the mean of the steps since the last record.

    The sums are in the state tree, so a record is the same whether or not its steps were made by one process. At the
    end of a run they are kept: a longer run may follow.
    """
    progress, config = run.state.progress, run.config
    steps, seen = int(progress.steps_summed.numpy()), int(progress.seen.numpy())
    if steps == 0:
        _check_loss_scale(progress, step)
        return
    loss = float(progress.loss_sum.numpy()) / steps
    if not math.isfinite(loss):
        raise TrainingFailed(_not_finite(run, step, stretch.told))
    rate = learning_rate(progress.step - 1, progress.examples - config.train.global_batch_size, config)
    told = stretch.told
    measured: dict[str, float] = stretch.end(config.train.global_batch_size)
    if measured:
        measured.update(run.device_use(measured["images_per_second"]))
    scalars = {
        "loss": loss,
        "accuracy": int(progress.correct.numpy()) / seen,
        "learning_rate": float(rate.numpy()),
        "weight_norm": float(tf.linalg.global_norm(list(run.state.trainable.values())).numpy()),
        **measured,
        "substituted": int(progress.substituted.numpy()),
    }
    closing = step % config.train.log_every_steps != 0
    gradient_norm = float(told[-1].gradient_norm.numpy())
    if not closing and math.isfinite(gradient_norm):  # with a loss scale, a step may be skipped
        scalars["gradient_norm"] = gradient_norm
    if config.runtime.precision == "mixed_float16":
        scalars["loss_scale"] = float(progress.loss_scale.numpy())
    examples = int(progress.examples.numpy())
    facts = {"epoch": run.epoch(examples), "examples": examples, "ledger": progress.ledger_text(), "closing": closing}
    facts.update(run.stragglers.facts())
    run.history.add(Record(step, TRAIN, scalars, facts))
    left = stretch.seconds_for(run.total_steps - step)
    run.terminal.training(step, run.total_steps, run.epoch(examples), scalars, left)
    if not closing:
        for variable in (progress.loss_sum, progress.correct, progress.seen, progress.steps_summed):
            variable.assign(tf.zeros_like(variable))


def _not_finite(run: Run, step: int, told: Sequence[Told]) -> str:
    losses = [float(each.loss.numpy()) for each in told]
    bad = next((at for at, loss in enumerate(losses, step - len(losses) + 1) if not math.isfinite(loss)), step)
    size = run.config.train.global_batch_size
    last = int(run.state.progress.examples.numpy()) - (step - bad) * size
    return (
        f"the training loss is not finite at step {bad}, of training examples {last - size} to {last - 1}; "
        f"nothing was committed since; {run.checkpointer.last_good()}\n"
        f"{ADVICE}; train.on_divergence=rollback goes on by itself, without these examples"
    )


def _check_loss_scale(progress: Progress, step: int) -> None:
    """Refuse gradients that are not finite at the lowest loss scale; above it, skipped steps let the scale settle."""
    scale = float(progress.loss_scale.numpy())
    if scale <= MINIMUM:
        raise TrainingFailed(
            f"the gradients at step {step} are not finite although the loss scale is down to {scale:g}\n"
            "try a lower optimizer.learning_rate or optimizer.clip_norm=1, or runtime.precision=mixed_bfloat16"
        )


class _Stretch:
    """The steps that this process made since the last training record: what they reported, and the time they took.

    Evaluation and saving are left out of the time, and so is the first step of the process, which is traced.
    """

    def __init__(self) -> None:
        self.traced = False  # whether the first step of the process was made
        self._pace = Pace()
        self._begin()

    def _begin(self) -> None:
        self.told: list[Told] = []
        self._timed = 0  # steps
        self._restart()

    def _restart(self) -> None:
        self._start = time.monotonic()
        self._waited = 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        pause = time.monotonic()
        yield
        self._start += time.monotonic() - pause

    def next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch; waits for it."""
        began = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - began
        return batch

    def add(self, told: Told) -> None:
        """A step was made."""
        self.told.append(told)
        if self.traced:
            self._timed += 1
        else:
            self.traced = True
            self._restart()

    def end(self, batch_size: int) -> dict[str, float]:
        """``images_per_second``, and the share of the time that was spent waiting for batches, ``input_wait``. Empty
        when the only step was the first of the process. The next stretch begins.
        """
        elapsed, steps, waited = time.monotonic() - self._start, self._timed, self._waited
        self._begin()
        if not steps:
            return {}
        self._pace.add(steps, elapsed)
        return {"images_per_second": steps * batch_size / elapsed, "input_wait": waited / elapsed}

    def seconds_for(self, steps: int) -> float | None:
        """How long so many steps will take; None as long as too few are known."""
        return self._pace.seconds_for(steps)
