"""Traced functions that are kept for the next start: what is taken, and what is as good as absent."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer.runtime import start_cache
from trainer.runtime.start_cache import StartCache
from trainer.runtime.user_cache import KEEPING

BATCH = {"image": tf.ones([2, 3]), "label": tf.constant([1, 2], tf.int64), "unused": tf.constant(1.0)}


class Program:
    """Two variables, and a function that changes them and counts how often it was traced. No result depends on
    ``calls``, and nothing on the batch's ``unused``.
    """

    def __init__(self, total: Any = (1.0, 2.0, 3.0)) -> None:
        self.total = tf.Variable(total)
        self.calls = tf.Variable(0)
        self.traces = 0

        @tf.function(autograph=False)
        def step(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            self.traces += 1
            self.total.assign(self.total + tf.reduce_sum(batch["image"]))
            self.calls.assign_add(1)
            above = tf.cond(tf.reduce_max(self.total) > 10.0, lambda: self.total * 10.0, lambda: self.total * 1.0)
            return above, batch["label"] + 1

        self.step = step

    def kept(self, place: Path, **variables: tf.Variable) -> Any:
        variables = variables or {"total": self.total, "calls": self.calls}
        return StartCache(place, "digest").kept("step", self.step, variables, tuple)


def called(place: Path, batch: dict[str, tf.Tensor] = BATCH, calls: int = 3) -> tuple[list[Any], int]:
    """What some calls of a new program return, with the variable, and how often it was traced."""
    program = Program()
    function = program.kept(place)
    results = []
    for _ in range(calls):
        above, label = function(batch)
        results.append((above.numpy().tolist(), label.numpy().tolist(), program.total.numpy().tolist()))
    assert program.calls.numpy() == calls
    settle()
    return results, program.traces


def settle() -> None:
    for thread in threading.enumerate():
        if thread.name == KEEPING:
            thread.join()


def test_the_second_program_computes_the_same_without_a_trace(tmp_path: Path) -> None:
    traced, traces = called(tmp_path)
    taken, none = called(tmp_path)
    assert (traces, none) == (1, 0)
    assert taken == traced
    assert traced[0][0] != traced[2][0], "the branch is not taken anew at each call"
    assert [path.name for path in tmp_path.iterdir()] == ["digest-step"]


@pytest.mark.parametrize("at", [0, 70, 100, -200, -1])
def test_an_entry_with_one_flipped_bit_is_ignored_and_made_anew(at: int, tmp_path: Path) -> None:
    expected, _ = called(tmp_path)
    path = tmp_path / "digest-step"
    good = path.read_bytes()
    content = bytearray(good)
    content[at] ^= 1
    path.write_bytes(content)
    assert called(tmp_path) == (expected, 1)
    assert called(tmp_path) == (expected, 0)


@pytest.mark.parametrize("length", [0, 64, 65, 200])
def test_an_entry_that_was_cut_is_ignored(length: int, tmp_path: Path) -> None:
    expected, _ = called(tmp_path)
    path = tmp_path / "digest-step"
    path.write_bytes(path.read_bytes()[:length])
    assert called(tmp_path) == (expected, 1)


def test_an_entry_that_others_may_write_is_ignored(tmp_path: Path) -> None:
    called(tmp_path)
    path = tmp_path / "digest-step"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o620)
    assert called(tmp_path)[1] == 1


def test_a_batch_of_another_shape_is_traced(tmp_path: Path) -> None:
    larger = BATCH | {"image": tf.ones([4, 3])}
    called(tmp_path)
    assert called(tmp_path, larger)[1] == 1
    called(tmp_path)
    program = Program()  # which begins with the shape that is kept, and goes on with another
    function = program.kept(tmp_path)
    function(BATCH)
    function(larger)
    assert program.total.numpy().tolist() == [19.0, 20.0, 21.0]


def test_a_variable_of_another_shape_or_name_is_not_taken_for_the_one_that_was_kept(tmp_path: Path) -> None:
    called(tmp_path)
    swapped = Program()
    swapped.kept(tmp_path, total=swapped.total, other=swapped.calls)(BATCH)
    assert swapped.traces == 1
    reshaped = Program([[1.0, 2.0, 3.0]])
    reshaped.kept(tmp_path)(BATCH)
    assert reshaped.traces == 1


def test_what_is_kept_but_cannot_be_called_fails_one_start_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = called(tmp_path)

    def fails(taken: object, argument: object) -> None:
        raise tf.errors.NotFoundError(None, None, "a function that is not there")

    with monkeypatch.context() as patched:
        patched.setattr(start_cache._Taken, "call", fails)
        with pytest.raises(tf.errors.NotFoundError):
            called(tmp_path)
    assert called(tmp_path) == (expected, 1)


def test_a_function_that_depends_on_anything_else_is_not_kept(tmp_path: Path) -> None:
    hidden, told = tf.Variable(1.0), tf.Variable(1.0)
    large = tf.constant(np.arange(1000.0))

    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def one(image: tf.Tensor, row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return image[row] + told, tf.reduce_sum(image)

    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def both(image: tf.Tensor, row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tuple(left + right for left, right in zip(one(image, row), one(image, row + 1), strict=True))

    functions = {
        "": lambda batch: (batch["image"] + told,),
        "an unnamed variable": lambda batch: (batch["image"] + hidden,),
        "a large constant": lambda batch: (tf.cast(batch["image"], tf.float64) + large[:3],),
        "functions that TensorFlow does not inline": lambda batch: both(batch["image"], tf.constant(0)),
        "Python": lambda batch: (tf.py_function(lambda: 1.0, [], tf.float32) + told,),
    }
    for name, function in functions.items():
        kept = StartCache(tmp_path, "digest").kept(
            "step", tf.function(function, autograph=False), {"told": told}, tuple
        )
        kept(BATCH)
        settle()
        assert [path.unlink() for path in tmp_path.iterdir()] == ([] if name else [None]), name


def test_what_is_said_of_a_function_is_kept_when_that_is_kept_and_made_anew_with_it(tmp_path: Path) -> None:
    made: list[str] = []

    def say() -> str:
        made.append(f"[\n{len(made)}\n]\n")
        return made[-1]

    def start(*, steps: bool) -> str:
        """What a process hears, which ends before its first step or after it."""
        cache, program = StartCache(tmp_path, "digest"), Program()
        heard = cache.text("facts", "step", say)
        if steps:
            cache.kept("step", program.step, {"total": program.total, "calls": program.calls}, tuple)(BATCH)
            settle()
        return heard

    assert start(steps=False) == made[0]
    assert list(tmp_path.iterdir()) == [], "a process that was refused leaves nothing"
    assert start(steps=True) == made[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digest-facts", "digest-step"]
    assert [start(steps=steps) for steps in (False, True)] == [made[1]] * 2
    assert len(made) == 2
    (tmp_path / "digest-step").unlink()
    assert start(steps=True) == made[2], "of a function that is not kept nothing is believed"
    assert start(steps=True) == made[2]
    path = tmp_path / "digest-facts"
    path.write_bytes(path.read_bytes().replace(b"2", b"3"))
    assert start(steps=True) == made[3], "it is damaged"


def test_what_was_not_used_for_the_longest_time_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age, name in enumerate(("new", "older", "oldest")):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    monkeypatch.setattr(start_cache, "LARGEST", 250)
    start_cache._make_room(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "older"}


def test_whatever_decides_a_graph_is_in_the_name(cache_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def program(configuration: str = "seed: 1") -> str:
        found = start_cache.start_cache(["trainer.training"], configuration)
        assert found is not None
        assert found.directory == cache_directory / "start"
        return found.program

    first = program()
    assert program() == first
    assert program("seed: 2") != first
    for patched, attribute, value in (
        (start_cache, "FORMAT", 2),
        (tf.version, "VERSION", "2.21.9"),
        (start_cache.machine, "digest", lambda: "other"),
        (start_cache, "_installed", lambda: ["a-1.dist-info"]),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(patched, attribute, value)
            assert program() != first, attribute
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")
    assert program() == first
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert program() != first
    monkeypatch.setattr(tf, "__version__", "2.22.0")
    assert start_cache.start_cache(["trainer.training"], "") is None
