"""The folders below a root on another machine: each is listed once, and the state of every file in it is known then.

A file takes its name, its size and its version in memory: 142 MB for a million of a thousand classes.
"""

from __future__ import annotations

import bisect
import weakref
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

from trainer.config.contracts import Split
from trainer.data.reads import READS
from trainer.data.remote.bucket import CONCURRENT_QUESTIONS, Listing, State, patiently
from trainer.data.remote.fetching import BLOCK
from trainer.data.remote.remote_path import RemoteFile, RemotePath, RemoteRoot, remote_root
from trainer.errors import UsageError

ASKED = 1000  # files that are asked for one by one: more of them are found sooner in the lists of their folders

_LISTED: weakref.WeakValueDictionary[tuple[str, float], RemoteTree] = weakref.WeakValueDictionary()


class Folder:
    """The names of the ``folders`` and ``files`` in a folder, sorted, and the states of the files."""

    def __init__(self, files: Mapping[str, State], folders: Iterable[str]) -> None:
        self.folders = tuple(sorted(folders))
        self.files = tuple(sorted(files))
        self.sizes = array("q", (files[name].size for name in self.files))
        self._versions, self._ends = bytearray(), array("q", [0])
        for name in self.files:
            self._versions += files[name].version.encode()
            self._ends.append(len(self._versions))

    def state(self, name: str) -> State | None:
        """The state of a file; None where there is none of that name."""
        place = bisect.bisect_left(self.files, name)
        if place == len(self.files) or self.files[place] != name:
            return None
        return State(self.sizes[place], self._versions[self._ends[place] : self._ends[place + 1]].decode())


class RemoteTree:
    """The folders below ``root``, as they are when they are looked at first. Paths are relative to it."""

    def __init__(self, root: RemoteRoot) -> None:
        self.root = root
        self._folders: dict[str, Folder] = {}
        self._asked: dict[str, State | None] = {}  # files that were asked for by name

    def folder(self, below: str) -> Folder:
        """
        Raises:
            UsageError: it does not exist, cannot be listed, or a file in it does not say of which version it is.
        """
        found = self._folders.get(below)
        if found is None:
            there = self.root.bucket.listing(below)
            if there is None:
                raise UsageError(f"{self.root}{f'/{below}' if below else ''} does not exist")
            found = self._folders[below] = self._known(below, there)
        return found

    def list_below(self, folders: Iterable[str], leaves: Callable[[str], bool]) -> None:
        """List ``folders`` and all folders below them at the same time, but those whose name ``leaves`` says to leave.

        Raises:
            UsageError: as ``folder``.
        """
        with ThreadPoolExecutor(self._at_once) as pool:
            waiting = {pool.submit(self.folder, each): each for each in folders}
            try:
                while waiting:
                    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for each in done:
                        below = waiting.pop(each)
                        READS.advance()  # for the watchdog: a million files take minutes
                        inside = [f"{below}/{name}" for name in each.result().folders if not leaves(name)]
                        waiting |= {pool.submit(self.folder, place): place for place in inside}
            finally:
                for each in waiting:
                    each.cancel()

    def look_for(self, paths: Sequence[str]) -> None:
        """Find out which of the files ``paths`` exist, and their states.

        Raises:
            UsageError: as ``folder``, but for folders that do not exist.
        """
        unknown: dict[str, dict[str, None]] = defaultdict(dict)  # folder → the paths in it, each once
        for path in paths:
            folder = path.rpartition("/")[0]
            if folder not in self._folders and path not in self._asked:
                unknown[folder][path] = None
        if self.root.bucket.lists_poorly or sum(map(len, unknown.values())) <= ASKED:
            asked = [path for there in unknown.values() for path in there]
            self._asked |= zip(asked, self.root.bucket.states(asked), strict=True)
            return

        def look(folder: str) -> None:
            there = self.root.bucket.listing(folder)
            self._folders[folder] = Folder({}, ()) if there is None else self._known(folder, there)
            READS.advance()

        with ThreadPoolExecutor(self._at_once) as pool:
            list(pool.map(look, unknown))

    def state(self, below: str) -> State | None:
        """The state of a file in a folder that has been looked at; None where it does not exist."""
        folder, _, name = below.rpartition("/")
        found = self._folders.get(folder)
        return self._asked.get(below) if found is None else found.state(name)

    def begins(self, paths: Sequence[str], size: int) -> list[bytes]:
        """The first ``size`` bytes of files in folders that have been looked at, or all that they have.

        Raises:
            UsageError: one cannot be read.
        """
        with ThreadPoolExecutor(CONCURRENT_QUESTIONS) as pool:
            return list(pool.map(lambda path: self._begin(path, size), paths))

    def _begin(self, below: str, size: int) -> bytes:
        state = self.state(below)
        end = 0 if state is None else min(size, state.size)
        if state is None or not end:
            return b""
        try:
            if state.size <= BLOCK:  # all of it is kept, for whoever reads it
                return RemoteFile(path_in(self, below, self.root)).pread(end, 0)
            return patiently(lambda: self.root.bucket.fetch(below, state, 0, end))
        except OSError as error:
            raise UsageError(f"{self.root}/{below} cannot be read: {error.strerror}") from error

    @property
    def _at_once(self) -> int:
        """How many folders are listed at the same time; where each file is a question of its own, these are."""
        return 1 if self.root.bucket.lists_poorly else CONCURRENT_QUESTIONS

    def _known(self, below: str, there: Listing) -> Folder:
        asked = [name for name, state in there.files.items() if state is None]
        states = self.root.bucket.states([f"{below}/{name}".lstrip("/") for name in asked]) if asked else []
        found = {**there.files, **dict(zip(asked, states, strict=True))}
        return Folder({name: state for name, state in found.items() if state is not None}, there.folders)


def tree_of(url: str, gigabytes: float, split: Split | None) -> RemoteTree:
    """The folders at ``url``; see ``remote_root``. A run lists them once: the split for validation takes over what that
    for training has listed, as long as this is there.

    Raises:
        UsageError: as ``remote_root``.
    """
    found = _LISTED.pop((url, gigabytes), None) if split == "validation" else None
    if found is None:
        found = RemoteTree(remote_root(url, gigabytes))
    if split == "train":
        _LISTED[url, gigabytes] = found
    return found


def path_in(tree: RemoteTree, below: str, root: RemoteRoot) -> RemotePath:
    """A file in a folder that has been looked at, read as ``root`` says."""
    return RemotePath(f"{root}/{below}", below, tree.state(below), root)
