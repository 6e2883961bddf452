"""Shared by the tests of doctor and inspect: narrow networks that are built once, and the command itself."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from foreign_files import Arrays, random_arrays

from trainer.__main__ import run
from trainer.checkpoint import directory
from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.manifest import FORMAT_VERSION, PREFIX, Manifest, RecordedMetrics, Start
from trainer.checkpoint.tensors import ATTRIBUTE, StateFile
from trainer.config import stored
from trainer.config.schema import Config
from trainer.diagnosis import doctor as doctors
from trainer.diagnosis.expected import completed, expected_of
from trainer.diagnosis.wanted import wanted_config
from trainer.models.inception_v3_units import PUBLISHED, unit_of
from trainer.run_directory.layout import CHECKPOINTS, LOCK
from trainer.storage.durable import digest
from trainer.storage.lease import Fence
from trainer.training.state import TrainingState, build_state, flatten

NO_METRICS = RecordedMetrics(0, "0" * 64)
NARROW = ("model.width=0.01", "model.min_depth=4")


def composed(*overrides: str) -> Config:
    """The default configuration with overrides, complete."""
    return completed(wanted_config(None, overrides))


expected = functools.cache(expected_of)


@contextlib.contextmanager
def one_build_for_each_configuration() -> Iterator[None]:
    """Make the command share builds with the tests and with itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctors, "expected_of", expected)
        yield


@functools.cache
def narrow_config() -> Config:
    return composed(*NARROW)


@functools.cache
def narrow_state() -> TrainingState:
    return build_state(narrow_config())


@functools.cache
def narrow_arrays() -> Arrays:
    """Random values for the narrow network's variables, in the order in which it was built."""
    order = [*PUBLISHED, "aux_logits/logits", "logits/logits"]
    names = sorted(expected(narrow_config()).model, key=lambda name: order.index(unit_of(name)))
    return random_arrays({name: expected(narrow_config()).model[name] for name in names})


STATE_FILES: dict[int, StateFile] = {}


def commit(run_dir: Path, step: int, state: TrainingState, config: Config, lineage: tuple[Start, ...] = ()) -> Path:
    """One of our own checkpoints, as trainer/run/session.py makes it."""
    if id(state) not in STATE_FILES:  # what it finds out about the tree takes half a second
        tree = state.tree()
        STATE_FILES[id(state)] = StateFile(tree, flatten(tree))
    state_file = STATE_FILES[id(state)]

    def fill(place: Path) -> None:
        (place / stored.FILE_NAME).write_text(stored.to_text(config), encoding="utf-8")
        state_file.write(state_file.snapshot(), place)

    def describe(digests: dict[str, str], sizes: dict[str, int]) -> Manifest:
        classes = tuple(map(str, range(10)))
        facts = (step, step * 32, 0.5, "0" * 16, None, classes, {}, {}, None, "", lineage, NO_METRICS, digests, sizes)
        return Manifest(FORMAT_VERSION, *facts)

    run_dir.mkdir(exist_ok=True)
    return directory.commit(run_dir / CHECKPOINTS, step, fill, describe, Fence(run_dir / LOCK))


def forge(checkpoint: Path, name: str) -> None:
    """Change the first value of a tensor, and every digest that would tell."""
    prefix = str(checkpoint / PREFIX)
    reader = tf.train.load_checkpoint(prefix)
    values = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}
    np.ravel(values[name + ATTRIBUTE])[0] += 1.0
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=list(values), shape_and_slices=[""] * len(values), tensors=list(values.values())
    )
    manifest = manifests.read(checkpoint / manifests.FILE_NAME)
    files = {file: digest(checkpoint / file) for file in manifest.files}
    sizes = {file: (checkpoint / file).stat().st_size for file in manifest.files}
    manifests.write(dataclasses.replace(manifest, files=files, sizes=sizes), checkpoint / manifests.FILE_NAME)


class Doctor:
    """Runs the command, holds every file unchanged, and returns exit status and output."""

    def __init__(self, capsys: pytest.CaptureFixture[str], place: Path) -> None:
        self._capsys = capsys
        self._place = place

    def __call__(self, path: Path | str, *overrides: str) -> tuple[int, str]:
        before = self._digests()
        status = run(["doctor", f"checkpoint={path}", *overrides])
        captured = self._capsys.readouterr()
        assert self._digests() == before
        assert re.search(r"^next: \S+", captured.out, re.MULTILINE), captured.err
        return status, captured.out

    def _digests(self) -> dict[str, str]:
        files = [path for path in sorted(self._place.rglob("*")) if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def causes(output: str) -> list[str]:
    """The causes in an answer, without remarks."""
    return re.findall(r"^- (\w+):", output, re.MULTILINE)
