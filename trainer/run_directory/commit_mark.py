"""Whether a run has ever committed a checkpoint: ``.committed``, in the run directory itself.

A run directory without a checkpoint is either one whose run was killed before its first, and begins again at step 0,
or one that has lost its checkpoints (a volume that is not mounted, a deleted directory), and must not. The files of the
run look alike in both. So a run writes "no" here before it writes anything else, and "yes" after its first commit.

The argument. "yes" comes after the checkpoint is durable: a crash between the two leaves the checkpoint, and the next
start, which continues from it, writes "yes" before it trains. Only a crash there *and* the loss of that checkpoint
before the next start would go unnoticed. Written before the commit, a crash between the two would leave a run that
has nothing and refuses to begin, and would end every loop of requeued jobs that meets it. A directory without the
mark is of a version that wrote none: nothing is known, and nothing is begun there unasked.
"""

from __future__ import annotations

from pathlib import Path

from trainer.storage.durable import replace
from trainer.storage.guarded import read_text
from trainer.storage.unacceptable import Unacceptable

FILE_NAME = ".committed"
NO, YES = "no\n", "yes\n"


def read(run_dir: Path) -> bool | None:
    """Whether a checkpoint was ever committed in ``run_dir``; None when nothing says so."""
    try:
        text = read_text(run_dir / FILE_NAME, len(YES))
    except (OSError, Unacceptable):
        return None
    return {NO: False, YES: True}.get(text)


def write(run_dir: Path, committed: bool) -> None:
    """Note it durably; a note that says the same is left alone.

    Raises:
        OSError: the disk refuses.
    """
    if read(run_dir) is not committed:
        replace(run_dir / FILE_NAME, (YES if committed else NO).encode())
