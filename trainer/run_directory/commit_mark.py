"""Whether a run has ever committed a checkpoint: ``.committed``, in the run directory itself.

A run directory can lack checkpoints for two reasons. The run was killed before its first checkpoint: it may begin again
at step 0. Or the checkpoints were lost (a volume that is not mounted, a deleted directory): it must not. The other
files of the run look alike in both cases. So a run writes "no" here before it writes anything else, and "yes" after
its first commit.

The argument. "yes" is written after the checkpoint is durable. A crash between the two leaves the checkpoint, and the
next start, which continues from it, writes "yes" before it trains. Only a crash there *and* the loss of that checkpoint
before the next start would go unnoticed. Suppose "yes" were written before the commit: a crash between the two would
leave a run that has nothing and refuses to begin, and every loop of requeued jobs that meets it would end. A directory
without the mark was written by a version that had no mark. Nothing is known about it, so no run begins there unasked.
"""

from __future__ import annotations

from pathlib import Path

from trainer.storage.durable import replace
from trainer.storage.guarded import read_text
from trainer.storage.unacceptable import Unacceptable

FILE_NAME = ".committed"
NO, YES = "no\n", "yes\n"


def read(run_dir: Path) -> bool | None:
    """Whether a checkpoint was ever committed in ``run_dir``; None when there is no readable mark."""
    try:
        text = read_text(run_dir / FILE_NAME, len(YES))
    except (OSError, Unacceptable):
        return None
    return {NO: False, YES: True}.get(text)


def write(run_dir: Path, committed: bool) -> None:
    """Write the mark durably. A mark that already says the same is left alone.

    Raises:
        OSError: the mark cannot be written.
    """
    if read(run_dir) is not committed:
        replace(run_dir / FILE_NAME, (YES if committed else NO).encode())
