"""Runs in MLflow. The server is the one that MLflow's own variables name (``MLFLOW_TRACKING_URI``).

A point that comes twice has the same metric, step, value and time, which are the primary key of MLflow's table of
metrics: the server keeps one. A run is found by a tag with the key that this program gave it, so a kill between
making it and noting its number leaves no second one.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trainer.config.contracts import How, Point, TrackedRun

# MLflow's client asks for many minutes by itself; the feed asks again anyway, and can say so
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
METRICS_AT_ONCE, FACTS_AT_ONCE = 1000, 100  # what a request may have
LONGEST_PARAM, LONGEST_TAG, LONGEST_KEY = 6000, 8000, 250
KEY, PARENT, NAME = "trainer.key", "mlflow.parentRunId", "mlflow.runName"
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
VERSION_TAG = "trainer.checkpoint"


class MLflow:
    def __init__(self) -> None:
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        import mlflow
        from mlflow import entities

        self._entities: Any = entities
        self._client: Any = mlflow.MlflowClient()
        self._id = ""

    def open(self, run: TrackedRun) -> str:
        tags = {**run.tags, **self._names(run)}
        found = self._found(run)
        if found is None:
            found = self._client.create_run(self._experiment(run), tags=tags)
        elif found.info.status != "RUNNING":
            self._client.update_run(found.info.run_id, status="RUNNING")
        self._id = str(found.info.run_id)
        self._tell(run, dict(found.data.params), tags)
        return self._id

    def send(self, points: Sequence[Point]) -> bool:
        for metrics in _pieces(self._metrics(points), METRICS_AT_ONCE):
            self._client.log_batch(self._id, metrics=metrics)
        return True

    def upload(self, checkpoint: Path, model: str | None) -> None:
        place = f"checkpoints/{checkpoint.name}"
        self._client.log_artifacts(self._id, str(checkpoint), place)
        if model is not None:
            self._register(model, checkpoint.name, place)

    def close(self, how: How | None) -> None:
        if how is not None:
            self._client.set_terminated(self._id, STATUS[how])

    def _names(self, run: TrackedRun) -> dict[str, str]:
        return {KEY: run.key, NAME: run.name, **({} if run.parent is None else {PARENT: run.parent})}

    def _found(self, run: TrackedRun) -> Any:
        """The run of this key, wherever it is; None where this server has none."""
        from mlflow.exceptions import MlflowException

        if run.id is not None:
            try:
                found = self._client.get_run(run.id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise RuntimeError(
                    f"this server has no run {run.id}, which the points were sent to: name the right server in "
                    "MLFLOW_TRACKING_URI, or move tracking/mlflow.json away, and all of them go to a new run"
                ) from error
            return found
        text = f"tags.`{KEY}` = '{run.key}'"
        there = self._client.search_runs([self._experiment(run)], filter_string=text, max_results=1)
        return there[0] if there else None

    def _experiment(self, run: TrackedRun) -> str:
        """The experiment that MLflow's own variables name, else the run's."""
        if "MLFLOW_EXPERIMENT_ID" in os.environ:
            return os.environ["MLFLOW_EXPERIMENT_ID"]
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", run.experiment)
        found = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if found is None else found.experiment_id)

    def _tell(self, run: TrackedRun, there: dict[str, str], tags: dict[str, str]) -> None:
        """Parameters and tags. A parameter of MLflow never changes, so a value that a resume changed is a tag."""
        params = {key: value[:LONGEST_PARAM] for key, value in run.params.items()}
        new = [self._entities.Param(key, value) for key, value in params.items() if key not in there]
        changed = {f"changed.{key}": value for key, value in params.items() if there.get(key, value) != value}
        told = [
            self._entities.RunTag(key[:LONGEST_KEY], value[:LONGEST_TAG]) for key, value in {**tags, **changed}.items()
        ]
        for piece in _pieces(new, FACTS_AT_ONCE):
            self._client.log_batch(self._id, params=piece)
        for piece in _pieces(told, FACTS_AT_ONCE):
            self._client.log_batch(self._id, tags=piece)

    def _metrics(self, points: Sequence[Point]) -> Iterator[Any]:
        for point in points:
            for name, value in point.values.items():
                yield self._entities.Metric(name, value, point.time, point.step)

    def _register(self, model: str, checkpoint: str, place: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        there = self._client.search_model_versions(f"name = '{model}' and run_id = '{self._id}'")
        if any(version.tags.get(VERSION_TAG) == checkpoint for version in there):
            return
        source = f"{self._client.get_run(self._id).info.artifact_uri}/{place}"
        self._client.create_model_version(model, source, self._id, tags={VERSION_TAG: checkpoint})


def _pieces(entries: Iterator[Any] | Sequence[Any], most: int) -> Iterator[list[Any]]:
    left = iter(entries)
    while piece := list(itertools.islice(left, most)):
        yield piece
