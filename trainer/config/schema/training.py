"""Keys of the loop and of its devices: ``train``, ``divergence``, ``fine_tuning``, ``evaluation``, ``early_stopping``,
``checkpoint``, ``loss_scale`` and ``runtime``.
"""

from __future__ import annotations

import dataclasses
from typing import Final, Literal

from trainer.config.keys import key
from trainer.config.schema.bounds import LARGEST_BATCH

WeightsName = Literal["raw", "ema"]

AUTO: Final = "auto"

Metric = Literal["accuracy", "loss", "macro_f1", "balanced_accuracy", "auroc"]

Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    epochs: float = key("length of the run, used when steps is null", "free", above=0.0)
    steps: int | None = key("length of the run in optimizer steps; null: epochs", "free", minimum=0)
    global_batch_size: int = key(
        "examples per optimizer step, over all devices", "consent", minimum=1, maximum=LARGEST_BATCH
    )
    accumulate_steps: int = key(
        "parts a batch is computed in, to save memory", "consent", minimum=1, maximum=LARGEST_BATCH
    )
    logical_replicas: int | None = key(
        "equal shares of a batch, each computed by itself and added in a fixed order: the same bits on any number of "
        "devices that divides it; a power of two; null: a share for each device",
        "fixed",
        minimum=2,
        maximum=1024,
    )
    label_smoothing: float = key("share of the target spread over all classes", "consent", minimum=0.0, below=1.0)
    aux_weight: float = key("weight of the auxiliary classifier's loss", "consent", minimum=0.0)
    log_every_steps: int = key("steps per logged training record", "free", minimum=1)
    histograms_every_steps: int | None = key(
        "steps between histograms of all weights in TensorBoard; null: none", "free", minimum=1
    )
    on_divergence: Literal["stop", "rollback"] = key(
        "when the loss is not finite: stop; or restore the last checkpoint, leave the batch out and go on, also when "
        "loss or gradient norm are far from usual",
        "consent",
    )
    skip_examples: tuple[str, ...] = key(
        "ranges FIRST-LAST of examples, counted from 0 over all epochs, in whose place others are read; each rollback "
        "adds one",
        "consent",
        grows=True,
    )
    fast_dev_run: bool = key(
        "try a new run: two steps, a validation and a checkpoint, in a temporary directory; nothing is kept", "free"
    )


@dataclasses.dataclass(frozen=True)
class FineTuningConfig:
    freeze_until_step: int = key(
        "before this step only the classifiers are trained, and batch norm statistics stay; 0: never",
        "consent",
        minimum=0,
    )
    layer_decay: float = key(
        "factor of the learning rate for each block that a layer lies before the classifiers; 1: one rate for all",
        "consent",
        above=0.0,
        maximum=1.0,
    )
    freeze: tuple[str, ...] = key(
        "layers that stay as they are, batch norm statistics included, by patterns of their names: mixed_5*", "consent"
    )


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    every_epochs: float = key("cadence, used when every_steps is null", "free", above=0.0)
    every_steps: int | None = key("cadence in steps; null: every_epochs", "free", minimum=1, completed=True)
    batch_size: int = key(
        "examples per evaluation batch; does not change the result", "free", minimum=1, maximum=LARGEST_BATCH
    )
    weights: WeightsName = key("which weights are evaluated", "consent")


@dataclasses.dataclass(frozen=True)
class EarlyStoppingConfig:
    metric: Metric = key("validation metric that is watched", "consent")
    patience: int | None = key("evaluations without improvement before stopping; null: never", "consent", minimum=1)
    min_change: float = key("smallest change that counts as improvement", "consent", minimum=0.0)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    every_steps: int | Literal["auto"] = key(
        "cadence of checkpoints; auto: by time, from the measured cost of a save and of a start and "
        "mean_minutes_between_failures",
        "free",
        minimum=1,
    )
    mean_minutes_between_failures: float = key(
        "what every_steps=auto assumes; a run that fails more often reckons with what it has seen", "free", above=0.0
    )
    every_minutes: float | None = key(
        "also save when so many minutes have passed since the last save; null: by steps alone", "free", above=0.0
    )
    keep_last: int = key("how many of the newest are kept", "free", minimum=1)
    keep_best: int = key("how many of the best by best_metric are kept", "free", minimum=0)
    keep_every_steps: int | None = key("also keep those at multiples of this; null: none", "free", minimum=1)
    best_metric: Metric = key("validation metric that ranks checkpoints", "consent")
    async_save: bool = key("write in the background while training continues; the result is the same", "free")
    verify: Literal["full", "fast", "off"] = key(
        "what a resume checks: SHA-256 of every file; of all but the tensors' values; the manifest alone", "free"
    )
    on_error: Literal["continue", "stop"] = key(
        "when the disk refuses a save: try again at the next, three times in a row, or stop", "free"
    )
    mirror: str | None = key("URL (s3://…, gs://…) or absolute path to copy each checkpoint to; null: nowhere", "free")


@dataclasses.dataclass(frozen=True)
class DivergenceConfig:
    factor: float = key(
        "a step diverges when the logarithm of its loss or gradient norm is so many standard deviations above the mean",
        "consent",
        above=0.0,
    )
    window: int = key(
        "steps over which mean and deviation are taken; before, only what is not finite diverges", "consent", minimum=2
    )
    max_rollbacks: int = key(
        "entries of train.skip_examples with which a step that diverges ends the run", "free", minimum=0
    )
    learning_rate_factor: float = key(
        "factor of the learning rate from each entry of train.skip_examples on", "consent", above=0.0, maximum=1.0
    )


@dataclasses.dataclass(frozen=True)
class LossScaleConfig:
    initial: float = key("what a run starts with", "consent", minimum=1.0, maximum=2.0**100)
    growth_steps: int = key("steps with finite gradients after which the scale is doubled", "consent", minimum=1)


@dataclasses.dataclass(frozen=True)
class WatchdogConfig:
    """After how many seconds without progress a process hangs, by what it does (``trainer.run_directory.phases``)."""

    starting: float | None = key(
        "seconds without progress before the first step (opening data, building, restoring) that are a hang; null: any "
        "time may pass",
        "free",
        above=0.0,
    )
    tracing: float | None = key(
        "the same for the first step of a process, which is traced and compiled, and for steps before enough are known",
        "free",
        above=0.0,
    )
    training: float | None = key(
        "the same for a step; slow steps may take five times their median, and twice the longest of the last hundred",
        "free",
        above=0.0,
    )
    waiting: float | None = key(
        "the same for a wait for data, in which no record was read; the current step is committed", "free", above=0.0
    )
    validating: float | None = key("the same for a batch of a validation; slow ones as for steps", "free", above=0.0)
    saving: float | None = key(
        "the same for a save, in which no file was written, flushed or copied", "free", above=0.0
    )


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
    strategy: Literal["auto", "one", "mirrored", "multi_worker"] = key(
        "compute on one device, on all of this process, or on those of all processes that the environment "
        "names (TF_CONFIG, TRAINER_WORKERS, SkyPilot, Slurm); "
        "auto: whichever there are",
        "free",
    )
    device: Literal["auto", "gpu", "cpu"] = key(
        "gpu: compute on GPUs, and refuse a machine without one; cpu: leave GPUs alone; auto: GPUs where there are any",
        "free",
    )
    virtual_devices: int | None = key(
        "split the CPU, or the only GPU, into so many devices; null: leave it whole", "free", minimum=1, maximum=64
    )
    precision: Precision = key(
        "type of activations; variables, batch norm, classifiers and loss are float32 in each", "consent"
    )
    deterministic: bool = key("bit-exact from run to run, on the same kind of device", "consent")
    xla: bool = key("compile forward and backward pass with XLA", "consent")
    threads: int | None = key(
        "threads within an operation; null: the cores of the machine the run starts on",
        "consent",
        minimum=1,
        maximum=1024,
        completed=True,
    )
    watchdog: WatchdogConfig = key("when a process without progress hangs, and is ended", "free")
