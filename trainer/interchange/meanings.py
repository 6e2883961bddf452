"""What a name in a file means in this trainer's terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal, Protocol


@dataclasses.dataclass(frozen=True)
class Meaning:
    """``name`` is the model's variable, as in the state tree below ``model/``, for every role but ``counter``.

    A ``shadow`` is its moving average; a ``slot`` belongs to an optimizer, and ``slot`` is called as the file does.
    """

    role: Literal["variable", "shadow", "slot", "counter"]
    name: str
    slot: str = ""


class NamingScheme(Protocol):
    """One way in which a program names the variables of Inception V3: a module with these names."""

    @property
    def TITLE(self) -> str:  # noqa: N802
        """The program, as a person calls it."""

    @property
    def OPTIMIZERS(self) -> Mapping[frozenset[str], str]:  # noqa: N802
        """The slots of an optimizer, as this scheme calls them → its name in ``conf/optimizer``."""

    def meanings(self, labels: Iterable[str]) -> dict[str, Meaning]:
        """The meaning of each label that has one; all labels are needed because some schemes number relatively."""
