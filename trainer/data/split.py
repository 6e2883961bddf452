"""The two parts of every data set, and how many of a part's records are used."""

from __future__ import annotations

from typing import Literal

from trainer.config.schema import DataConfig
from trainer.errors import UsageError

Split = Literal["train", "validation"]


def used_examples(config: DataConfig, split: Split, found: int, what: str) -> int:
    """How many of the ``found`` records of a split are used: ``data.<split>_examples``, or all when it is null.

    Raises:
        UsageError: more are wanted than ``what`` has.
    """
    wanted = config.train_examples if split == "train" else config.validation_examples
    if wanted is not None and wanted > found:
        raise UsageError(f"data.{split}_examples is {wanted}, but {what} have {found} in {split}")
    return found if wanted is None else wanted
