"""MLflow, by a real server on loopback, and W&B, by the files that it writes offline, beside a run that is killed."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_server import MLflowServer
from processes import Process, Trainer, wait_for_step
from small_plugin import paced
from tracked_runs import Series, TrackedDirectory, wanted
from wandb_files import records, rows

pytestmark = [
    pytest.mark.trackers,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("fastapi", "mlflow", "wandb")),
        reason="needs a server of MLflow, and W&B: scripts/test_trackers",
    ),
]
KILLS, SERVER_DOWN = 20, range(8, 13)  # the lives in which there is no server
STEPS_OF_A_LIFE, LAST = 9, 240


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MLflowServer]:
    started = MLflowServer(tmp_path / "server")
    try:
        started.start()
        yield started
    finally:
        started.stop()


def newest(run_dir: Path) -> int:
    return max((int(path.name.removeprefix("step-")) for path in run_dir.glob("checkpoints/step-*")), default=0)


def telling(run_dir: Path) -> list[int]:
    """The processes that tell trackers of the run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"track" in words and any(word.startswith(b"run_dir=") and run_dir.name.encode() in word for word in words):
            found.append(int(path.parent.name))
    return found


def kill(process: Process, run_dir: Path, *, tellers_first: bool) -> None:
    """Kill the run, and before it those that tell trackers of it, or leave it to them to see that it is gone."""
    for number in telling(run_dir) if tellers_first else ():
        os.kill(number, signal.SIGKILL)
    process.signal_group(signal.SIGKILL)
    process.wait()
    while telling(run_dir):
        time.sleep(0.05)


def in_mlflow(client, run_id: str) -> Series:  # type: ignore[no-untyped-def]
    names = client.get_run(run_id).data.metrics
    return sorted(
        (point.step, name, 0.5 if math.isnan(point.value) else point.value)
        for name in names
        for point in client.get_metric_history(run_id, name)
    )


def in_wandb(files: list[Path]) -> Series:
    told = [(number, values) for path in files for number, values in rows(path)]
    numbers = [number for number, _ in told]
    assert sorted(numbers) == list(range(len(numbers))), "a row is missing or doubled"
    return sorted(
        (int(values["step"]), name, 0.5 if math.isnan(value) else float(value))
        for _, values in told
        for name, value in values.items()
        if name != "step"
    )


def test_after_twenty_kills_and_without_a_server_for_a_while_every_series_is_that_of_the_run(
    trainer: Trainer, small: tuple[str, ...], server: MLflowServer, tmp_path: Path
) -> None:
    import mlflow

    run_dir, draws = tmp_path / "run", random.Random(24)
    variables = {"MLFLOW_TRACKING_URI": server.url, "WANDB_MODE": "offline", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    run = (*small, *paced(0.15), f"train.steps={LAST}", "checkpoint.every_steps=3", "run_dir=run")
    run = (*run, "tracking.trackers=[mlflow,wandb]", "tracking.register=digits", "on_existing=resume")
    orphans = 0
    for life in range(KILLS):
        if life == SERVER_DOWN.start:
            server.stop()
        if life == SERVER_DOWN.stop:
            server.start()
        process = trainer.start("train", *run, **variables)
        wait_for_step(process, run_dir, newest(run_dir) + STEPS_OF_A_LIFE)
        time.sleep(draws.uniform(0.0, 2.0))
        assert process.running, process.output
        tellers_first = draws.random() < 0.5
        orphans += not tellers_first
        kill(process, run_dir, tellers_first=tellers_first)
    process = trainer.start("train", *run, **variables)
    assert process.wait() == 0, process.output
    process = trainer.start("track", "run_dir=run", **variables)
    assert process.wait() == 0, process.output
    expected = wanted(run_dir / "metrics.jsonl")
    notes = {name: json.loads((run_dir / "tracking" / f"{name}.json").read_text()) for name in ("mlflow", "wandb")}

    client = mlflow.MlflowClient(server.url)
    (experiment,) = [each for each in client.search_experiments() if each.name == "digits"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == notes["mlflow"]["id"]
    assert in_mlflow(client, found.info.run_id) == expected
    assert found.info.status == "FINISHED"
    assert found.data.params["train.steps"] == str(LAST)
    assert len(json.loads(found.data.tags["trainer.lineage"])) == KILLS + 1
    (version,) = client.search_model_versions("name='digits'")
    place = client.download_artifacts(found.info.run_id, f"checkpoints/step-{LAST:08d}", str(tmp_path))
    for path in (run_dir / "checkpoints" / f"step-{LAST:08d}").iterdir():
        assert (Path(place) / path.name).read_bytes() == path.read_bytes()
    assert version.run_id == found.info.run_id

    files = sorted((run_dir / "tracking" / "wandb").rglob("*.wandb"))
    assert in_wandb(files) == expected
    ids = {r.run.run_id for path in files for r in records(path) if r.WhichOneof("record_type") == "run"}
    assert ids == {notes["wandb"]["id"]}
    print(f"{KILLS} kills, {orphans} of the run alone; {len(expected)} points in {len(files)} files of W&B")


# a process that sends what is committed, and ends: killed, or as the run ends in the way that is given
TELLING = """
import os, pathlib, signal, sys
from trainer.config.schema.tracking import TrackingConfig
from trainer.monitoring.trackers import committed, feed, registry
place, how = pathlib.Path(sys.argv[1]), sys.argv[2]
found = committed.newest(place, finished=how == "finished")
telling = feed.Feed(place, "wandb", registry.maker_of("wandb"), "grid")
if how == "killed":
    telling.bring(found)
    os.kill(os.getpid(), signal.SIGKILL)
telling.finish(found, how, TrackingConfig(("wandb",), True, None, 1.0))
"""


def test_sessions_of_wandb_that_were_stopped_killed_and_finished_have_every_row_once(tmp_path: Path) -> None:
    directory = TrackedDirectory(tmp_path / "run")
    environment = os.environ | {"WANDB_MODE": "offline"}
    for number, how in enumerate(("stopped", "killed", "stopped", "killed", "killed", "finished")):
        directory.record(2 * number + 1)
        directory.record(2 * number + 2, "val", loss=float("nan"))
        directory.commit(2 * number + 2)
        process = subprocess.run([sys.executable, "-c", TELLING, directory.path, how], env=environment, check=False)
        assert process.returncode == (-signal.SIGKILL if how == "killed" else 0)
    files = sorted((directory.path / "tracking" / "wandb").rglob("*.wandb"))
    assert len(files) == 3
    assert in_wandb(files) == wanted(directory.path / "metrics.jsonl")
    told = [record for path in files for record in records(path)]
    assert {record.run.run_group for record in told if record.WhichOneof("record_type") == "run"} == {"grid"}
    assert [record.artifact.type for record in told if record.WhichOneof("record_type") == "artifact"] == ["model"]
