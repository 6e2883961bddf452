"""Which reads of data are going on: for a message about one that does not end, as on a filesystem that stalls."""

from __future__ import annotations

from trainer.storage.going_on import GoingOn

READS = GoingOn()
reading = READS.doing  # the block reads what its argument names
longest = READS.longest
