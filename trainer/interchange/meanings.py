"""The meaning of a name in a file, in this trainer's terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, Protocol


@dataclasses.dataclass(frozen=True)
class Meaning:
    """``name`` is the model's variable, as in the state tree below ``model/``, for every role but ``counter``.

    The role ``shadow`` means its moving average. The role ``slot`` means its slot of an optimizer, and ``slot`` is the
    file's name for that slot.
    """

    role: Literal["variable", "shadow", "slot", "counter"]
    name: str
    slot: str = ""


class NamingScheme(Protocol):
    """One way in which a program names the variables of Inception V3: a module with these names."""

    @property
    def TITLE(self) -> str:  # noqa: N802
        """The program's name for people."""

    @property
    def OPTIMIZERS(self) -> Mapping[frozenset[str], str]:  # noqa: N802
        """The slots of an optimizer, in this scheme's names → its name in ``conf/optimizer``."""

    def meanings(self, labels: Mapping[str, tuple[int, ...]]) -> dict[str, Meaning]:
        """The meaning of each label that has one. Pass all labels with the shapes of their tensors, because some
        schemes number relatively.
        """
