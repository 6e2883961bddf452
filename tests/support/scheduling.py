"""Which tests one worker of pytest runs together.

pytest-xdist has groups of its own (``--dist loadgroup``), which it writes into the names of tests; pytest 9 no longer
shows them to the process that hands out the tests. So the groups are found from the names alone.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

# Its tests share a fixture, which each worker would make; or they wait for most of their time, as those of Slurm do,
# and then another worker had better compute.
TOGETHER = re.compile(r'^@pytest\.fixture\(scope="module"|^pytestmark = .*pytest\.mark\.slurm', re.MULTILINE)


@functools.cache
def is_together(file: Path) -> bool:
    return TOGETHER.search(file.read_text()) is not None


class Scheduling(LoadScopeScheduling):
    """The tests of a file whose tests belong together go to one worker, every other test to the next that is free."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if is_together(self.config.rootpath / file) else nodeid
