"""``doctor``: whether a checkpoint would restore into a model, and if not, why."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.commands.arguments import take_text
from trainer.commands.newest import read_newest
from trainer.commands.wrapping import wrapped
from trainer.config.arguments import parse_arguments
from trainer.config.schema.networks import InceptionV3Config
from trainer.diagnosis.wanted import check_overrides
from trainer.errors import NoValidCheckpoint, RestoreRefused
from trainer.runtime.importing import importing_tensorflow

if TYPE_CHECKING:
    from trainer.diagnosis.doctor import Diagnosis

HELP = f"""Say whether a checkpoint, of this trainer or of another program, would restore into a model, and if not, why.

  python -m trainer doctor checkpoint=PATH [model=… optimizer=… key=value …]

PATH is a checkpoint or run directory, the prefix of a TensorFlow checkpoint, or a .weights.h5, .keras, .h5 or
.safetensors file. A checkpoint of this trainer is compared with the config.yaml stored in it, any other file with the
default configuration; overrides are applied to either. Nothing is written, and nothing in the file is executed. Exit
status 0 when it would restore as it is, {RestoreRefused.exit_status} when it does not match or needs a conversion,
{NoValidCheckpoint.exit_status} when it is damaged or missing."""


def main(arguments: Sequence[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(wrapped(HELP))
        return 0
    path = Path(take_text(parse_arguments(arguments), "checkpoint", "doctor"))
    overrides = [argument for argument in arguments if not argument.startswith("checkpoint=")]
    check_overrides(path, overrides)
    with importing_tensorflow():
        from trainer.diagnosis.doctor import diagnose  # imports TensorFlow, which is slow
        from trainer.runtime.execution import leave_gpus_alone

        leave_gpus_alone()

    diagnosis = read_newest(lambda: diagnose(path, overrides), path)
    for line in _report(diagnosis):
        print(line)
    return diagnosis.status


def _report(diagnosis: Diagnosis) -> list[str]:
    lines = [f"checkpoint  {diagnosis.path}", f"            {diagnosis.description}"]
    if diagnosis.config is not None:
        model, optimizer = diagnosis.config.model, diagnosis.config.optimizer
        size = ""
        if isinstance(model, InceptionV3Config):
            size = f"width={model.width:g} min_depth={model.min_depth} aux_logits={str(model.aux_logits).lower()} "
        lines += [
            f"model       {diagnosis.model}",
            f"            {model.name} {size}num_classes={model.num_classes} "
            f"image_size={diagnosis.config.preprocess.image_size} optimizer={optimizer.name}",
        ]
    causes = [finding for finding in diagnosis.findings if finding.status]
    verdicts = {0: "would restore as it is", RestoreRefused.exit_status: "would not restore"}
    verdict = verdicts[diagnosis.status] if diagnosis.status in verdicts else "damaged or missing"
    count = f": {len(causes)} cause{'s' if len(causes) > 1 else ''}" if causes else ""
    lines += [f"verdict     {verdict}{count}", ""]
    for finding in sorted(diagnosis.findings, key=lambda finding: -finding.status):
        lines += [f"{'- ' if finding.status else 'note: '}{finding.lines()[0]}"]
        lines += [f"  {detail}" for detail in finding.lines()[1:]]
        lines += [f"    to fit it: {shlex.join(finding.overrides)}"] if finding.overrides else []
    return [*lines, *([""] if diagnosis.findings else []), f"next: {diagnosis.next_command}"]
