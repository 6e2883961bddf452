"""The key that is meant by a name that no key has: the names that other programs use, then the most similar key."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence

from trainer.errors import nearest

# What people type who come from Keras, PyTorch Lightning, timm, Hugging Face or a shell script of their own.
SYNONYMS = {
    "optimizer.learning_rate": ("lr", "learning_rate", "base_lr", "max_lr", "eta"),
    "optimizer": ("opt", "optim"),
    "optimizer.clip_norm": ("clip", "clip_grad", "grad_clip", "clipnorm", "max_grad_norm", "gradient_clip_val"),
    "model.weight_decay": ("wd", "weight_decay", "l2"),
    "model.num_classes": ("num_classes", "n_classes", "nb_classes", "num_labels"),
    "model": ("arch", "architecture", "backbone", "network", "net", "model_name"),
    "train.global_batch_size": ("batch_size", "batch", "bs", "train_batch_size", "per_device_train_batch_size"),
    "train.epochs": ("epochs", "epoch", "num_epochs", "n_epochs", "max_epochs", "num_train_epochs"),
    "train.steps": ("steps", "max_steps", "num_steps", "total_steps", "iterations", "iters"),
    "train.accumulate_steps": ("accumulate", "grad_accum", "grad_accum_steps", "gradient_accumulation_steps"),
    "train.label_smoothing": ("smoothing",),
    "train.log_every_steps": ("log_every", "log_interval", "log_every_n_steps", "logging_steps", "print_freq"),
    "fine_tuning.layer_decay": ("layer_decay", "layerwise_lr_decay", "llrd", "layer_lr_decay"),
    "fine_tuning.freeze": ("freeze", "freeze_layers", "frozen_layers"),
    "schedule": ("scheduler", "sched", "lr_scheduler", "lr_schedule"),
    "schedule.warmup_epochs": ("warmup", "warmup_epochs"),
    "schedule.warmup_steps": ("warmup_steps", "num_warmup_steps"),
    "data.root": ("path", "dir", "data_dir", "data_path", "data_root", "dataset", "folder", "root", "train_dir"),
    "preprocess.image_size": ("img_size", "image_size", "input_size", "size", "resolution", "imgsz", "img"),
    "evaluation.batch_size": ("val_batch_size", "eval_batch_size", "per_device_eval_batch_size"),
    "evaluation.every_epochs": ("eval_every", "val_every", "val_interval", "check_val_every_n_epoch"),
    "early_stopping.patience": ("patience",),
    "ema.decay": ("model_ema", "ema_decay"),
    "checkpoint.every_steps": ("save_every", "save_steps", "save_freq", "save_interval"),
    "checkpoint.keep_last": ("keep", "max_to_keep", "save_total_limit"),
    "on_existing": ("resume", "overwrite", "exist_ok", "resume_from_checkpoint"),
    "run_dir": ("output_dir", "out_dir", "out", "output", "logdir", "log_dir", "save_dir", "workdir", "project"),
    "init_from": ("pretrained", "weights", "load", "ckpt", "checkpoint_path", "pretrained_weights"),
    "runtime.strategy": ("devices", "gpus", "strategy", "distribute"),
    "runtime.device": ("device", "gpu", "accelerator", "cuda"),
    "train.fast_dev_run": ("fast_dev_run", "dry_run", "smoke_test"),
    "runtime.precision": ("precision", "amp", "fp16", "bf16", "dtype", "mixed_precision"),
    "runtime.threads": ("workers", "num_workers", "threads", "jobs", "j"),
    "runtime.xla": ("xla", "compile", "jit", "jit_compile"),
}
_KEYS = {name: key for key, names in SYNONYMS.items() for name in names}
# Hydra's own options, which train passes on; a test compares them with Hydra's parser.
HYDRA_OPTIONS = (
    *("--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun"),
    *("--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun", "--info"),
)
HYDRA_SHORT_OPTIONS = ("-h", "-c", "-p", "-r", "-m", "-sc", "-cp", "-cn", "-cd", "-i")


def key_meant(name: str, known: Collection[str]) -> str | None:
    """The key that other programs call ``name``, whatever section is written before it; None where there is none."""
    leaf = name.lstrip("-").rpartition(".")[2].replace("-", "_").lower()
    key = _KEYS.get(leaf)
    return key if key in known and key != name else None


def hint(name: str, known: Collection[str]) -> str:
    """``"; did you mean KEY?"``, or an empty text."""
    key = key_meant(name, known)
    return nearest(name, known) if key is None else f"; did you mean {key}?"


def unknown_option(arguments: Sequence[str]) -> int | None:
    """The place of the first argument with dashes that is no option of Hydra's; None where there is none. Hydra takes
    the beginnings of its long options, and values right behind its short ones.
    """
    for place, argument in enumerate(arguments):
        name = argument.partition("=")[0]
        long = name.startswith("--") and any(option.startswith(name) for option in HYDRA_OPTIONS)
        short = not name.startswith("--") and name.startswith(HYDRA_SHORT_OPTIONS)
        if name.startswith("-") and not long and not short:
            return place
    return None


def without_dashes(arguments: Sequence[str], place: int, known: Collection[str]) -> str:
    """The message about an option that does not exist: the assignment that is meant."""
    name, _, value = arguments[place].partition("=")
    if not value and place + 1 < len(arguments) and "=" not in arguments[place + 1]:
        value = arguments[place + 1]
    bare = name.lstrip("-").replace("-", "_")
    key = bare if bare in known else key_meant(bare, known)
    meant = hint(bare, known) if key is None else f": {key}={shlex.quote(value) if value else '…'}"
    return f"there is no option {name}; keys have no dashes{meant}"
