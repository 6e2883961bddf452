"""The whole configuration; its sections are in the modules of this package.

Every key has its type, allowed values, meaning, and what a resume may do with it, all in one place.

Values live in ``conf/*.yaml``; nothing here has a default, so a stored configuration is complete and keeps its
meaning when the defaults change.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from trainer.config.keys import key
from trainer.config.plugins import MODELS, OPTIMIZERS, SCHEDULES, SOURCES
from trainer.config.schema.networks import ModelConfig
from trainer.config.schema.optimization import EmaConfig, OptimizerConfig, ScheduleConfig
from trainer.config.schema.preprocessing import MixingConfig, PreprocessConfig
from trainer.config.schema.sources import DataConfig
from trainer.config.schema.tracking import TrackingConfig
from trainer.config.schema.training import (
    CheckpointConfig,
    DivergenceConfig,
    EarlyStoppingConfig,
    EvaluationConfig,
    FineTuningConfig,
    LossScaleConfig,
    RuntimeConfig,
    TrainConfig,
)


@dataclasses.dataclass(frozen=True)
class Config:
    experiment: str = key("name of the experiment", "free")
    seed: int = key("every random draw is a function of it", "consent", minimum=0, maximum=2**31 - 1)
    model: ModelConfig = key("the network", "fixed", plugins=MODELS)
    optimizer: OptimizerConfig = key("the update rule", "fixed", plugins=OPTIMIZERS)
    schedule: ScheduleConfig = key("the learning rate over time", "consent", plugins=SCHEDULES)
    ema: EmaConfig = key("exponential moving average of the weights", "fixed")
    data: DataConfig = key("where the images come from", "fixed", plugins=SOURCES)
    preprocess: PreprocessConfig = key("from an encoded image to the network's input", "consent")
    mixing: MixingConfig = key("blending of two neighbours in a training batch and of their labels", "consent")
    train: TrainConfig = key("the training loop", "consent")
    divergence: DivergenceConfig = key("what counts as divergence, and what follows from one", "consent")
    fine_tuning: FineTuningConfig = key("which parts of the network are trained, and when", "consent")
    loss_scale: LossScaleConfig = key("factor of the loss, for gradients in mixed_float16", "consent")
    evaluation: EvaluationConfig = key("validation during training", "consent")
    early_stopping: EarlyStoppingConfig = key("stop when validation no longer improves", "consent")
    checkpoint: CheckpointConfig = key("when checkpoints are written and which are kept", "free")
    runtime: RuntimeConfig = key("how the computation is executed", "consent")
    tracking: TrackingConfig = key("trackers of experiments, such as MLflow, that are told of the run", "free")
    profile: tuple[int, ...] | None = key(
        "first and last step that TensorFlow's profiler records; null: none", "free", minimum=1, length=2
    )


@dataclasses.dataclass(frozen=True)
class Invocation:
    """What belongs to one command line and not to the experiment; never stored."""

    run_dir: str = key("where the run lives", "free")
    on_existing: Literal["fail", "resume", "restart"] = key(
        "what train does in a directory that has a run: refuse, continue it, keep it aside and begin again", "free"
    )
    init_from: str | None = key("checkpoint whose weights a new run starts from; null: none", "free")
    allow: tuple[str, ...] = key("changes that a resume may make although they change the result", "free")
