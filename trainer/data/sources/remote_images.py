"""Images that are files of their own on another machine: each is read as the object that was listed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from trainer.config.contracts import Split
from trainer.data.remote.block_cache import taken
from trainer.data.remote.remote_path import RemoteFile, RemotePath
from trainer.data.remote.tree import RemoteTree, path_in
from trainer.data.sources.folders import AnyFolder, RemoteFolder
from trainer.data.sources.remote_files import as_it_fits, say_cost

Numbers = npt.NDArray[np.int64]


class RemoteFiles:
    """The files of a split below a folder of ``tree``, of ``sizes`` bytes, int64 ``[n]``. ``ahead`` is how many of them
    may be announced before they are read.
    """

    def __init__(self, tree: RemoteTree, below: str, sizes: Numbers, split: Split) -> None:
        self._tree, self._prefix = tree, f"{below}/".lstrip("/")
        total = int(taken(sizes).sum())
        self._root = as_it_fits(tree.root, total)
        self.ahead = self._root.pieces_ahead
        if split == "train":
            say_cost(self._root, total)

    def path(self, below: str) -> RemotePath:
        return path_in(self._tree, self._prefix + below, self._root)

    def expect(self, paths: Iterable[str]) -> None:
        """Files are read soon, in this order."""
        for each in paths:
            path = self.path(each)
            if path.found is not None and path.found.size:
                RemoteFile(path).expect(0, path.found.size)


def remote_files(folder: AnyFolder, sizes: Numbers, split: Split) -> RemoteFiles | None:
    """The files of a split below a folder; None where that is on this machine."""
    return RemoteFiles(folder.tree, folder.below, sizes, split) if isinstance(folder, RemoteFolder) else None
