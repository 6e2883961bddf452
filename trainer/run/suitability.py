"""Whether the numbers of a configuration fit the data: what is refused, and what is worth a word at the start."""

from __future__ import annotations

from trainer.config.complete import total_steps
from trainer.config.schema import Config
from trainer.data.blank import blank_note
from trainer.data.opened import Sources
from trainer.data.several_pages import pages_note
from trainer.data.sources.sample import spread
from trainer.errors import UsageError
from trainer.training.class_metrics import MOST_SCORES

OUTPUTS_SHOWN = 5
LOOKED_AT = 16  # training images of a new run


def refuse_short_epochs(config: Config, examples_per_epoch: int) -> None:
    """Refuse a new run whose batch is larger than an epoch and whose length is given in epochs: its few steps are not
    what that number of epochs means. ``train.steps`` says a length that has a meaning, such as for a test that overfits
    one batch.

    Raises:
        UsageError: names both numbers, and the values that fit.
    """
    batch = config.train.global_batch_size
    if batch <= examples_per_epoch or config.train.steps is not None:
        return
    steps = total_steps(config, examples_per_epoch)
    raise UsageError(
        f"train.global_batch_size={batch} is more than an epoch, which has {examples_per_epoch} training images: "
        f"train.epochs={config.train.epochs:g} would be only {steps} step{'s' if steps > 1 else ''}\n"
        f"set train.global_batch_size={examples_per_epoch} or less, or give the length in steps: train.steps=N"
    )


def refuse_too_many_scores(config: Config, examples: int) -> None:
    """Refuse an AUROC that decides something and needs more scores than a process keeps.

    Raises:
        UsageError: names both numbers.
    """
    classes = config.model.num_classes
    assert classes is not None, "the configuration is complete"
    for key, metric in (
        ("checkpoint.best_metric", config.checkpoint.best_metric),
        ("early_stopping.metric", config.early_stopping.metric),
    ):
        if metric == "auroc" and examples * classes > MOST_SCORES:
            raise UsageError(
                f"{key}=auroc needs the scores of {examples} validation images for {classes} classes, and at most "
                f"{MOST_SCORES} numbers are kept\nset {key}=macro_f1, or data.validation_examples="
                f"{MOST_SCORES // classes} or less"
            )


def warnings(config: Config, data: Sources, *, new: bool) -> list[str]:
    """Lines about numbers that fit the data badly; of a run that is continued, about what still happens."""
    found = [batch_warning(config, data.sampling.examples_per_epoch)]
    if new:
        found.append(_nameless_outputs(config, len(data.training.class_names)))
        looked_at = list(spread(data.training, LOOKED_AT))
        found.append(blank_note(data.training, looked_at, config.preprocess))
        found.append(pages_note(data.training, looked_at))
    return [line for line in found if line is not None]


def batch_warning(config: Config, examples_per_epoch: int) -> str | None:
    """The warning about a batch that holds images more than once."""
    batch = config.train.global_batch_size
    if batch <= examples_per_epoch:
        return None
    return (
        f"train.global_batch_size={batch} is more than the {examples_per_epoch} training images, so each step shows "
        f"every image {batch / examples_per_epoch:.3g} times; train.global_batch_size={examples_per_epoch} shows each "
        "once"
    )


def _nameless_outputs(config: Config, classes: int) -> str | None:
    outputs = config.model.num_classes
    assert outputs is not None, "the configuration is complete"
    nameless = list(map(str, range(classes, outputs)))
    if not nameless:
        return None
    shown = nameless if len(nameless) <= OUTPUTS_SHOWN else [nameless[0], "…", nameless[-1]]
    which = f"output {shown[0]} has" if len(nameless) == 1 else f"outputs {', '.join(shown)} have"
    return (
        f"model.num_classes is {outputs}, but the data has {classes} classes: {which} no class and no image; "
        "leave it null to follow the data"
    )
