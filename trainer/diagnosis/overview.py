"""The contents of a checkpoint as plain values, to print or to write as JSON."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from trainer.checkpoint.verification import reading
from trainer.config.schema import Config
from trainer.config.schema.networks import InceptionV3Config
from trainer.diagnosis.own_checkpoint import OwnCheckpoint, foreign_files, open_own
from trainer.errors import NoValidCheckpoint, RestoreRefused
from trainer.interchange.contents import OURS, Contents, Kind
from trainer.interchange.findings import DAMAGE, Finding, Unusable, listed
from trainer.interchange.locate import locate
from trainer.interchange.origin import Origin, origin_config, origin_of
from trainer.interchange.readers import read_contents
from trainer.interchange.translation import translate
from trainer.storage.unreadable import readable


def overview(path: Path) -> dict[str, Any]:
    """Kind, origin, counts and tensors of the checkpoint at ``path``. ``own`` is None for a checkpoint of another
    program. For an export, ``origin`` is the checkpoint that it was made from.

    Raises:
        NoValidCheckpoint: it is missing, or so damaged that its tensors cannot be listed.
        Vanished: its run deleted it while it was being read.
        Unreadable: the system cannot read it now.
        RestoreRefused: it is of a kind that the trainer does not open.
    """
    try:
        with readable(path):
            located = locate(path)
        if located.kind is Kind.OWN:
            with reading(located.path):
                own = open_own(located.path)
                if own.contents is None:
                    raise NoValidCheckpoint(_text(own.findings[-1]))
                foreign = [] if own.manifest is None else foreign_files(located.path, own.manifest)
                return _facts(own.contents, located.path, [*located.findings, *own.findings, *foreign], own)
        return _facts(read_contents(located), located.path, list(located.findings), None)
    except Unusable as error:
        refusal = NoValidCheckpoint if error.finding.status == DAMAGE else RestoreRefused
        raise refusal(_text(error.finding)) from error


def _text(finding: Finding) -> str:
    return "\n".join((finding.title, *finding.details))


def _facts(contents: Contents, path: Path, findings: list[Finding], own: OwnCheckpoint | None) -> dict[str, Any]:
    translation = translate(contents)
    manifest = None if own is None else own.manifest
    origin = origin_of(contents)
    config = origin_config(contents) if own is None else own.config
    return {
        "path": str(path),
        "kind": contents.description,
        "names": translation.scheme if translation.weights else None,
        "remarks": [finding.title for finding in findings],
        "own": None
        if manifest is None
        else {
            "step": manifest.step,
            "examples": manifest.examples,
            "epoch": manifest.epoch,
            "validation": manifest.validation,
            "created": manifest.created,
            "classes": len(manifest.class_names),
            "git_commit": manifest.git_commit,
            "versions": manifest.versions,
            "starts": len(manifest.lineage),
        },
        "origin": None if origin is None else _origin(origin),
        "config": None if config is None else _config(config),
        "file": {name: text for name, text in contents.facts.items() if not name.startswith(OURS)},
        "optimizer": translation.optimizer,
        "parameters": sum(tensor.size for tensor in translation.variables.values()),
        "values": contents.parameters,
        "count": len(contents.tensors),
        "tensors": [
            {"name": tensor.label, "key": tensor.key, "dtype": tensor.dtype, "shape": list(tensor.shape)}
            for tensor in contents.tensors
        ],
    }


def _origin(origin: Origin) -> dict[str, Any]:
    return {**dataclasses.asdict(origin), "class_names": listed(origin.class_names)}


def _config(config: Config) -> dict[str, Any]:
    """The most informative keys of an experiment. The whole configuration is in the checkpoint, or in the export."""
    model = config.model
    inception = {}
    if isinstance(model, InceptionV3Config):
        inception = {
            "model.width": model.width,
            "model.min_depth": model.min_depth,
            "model.aux_logits": model.aux_logits,
        }
    return {
        "experiment": config.experiment,
        "seed": config.seed,
        "model": model.name,
        "model.num_classes": model.num_classes,
        **inception,
        "optimizer": config.optimizer.name,
        "schedule": config.schedule.name,
        "data": config.data.name,
        "preprocess.image_size": config.preprocess.image_size,
    }
