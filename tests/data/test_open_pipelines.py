"""A pipeline that nobody reads any longer is not ended by one of its own threads, which would wait for itself."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_data import make_splits, narrow

from trainer.config.schema import Config
from trainer.data import reads
from trainer.data.batches import training_batches
from trainer.data.pipeline import _Opened
from trainer.data.sources.source import Numbers, Source, open_source
from trainer.errors import UsageError

SECONDS = 60


@pytest.fixture(autouse=True)
def collected_only_where_a_test_says_so() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Collecting:
    """Makes the third read of a source wait for ``let_go``, and collect garbage in the thread that reads."""

    def __init__(self, source: Source, *, failing: bool = False) -> None:
        self.reached, self.let_go, self.collected = (threading.Event() for _ in range(3))
        self._read, self._calls, self._failing = source.read, 0, failing
        source.read = self.read  # type: ignore[method-assign]

    def read(self, records: Numbers) -> tuple[list[bytes], Numbers]:
        self._calls += 1
        number = self._calls
        if number == 3:
            self.reached.set()
            self.let_go.wait(SECONDS)
            gc.collect()
            self.collected.set()
        elif self._failing and number > 1:
            self.reached.wait(SECONDS)
            raise UsageError("the disk is gone")
        return self._read(records)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return narrow("data=image_folder", f"data.root={make_splits(tmp_path)}")


def in_a_cycle(value: object) -> None:
    cell = [value]
    cell.append(cell)


def test_garbage_that_is_collected_in_a_thread_of_a_pipeline_may_hold_the_pipeline(config: Config) -> None:
    source = open_source(config.data, "train")
    collecting = Collecting(source)
    batches = iter(training_batches(source, config, 0, 5))
    next(batches)
    assert collecting.reached.wait(SECONDS)
    in_a_cycle(batches)
    del batches
    collecting.let_go.set()
    assert collecting.collected.wait(SECONDS), "the thread waits for itself"
    assert not _Opened._left.empty(), "it is left to others"
    next(iter(training_batches(source, config, 0, 5)))
    assert _Opened._left.empty(), "who opens another one ends it"
    assert reads.longest() is None


def test_so_may_the_error_of_a_pipeline(config: Config) -> None:
    source = open_source(config.data, "train")
    collecting = Collecting(source, failing=True)
    threading.Timer(1, collecting.let_go.set).start()  # who ends a pipeline waits for its reads
    try:
        for _ in training_batches(source, config, 0, 5):
            pass
    except UsageError as error:
        in_a_cycle(error)
    assert collecting.collected.wait(SECONDS), "the thread waits for itself"
    assert reads.longest() is None
