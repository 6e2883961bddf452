"""Lack of memory on the machine or under a limit: which errors mean it, and the message for them."""

from __future__ import annotations

import errno
import resource
import sys
from collections.abc import Iterator

from trainer.errors import UsageError

# With less address space TensorFlow 2.21 does not train the smallest network with two threads: it did with 3.8 GiB.
# With 2.4, 1.5 and 0.8 GiB it ended with SIGSEGV, with SIGABRT and in the loader. Nothing can catch the first two.
LEAST_ADDRESS_SPACE = 3 << 30  # bytes

NO_MAPPING = ("failed to map segment", "cannot allocate memory")  # of the dynamic loader, in an ImportError
NO_THREAD = "can't start new thread"  # of Python, in a RuntimeError


def refuse_small_limit() -> None:
    """Refuse a limit on the address space that is too small for any training.

    Raises:
        UsageError: names the limit.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE and "tensorflow" not in sys.modules:
        raise UsageError(
            f"this process may map {_size(limit)} of address space (ulimit -v), and TensorFlow does not train "
            f"in less than {_size(LEAST_ADDRESS_SPACE)}\n"
            "lift it with: ulimit -v unlimited; to limit a job, limit its memory (cgroup, --mem) instead"
        )


def shortage(error: BaseException) -> UsageError | None:
    """The error to show instead of one that means a lack of memory or threads; None for any other."""
    if not any(_is_shortage(each) for each in _chain(error)):
        return None
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
    limits = ((resource.RLIMIT_AS, "ulimit -v"), (resource.RLIMIT_DATA, "ulimit -d"))
    there = [
        f"{name}: {_size(limit)}"
        for kind, name in limits
        if (limit := resource.getrlimit(kind)[0]) != resource.RLIM_INFINITY
    ]
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if processes != resource.RLIM_INFINITY:
        there.append(f"ulimit -u: {processes} processes and threads")
    return UsageError(
        f"there is not enough memory, or no thread: {type(error).__name__}: {reason}\n"
        f"limits of this process: {', '.join(there) or 'none but those of the machine and its container'}\n"
        "allow more, or take less: evaluation.batch_size and runtime.threads may be lowered on resume, and "
        "train.accumulate_steps raised in a new run; what was committed is untouched"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def _is_shortage(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, ImportError):
        return any(text in str(error).lower() for text in NO_MAPPING)
    if isinstance(error, RuntimeError):
        return NO_THREAD in str(error)
    kind = type(error)  # TensorFlow's error for it, by its name: most commands do not import TensorFlow
    of_tensorflow = kind.__name__ == "ResourceExhaustedError" and kind.__module__.startswith("tensorflow")
    return isinstance(error, MemoryError) or of_tensorflow


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"
