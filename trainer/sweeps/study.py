"""The study of a search: Optuna's record of its trials and their results, in a database.

The trials are those of ``sweep.yaml``, in the same order. A trial is entered here first, as a whole, and then there; a
process that is killed in between leaves one trial more here, and the next takes it as it is. A study that is lost is
made again from the sweep's directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from trainer.errors import UsageError
from trainer.storage.durable import replace, sync
from trainer.storage.guarded import read_text, refuse_unless_file
from trainer.storage.unacceptable import Unacceptable
from trainer.sweeps import claims
from trainer.sweeps.chooser import STUDY, Chooser, Seen, running
from trainer.sweeps.pickled import refuse_foreign_pickles

FILE_NAME = "study.db"
OWNER = "owner"  # a file among the locks: a number that the study of this search has, too
OWNED_BY, DECIDED_BY = "resumable-trainer:owner", "resumable-trainer:settings"  # attributes of the study


class Study:
    """The study of one search. Only who holds ``claims.choosing`` may call its methods."""

    def __init__(self, storage: RDBStorage, name: str, where: str) -> None:
        self._storage = storage
        self._where = where
        self._study = optuna.load_study(study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler(0))

    def trials(self) -> list[FrozenTrial]:
        with _reaching(self._where):
            found = self._study.get_trials(deepcopy=False)
        refuse_foreign_pickles(found, self._where)
        return found

    def enter(self, trial: FrozenTrial) -> None:
        with _reaching(self._where):
            self._study.add_trial(trial)

    def report(self, number: int, seen: Seen) -> None:
        """Keep the validations of a trial that is not over, and what the pruner noted."""
        with _reaching(self._where):
            trial = self._study.get_trials(deepcopy=False)[number]
            for step, value in seen.reports.items():
                if step not in trial.intermediate_values:
                    self._storage.set_trial_intermediate_value(trial._trial_id, step, value)
            for name, noted in seen.attributes.items():
                if name not in trial.system_attrs or trial.system_attrs[name] != noted:
                    self._storage.set_trial_system_attr(trial._trial_id, name, noted)

    def tell(self, number: int, result: float | TrialState) -> None:
        """Keep how a trial ended: its result, or the state of one that has none."""
        with _reaching(self._where):
            if isinstance(result, TrialState):
                self._study.tell(number, state=result)
            else:
                self._study.tell(number, result)

    def best(self) -> FrozenTrial | None:
        """The trial with the best result; None before the first has one."""
        with _reaching(self._where):
            ended = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            return self._study.best_trial if ended else None


def opened(sweep_dir: Path, chooser: Chooser) -> Study:
    """The study of the search in ``sweep_dir``, made unless it is there.

    Raises:
        UsageError: it cannot be opened, it belongs to another sweep, or it was made with other settings.
    """
    settings = chooser.settings
    owner = _owner(sweep_dir)
    name = settings.study_name or STUDY
    if settings.storage is not None:
        where = hidden(settings.storage)
        study = _study(settings.storage, name, where, chooser, owner)
    else:
        path = sweep_dir / FILE_NAME
        where = str(path)
        if "?" in where:
            raise UsageError(f"hydra.sweep.dir={sweep_dir}: SQLite takes what follows ? for options; use another name")
        if not os.path.lexists(path):
            _make(path, name, chooser, owner)
        try:
            refuse_unless_file(path)
        except Unacceptable as error:
            raise UsageError(str(error)) from error
        study = _study(f"sqlite:///{path}", name, where, chooser, owner)
    return study


def _make(path: Path, name: str, chooser: Chooser, owner: str) -> None:
    """Make the file of a study whole: a process that is killed meanwhile leaves none of that name."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.unlink(missing_ok=True)
    study = _study(f"sqlite:///{unfinished}", name, str(path), chooser, owner)
    study._storage.engine.dispose()
    sync(unfinished)
    unfinished.rename(path)
    sync(path.parent)


def _study(url: str, name: str, where: str, chooser: Chooser, owner: str) -> Study:
    try:
        with _reaching(where):
            storage = RDBStorage(url)
            study = optuna.create_study(
                study_name=name, storage=storage, direction=chooser.settings.direction, load_if_exists=True
            )
    except RuntimeError as error:  # of another version of Optuna
        raise UsageError(f"the study in {where} cannot be opened: {str(error).splitlines()[0]}") from error
    with _reaching(where):
        attributes = study.user_attrs
        decided = json.dumps(chooser.described())
        if OWNED_BY not in attributes and not study.get_trials(deepcopy=False):
            study.set_user_attr(DECIDED_BY, decided)
            study.set_user_attr(OWNED_BY, owner)
            attributes = study.user_attrs
    if attributes.get(OWNED_BY) != owner:
        raise UsageError(
            f"the study {name} in {where} belongs to another sweep directory or to another program\n"
            "choose another hydra.sweeper.study_name"
        )
    _refuse_other_settings(attributes, chooser.described(), where)
    return Study(storage, name, where)


def _refuse_other_settings(attributes: Mapping[str, Any], wanted: Mapping[str, str], where: str) -> None:
    there = json.loads(attributes[DECIDED_BY])
    for key in (*wanted, *there):
        before, now = there.get(key, "not set"), wanted.get(key, "not set")
        if before != now:
            raise UsageError(
                f"{where} has another search: {key}: {before} -> {now}\n"
                "a search continues with the settings that it began with; or choose another hydra.sweep.dir"
            )


def _owner(sweep_dir: Path) -> str:
    path = claims.place_of(sweep_dir) / OWNER
    try:
        if not os.path.lexists(path):
            replace(path, secrets.token_hex(8).encode())
        text = read_text(path, 64)
    except (OSError, Unacceptable) as error:
        raise UsageError(f"{path} cannot be read or written: {error}") from error
    return text


def hidden(storage: str) -> str:
    """The URL of a database without its password."""
    return re.sub(r"(://[^:/@]*:|\bpassword=)[^@&]*", r"\1***", storage)


@contextlib.contextmanager
def _reaching(where: str) -> Iterator[None]:
    """Report errors of the database as such.

    Raises:
        UsageError: names the database, and what it said.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, ImportError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ is not None else error
        said = str(getattr(cause, "orig", None) or cause).splitlines()[0]
        advice = (
            "\nmove the file away to have the study made again from the trials that are there"
            if where.endswith(f"/{FILE_NAME}")
            else ""
        )
        raise UsageError(f"the study in {where} cannot be used: {said}{advice}") from error


def planned(params: Mapping[str, Any], chooser: Chooser) -> FrozenTrial:
    """A trial that was chosen without this study."""
    return running(params, chooser.distributions, {})


def states(trials: Sequence[FrozenTrial], state: TrialState) -> tuple[int, ...]:
    """The numbers of the trials in a state."""
    return tuple(trial.number for trial in trials if trial.state == state)
