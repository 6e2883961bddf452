"""The directory of a data set that tensorflow-datasets has prepared, here or in a bucket.

What describes a data set are small files of text, which tensorflow-datasets reads from a directory of this machine. Of
a bucket they are copied into one that is gone when the data set has been opened. Its records stay where they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.config.contracts import Split
from trainer.config.schema.sources import TFDSConfig
from trainer.config.urls import is_url
from trainer.data.remote.tree import RemoteTree, path_in, tree_of
from trainer.data.sources.open_files import AnyPath, AnyRoot
from trainer.errors import UsageError

DESCRIBING = (".json", ".txt")  # dataset_info.json, features.json, label.labels.txt


@dataclasses.dataclass(frozen=True)
class PreparedDirectory:
    """``data.root`` as tensorflow-datasets reads it: a ``directory`` of this machine. ``tree`` is what it is a copy of,
    None where it is ``data.root`` itself.
    """

    directory: Path
    tree: RemoteTree | None

    @property
    def is_remote(self) -> bool:
        return self.tree is not None

    def root(self, data_dir: str) -> AnyRoot:
        """What the files of a data set in ``data_dir`` are below: that itself, or the folder of another machine."""
        return Path(data_dir) if self.tree is None else self.tree.root

    def folders(self) -> list[str]:
        """The names of the folders in it, sorted."""
        if self.tree is not None:
            return list(self.tree.folder("").folders)
        return sorted(path.name for path in self.directory.iterdir() if path.is_dir())

    def shown(self, place: object) -> str:
        """A place in ``directory``, as it is where the records are."""
        return str(place) if self.tree is None else str(place).replace(str(self.directory), str(self.tree.root), 1)

    def files(self, paths: Sequence[Path]) -> list[AnyPath]:
        """Files of ``directory``, where the records are."""
        tree = self.tree
        if tree is None:
            return list(paths)
        return [path_in(tree, path.relative_to(self.directory).as_posix(), tree.root) for path in paths]


@contextlib.contextmanager
def prepared_directory(config: TFDSConfig, split: Split) -> Iterator[PreparedDirectory]:
    """``data.root``, for as long as the data set is opened.

    Raises:
        UsageError: there is no way to its machine, or what describes the data set cannot be read.
    """
    if not is_url(config.root):
        yield PreparedDirectory(Path(config.root), None)
        return
    tree = tree_of(config.root, config.disk_cache_gigabytes, split)
    name = config.dataset.partition("/")[0].partition(":")[0]
    with tempfile.TemporaryDirectory(prefix="trainer-tfds-") as directory:
        if name in tree.folder("").folders:
            _copy_description(tree, name, Path(directory))
        yield PreparedDirectory(Path(directory), tree)


def _copy_description(tree: RemoteTree, name: str, directory: Path) -> None:
    tree.list_below([name], lambda _: False)
    waiting = [name]
    while waiting:
        below = waiting.pop()
        there = tree.folder(below)
        waiting += [f"{below}/{each}" for each in there.folders]
        for each in (each for each in there.files if each.endswith(DESCRIBING)):
            path = path_in(tree, f"{below}/{each}", tree.root)
            place = directory / below / each
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                place.write_bytes(path.read_bytes())
            except OSError as error:
                raise UsageError(f"{path} cannot be read: {error.strerror}") from error
