"""A process that ends before it meets the others of its run tells them, so that they do not wait for it.

This takes no TensorFlow: a wrong configuration ends a process before that is imported.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence

from trainer.distributed.addresses import Cluster
from trainer.distributed.cluster import discover
from trainer.distributed.meeting import decline
from trainer.errors import TrainerError, UsageError
from trainer.runtime.shortage import shortage
from trainer.runtime.signals import StopRequest

SHARING = ("auto", "multi_worker")  # strategies under which processes share a run
STRATEGY = "runtime.strategy="


@contextlib.contextmanager
def expected(arguments: Sequence[str], stop: StopRequest) -> Iterator[Callable[[], None]]:
    """While the block runs, and until it calls what it is given, the others of the run wait for this process: an error
    that ends it is told to them, and all end with one status. ``arguments`` are those of the command.
    """
    arrived = False

    def arrive() -> None:
        nonlocal arrived
        arrived = True

    try:
        yield arrive
    except TrainerError as error:
        if not arrived:
            error.exit_status = _told(arguments, error.exit_status, str(error), stop)
        raise
    except SystemExit as ended:  # of the parser of arguments
        if not arrived and isinstance(ended.code, int) and ended.code != 0:
            ended.code = _told(arguments, ended.code, "its command line cannot be understood", stop)
        raise
    except Exception as error:
        if not arrived:
            lack = shortage(error)
            reason = f"{type(error).__name__}: {error}" if lack is None else str(lack)
            _told(arguments, 1 if lack is None else lack.exit_status, reason, stop)
        raise


def _told(arguments: Sequence[str], status: int, reason: str, stop: StopRequest) -> int:
    """Tell the others of the run, if there are any. Returns the exit status that decides for all."""
    cluster = _cluster(arguments)
    return status if cluster is None else decline(cluster, status, reason, lambda: stop.signal is not None)


def _cluster(arguments: Sequence[str]) -> Cluster | None:
    strategy = next((text.removeprefix(STRATEGY) for text in reversed(arguments) if text.startswith(STRATEGY)), "auto")
    if strategy not in SHARING:
        return None
    try:
        return discover(os.environ)
    except UsageError:  # the variables do not say where the others are
        return None
