"""What Kubernetes' controller of an Indexed Job does with the pods of a manifest, for real processes on this machine.

Its rules are those of the documentation of Jobs: a pod that has failed is judged by the first rule of the pod failure
policy that matches; ``Ignore`` replaces it, ``FailJob`` ends the job, and anything else counts against the index's
``backoffLimitPerIndex``. A deleted pod receives SIGTERM; a pod whose node is gone is not asked, and has the condition
DisruptionTarget.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

from processes import Process, Trainer
from worker_processes import free_ports


def action(rules: Sequence[dict[str, Any]], status: int | None, conditions: set[str]) -> str:
    """What the rules say of a pod that has failed; ``Count`` where none matches."""
    for rule in rules:
        if any(pattern["type"] in conditions for pattern in rule.get("onPodConditions", [])):
            return str(rule["action"])
        codes = rule.get("onExitCodes")
        if codes is not None and (status in codes["values"]) == (codes["operator"] == "In"):
            return str(rule["action"])
    return "Count"


class Job:
    """The pods of a job; ``spec`` is the spec of an Indexed Job with the arguments of ``python -m trainer``."""

    def __init__(self, trainer: Trainer, spec: dict[str, Any], arguments: Sequence[str]) -> None:
        self._trainer, self._spec, self._arguments = trainer, spec, arguments
        self._addresses = ",".join(f"127.0.0.1:{port}" for port in free_ports(spec["completions"]))
        self._gone: set[int] = set()  # pods whose node is gone
        self.pods = {index: self._start(index) for index in range(spec["completions"])}
        self.succeeded: set[int] = set()
        self.failures = dict.fromkeys(self.pods, 0)
        self.seen: list[tuple[int, int, str]] = []  # index, status and action of every pod that has failed

    @property
    def done(self) -> bool:
        rules = self._spec.get("successPolicy", {"rules": []})["rules"]
        enough = any(str(index) == rule["succeededIndexes"] for rule in rules for index in self.succeeded)
        return enough or len(self.succeeded) == len(self.pods)

    def delete(self, index: int, *, asked: bool) -> None:
        """Delete a pod: ``asked`` as by kubectl delete or a drained node, else its node is gone."""
        if asked:
            self.pods[index].signal(signal.SIGTERM)
        elif self.pods[index].running:
            self._gone.add(index)
            self.pods[index].signal_group(signal.SIGKILL)

    def reconcile(self) -> None:
        """Look at every pod once, and replace those that have failed.

        Raises:
            AssertionError: the job has failed.
        """
        for index, pod in self.pods.items():
            if pod.running or index in self.succeeded:
                continue
            status = pod.wait()
            if status == 0:
                self.succeeded.add(index)
                continue
            conditions = {"DisruptionTarget"} if index in self._gone else set()
            self._gone.discard(index)
            chosen = action(self._spec["podFailurePolicy"]["rules"], status % 256, conditions)
            self.seen.append((index, status, chosen))
            assert chosen != "FailJob", f"pod {index} ended with {status}:\n{pod.output}"
            self.failures[index] += chosen == "Count"
            assert self.failures[index] <= self._spec["backoffLimitPerIndex"], f"index {index} failed:\n{pod.output}"
            self.pods[index] = self._start(index)

    def end(self) -> None:
        """The job is complete: Kubernetes ends what still runs."""
        for pod in self.pods.values():
            pod.signal(signal.SIGTERM)
            pod.wait()

    def _start(self, index: int) -> Process:
        return self._trainer.start(*self._arguments, TRAINER_WORKERS=self._addresses, JOB_COMPLETION_INDEX=str(index))
