"""Bringing one tracker up to what a run has committed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

from trainer.checkpoint.verification import reading
from trainer.config.contracts import How, TrackedRun, Tracker
from trainer.config.schema.tracking import TrackingConfig
from trainer.errors import UsageError
from trainer.monitoring.trackers import noted
from trainer.monitoring.trackers.committed import Committed, Reached, hashed, part
from trainer.monitoring.trackers.facts import branched_off, run_of
from trainer.monitoring.trackers.noted import Noted, Sending
from trainer.run_directory.layout import METRICS

MOST_AT_ONCE = 500  # lines of metrics.jsonl in a part


class Feed:
    """One tracker of one run. ``make`` makes an object of the tracker; after an error, the next pass has another."""

    def __init__(self, run_dir: Path, name: str, make: Callable[[], Tracker], sweep: str | None) -> None:
        self._run_dir = run_dir
        self._name = name
        self._make = make
        self._sweep = sweep
        self._tracker: Tracker | None = None
        self._note: Noted | None = None
        self._at: Reached | None = None  # of what this object was sent, kept or not
        self._hash = hashlib.sha256()  # of the records up to there

    def bring(self, committed: Committed) -> None:
        """Send what is committed and was not sent. Whatever the tracker raises goes through; the next call tries again.

        Raises:
            UsageError: metrics.jsonl is not what the checkpoint says.
        """
        try:
            self._bring(committed)
        except BaseException:
            self._forget()
            raise

    def finish(self, committed: Committed, how: How | None, tracking: TrackingConfig) -> None:
        """As ``bring``, and send the last checkpoint of a finished run. Afterwards the tracker keeps everything."""
        try:
            self._bring(committed)
            if how == "finished" and tracking.final_checkpoint:
                self._upload(committed, tracking.register)
            self._close(how)
        finally:
            self._forget()

    def _bring(self, committed: Committed) -> None:
        metrics = self._run_dir / METRICS
        self._refuse_others(committed)
        note = self._begin(committed)
        tracker = self._opened(committed, note)
        while True:
            note, at = self._known()
            sending = note.sending
            if sending is None or sending.end.size <= at.size:
                if at.size >= committed.size:
                    return
                ahead = part(metrics, at, self._hash, committed.size, MOST_AT_ONCE, committed.time)
                if ahead.end.size == at.size:
                    raise UsageError(f"{metrics} ends before what {committed.checkpoint.name} stands for")
                self._write(dataclasses.replace(note, sending=Sending(ahead.end, committed.time)))
            else:
                lines = sending.end.records - at.records
                ahead = part(metrics, at, self._hash, sending.end.size, lines, sending.time)
            if tracker.send(ahead.points):
                self._write(dataclasses.replace(self._known()[0], sent=ahead.end, sending=None))
            self._at, self._hash = ahead.end, ahead.hash

    def _refuse_others(self, committed: Committed) -> None:
        recorded, metrics = committed.manifest.metrics, self._run_dir / METRICS
        if hashed(metrics, recorded.size).hexdigest() != recorded.sha256:
            raise UsageError(
                f"{metrics} does not begin with the {recorded.size} bytes that {committed.checkpoint.name} stands for; "
                "nothing more is sent"
            )

    def _begin(self, committed: Committed) -> Noted:
        """The note to go on with: that of this directory, or of a run of its own in the tracker."""
        note = noted.read(self._run_dir, self._name)
        if note is None:
            fresh = noted.new(self._run_dir, branched_off(self._run_dir, self._name, committed.manifest))
        elif not noted.belongs(note, self._run_dir) or noted.goes_back(note, self._run_dir, committed.stays):
            fresh = noted.new(self._run_dir, note.id or note.parent)
        else:
            fresh = noted.moved(note, self._run_dir)
        if note is None or fresh.key != note.key:
            self._forget()
        if fresh != note:
            self._write(fresh)
        self._note = fresh
        return fresh

    def _opened(self, committed: Committed, note: Noted) -> Tracker:
        if self._tracker is None:
            self._at, self._hash = note.sent, hashed(self._run_dir / METRICS, note.sent.size)
            tracker = self._make()
            told: TrackedRun = run_of(self._run_dir, self._name, committed, note, self._sweep)
            found = tracker.open(told)
            if found != note.id:
                self._write(dataclasses.replace(note, id=found))
            self._tracker = tracker
        return self._tracker

    def _upload(self, committed: Committed, model: str | None) -> None:
        note, _ = self._known()
        if note.checkpoint == committed.checkpoint.name:
            return
        assert self._tracker is not None
        with reading(committed.checkpoint):
            self._tracker.upload(committed.checkpoint, model)
        self._write(dataclasses.replace(note, checkpoint=committed.checkpoint.name))

    def _close(self, how: How | None) -> None:
        assert self._tracker is not None
        self._tracker.close(how)
        note, at = self._known()
        if at != note.sent:
            self._write(dataclasses.replace(note, sent=at, sending=None))

    def _known(self) -> tuple[Noted, Reached]:
        assert self._note is not None
        assert self._at is not None
        return self._note, self._at

    def _write(self, note: Noted) -> None:
        noted.write(self._run_dir, self._name, note)
        self._note = note

    def _forget(self) -> None:
        self._tracker, self._note, self._at = None, None, None
