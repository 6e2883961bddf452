"""Records that cannot be used: finding them, and what is read in their place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from trainer.data.sources.source import Source
from trainer.errors import BadRecord, UsageError

Numbers = npt.NDArray[np.int64]

MOST_ATTEMPTS = 100
LEFT_OUT = "; left out (data.on_bad_record=skip)"  # behind the reason


class BadRecords:
    """The bad records found so far. A cache of facts about the data, not state: losing it costs time and changes
    nothing.

    Whether an image can be decoded may depend on the part that is read. The position decides that part, so a record is
    bad at a position.
    """

    def __init__(self, source: Source, warn: Callable[[str], None]) -> None:
        self._source = source
        self._warn = warn
        self._positions: dict[int, set[int]] = defaultdict(set)  # record -> where it is bad
        self._last: BadRecord | None = None

    def note(self, position: int, record: int, error: BadRecord) -> None:
        """Remember that ``record`` cannot be used at ``position``; warn when it is the first time for this record."""
        if record not in self._positions:
            reason = str(error).splitlines()[0].rstrip(".")
            self._warn(f"{reason}{LEFT_OUT}")
        self._positions[record].add(position)
        self._last = error

    def usable(self, positions: Numbers, records: Numbers) -> npt.NDArray[np.bool_]:
        """Which of the records, bool ``[n]``, are not known to be bad at their positions."""
        if not self._positions:
            return np.ones(len(records), bool)
        pairs = zip(positions.tolist(), records.tolist(), strict=True)
        return np.array([position not in self._positions.get(record, ()) for position, record in pairs])

    def substituted(
        self,
        positions: Numbers,
        records: Numbers,
        passed_over: Numbers,
        substitute: Callable[[int, int], int],
        look_command: Callable[[], str],
    ) -> Numbers:
        """``records`` with the first of ``substitute(position, attempt)``, attempt 1, 2 …, in the place of bad ones.

        So many usable ones as ``passed_over`` says for a position (int64 ``[n]``) are left out as well: first the one
        that belongs there, then those that would take its place. One that comes twice counts once.

        A candidate may turn out to be bad; it is then noted, and this is called again. The final result does not depend
        on what was known before. ``look_command`` makes the command that reads every record.

        Raises:
            UsageError: ``MOST_ATTEMPTS`` candidates in a row are bad.
        """
        result = records.copy()
        usable = self.usable(positions, records)
        for index in np.flatnonzero(~usable | (passed_over > 0)):
            position = positions[index : index + 1]
            left_out = {int(records[index])} if usable[index] else set()
            for attempt in range(1, MOST_ATTEMPTS + 1):
                candidate = np.array([substitute(int(position[0]), attempt)], np.int64)
                if int(candidate[0]) in left_out or not self.usable(position, candidate)[0]:
                    continue
                if len(left_out) == passed_over[index]:
                    result[index] = candidate[0]
                    break
                left_out.add(int(candidate[0]))
            else:
                raise UsageError(self._nothing_left(int(position[0]), int(records[index]), look_command))
        return result

    def _nothing_left(self, position: int, record: int, look_command: Callable[[], str]) -> str:
        place = self._source.place(record)
        if self._last is None:
            return (
                f"train.skip_examples leaves nothing for example {position}: {MOST_ATTEMPTS} records in a row are left "
                f"out in the place of {place}"
            )
        return (
            f"{MOST_ATTEMPTS} records in a row cannot be used in the place of {place}\nthe last: {self._last}\n"
            f"this looks at all of them:\n  {look_command()}"
        )
