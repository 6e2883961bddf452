"""Refusing a run whose places overlap: its directory, its mirror, its data, and the weights that it starts from."""

from __future__ import annotations

import os
from pathlib import Path

from trainer.checkpoint.manifest import CHECKPOINTS
from trainer.config.parse import leaves
from trainer.config.schema import Config
from trainer.config.schema.sources import ImageFolderConfig
from trainer.config.urls import is_url
from trainer.data.sources.image_folder import TRAIN_FOLDER, VALIDATION_FOLDERS
from trainer.errors import UsageError
from trainer.run_directory import occupancy, places
from trainer.run_directory.mirror_place import Place


def refuse(run_dir: Path, config: Config, init_from: str | None) -> None:
    """Check the places of a run before anything is written.

    Raises:
        UsageError: places overlap, or ``run_dir`` holds foreign files.
    """
    places.refuse_in_checkpoint(run_dir, f"run_dir={run_dir}")
    refuse_mirror(run_dir, config)
    if init_from is not None:
        refuse_init_from(run_dir, init_from)
    if not occupancy.has_checkpoints(run_dir):
        refuse_for_new(run_dir, config)
        occupancy.refuse_foreign(run_dir)


def refuse_for_new(run_dir: Path, config: Config) -> None:
    """Refuse places that no new run may use. An existing run continues where it is.

    Raises:
        UsageError: names both places.
    """
    given = f"run_dir={run_dir}"
    places.refuse_nested(run_dir, given)
    local = _local_mirror(config)
    if local is not None:
        places.refuse_nested(local, f"checkpoint.mirror={config.checkpoint.mirror}")
    for key, value, facts in leaves(config):
        if not facts.path or not key.startswith("data.") or not isinstance(value, str) or is_url(value):
            continue
        if places.within(Path(value), run_dir):
            raise UsageError(
                f"{key}={value} lies in {given}: a run directory holds only the run\n"
                "choose a run_dir beside the data, or move the data"
            )
    if isinstance(config.data, ImageFolderConfig) and not is_url(config.data.root):
        _refuse_in_classes(run_dir, given, Path(config.data.root))


def refuse_mirror(run_dir: Path, config: Config) -> None:
    """Refuse a mirror that is the run directory, lies in it or contains it, because retention deletes files there.

    Raises:
        UsageError: names both places.
    """
    mirror, local = config.checkpoint.mirror, _local_mirror(config)
    if local is None:
        return
    if places.overlap(local, run_dir):
        one = places.within(local, run_dir) and places.within(run_dir, local)
        how = "is" if one else "lies in" if places.within(local, run_dir) else "contains"
        raise UsageError(
            f"checkpoint.mirror={mirror} {how} the run directory {run_dir}, so copies and originals would delete each "
            "other\ngive a place on another filesystem, or checkpoint.mirror=null"
        )
    places.refuse_in_checkpoint(local, f"checkpoint.mirror={mirror}")
    if isinstance(config.data, ImageFolderConfig) and not is_url(config.data.root):
        _refuse_in_classes(local, f"checkpoint.mirror={mirror}", Path(config.data.root))


def _local_mirror(config: Config) -> Path | None:
    """The directory of the mirror if it is on this machine, else None."""
    return None if config.checkpoint.mirror is None else Place(config.checkpoint.mirror).local


def refuse_init_from(run_dir: Path, init_from: str) -> None:
    """Refuse to start a run in the directory that its weights come from.

    Raises:
        UsageError: names both places.
    """
    source = Path(init_from)
    if (source.is_dir() and places.within(run_dir, source)) or places.within(source, run_dir / CHECKPOINTS):
        raise UsageError(
            f"init_from={init_from} and run_dir={run_dir} overlap: a run cannot start from its own directory\n"
            f"choose another run_dir, or continue that run with resume run_dir={run_dir}"
        )


def _refuse_in_classes(place: Path, given: str, root: Path) -> None:
    """Refuse a place that ``image_folder`` would list as a class, or as images of a class."""
    folders = {name for name in (TRAIN_FOLDER, *VALIDATION_FOLDERS) if os.path.isdir(root / name)}
    split = TRAIN_FOLDER in folders and len(folders) > 1
    for listed in [root / name for name in sorted(folders)] if split else [root]:
        if not places.within(place, listed):
            continue
        first = os.path.relpath(places.real(place), places.real(listed)).split(os.sep)[0]
        if not first.startswith(".") or first in (os.curdir, os.pardir):  # a hidden folder is not a class
            raise UsageError(
                f"{given} lies in {listed}, whose folders are the classes of data.root={root}: it would become one\n"
                "choose a place outside of the data"
            )
