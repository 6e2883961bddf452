"""The data of a run, opened: both splits, and which training records a run reads."""

from __future__ import annotations

import dataclasses

from trainer.config.schema import Config
from trainer.data.order.sampling import Sampling
from trainer.data.sources.source import Source, open_source


@dataclasses.dataclass(frozen=True)
class Sources:
    """Both splits of the data, and which training records a run reads."""

    training: Source
    validation: Source
    sampling: Sampling


def open_sources(config: Config) -> Sources:
    training = open_source(config.data, "train")
    return Sources(training, open_source(config.data, "validation"), Sampling(training, config))
