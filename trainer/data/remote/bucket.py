"""A folder of another machine: what is in it, and ranges of its files, each of the very object that was found.

An object can be replaced while it is read. Its state (size, and ETag or time of modification) is noted when it is found
and compared around every range that is read. A range of another state is refused, never used.
"""

from __future__ import annotations

import contextlib
import errno
import re
import time
import urllib.parse
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from trainer.errors import UsageError, one_line
from trainer.storage.filesystems import RemoteError, filesystem_of

# what says of which version an object is, by the names that filesystems of fsspec give it; the first one there counts
VERSIONS = ("ETag", "etag", "generation", "Content-MD5", "md5Hash", "LastModified", "Last-Modified", "last_modified")
ETAG = "ETag "  # how a version of S3 begins
TIMES = ("mtime", "updated", "created")
DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds before each further attempt to read
FIRST_DELAYS = (1.0, 2.0, 4.0)  # of the first question: an address may be mistyped
CONNECT_SECONDS, SILENT_SECONDS = 10.0, 30.0  # of HTTP; s3fs and gcsfs have limits of their own
CONCURRENT_QUESTIONS = 16
LASTING = frozenset({400, 401, 403, 404, 405, 410, 416})  # statuses of HTTP that another attempt would meet again
NO_ACCESS = frozenset({401, 403})
WITHOUT_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
QUERY = re.compile(r"\?[^\s'\")>]*")  # of a URL that a server has sent us on to, which may be signed
ADVICE = "data must not change while it is in use"

Answer = TypeVar("Answer")


class State(NamedTuple):
    """The size of an object in bytes, and its ETag or what else says that it is the same object."""

    size: int
    version: str

    def __str__(self) -> str:
        return f"{self.size:,} bytes, {self.version}"


class Listing(NamedTuple):
    """What lies in a folder: its ``files`` with their states, None where only a question for the file itself finds it,
    and the names of its ``folders``.
    """

    files: dict[str, State | None]
    folders: tuple[str, ...]


class Changed(RemoteError):
    """An object is not the one that was found."""


class Bucket:
    """The folder at ``url``. Safe to use from several threads.

    Raises:
        UsageError: the scheme is unknown, or the package of its filesystem is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._files, self._root = filesystem_of(url, **_options(url))
        protocol = self._files.protocol
        protocols = (protocol,) if isinstance(protocol, str) else tuple(protocol)
        self._http, self._s3 = "https" in protocols, "s3" in protocols

    @property
    def lists_poorly(self) -> bool:
        """Whether files are found better by their names: a server of HTTP need not list them."""
        return self._http

    def names(self, folder: str = "", *, deep: bool = False) -> dict[str, State | None]:
        """The files in a folder below this one, by their paths relative to it, at this moment. With ``deep``, those in
        folders below, too. A state is None where only a question for the file itself finds it.

        Raises:
            UsageError: it does not exist, cannot be listed, or does not answer.
        """
        place = f"{self._root}/{folder}".rstrip("/")
        listed = f"{place}/" if self._http else place

        def ask() -> list[Mapping[str, Any]]:
            self._files.invalidate_cache()
            if deep:
                found: list[Mapping[str, Any]] = list(self._files.find(listed, detail=True).values())
                return found
            return list(self._files.ls(listed, detail=True))

        try:
            entries = patiently(ask, FIRST_DELAYS)
        except RemoteError as error:
            raise UsageError(
                f"{self.url}{f'/{folder}' if folder else ''} cannot be listed: {error.strerror}"
            ) from error
        names: dict[str, State | None] = {}
        for entry in entries:
            path = str(entry["name"])
            name = path[len(place) :].lstrip("/")
            name = urllib.parse.unquote(name) if self._http else name
            if entry["type"] == "file" and path.startswith(f"{place}/") and name and "?" not in name:
                names[name] = _state(entry)
        return names

    def listing(self, folder: str = "") -> Listing | None:
        """What lies in a folder below this one, at this moment; None where it does not exist. Nothing of it is kept.

        Raises:
            UsageError: it cannot be listed, does not answer, or has something in a folder without a name.
        """
        place = self._path(folder).rstrip("/") if folder else self._root.rstrip("/")

        def ask() -> list[Mapping[str, Any]]:
            self._files.invalidate_cache()
            try:
                return list(self._files.ls(f"{place}/" if self._http else place, detail=True))
            finally:
                self._files.invalidate_cache()  # of a million files, it would be gigabytes

        try:
            entries = patiently(ask, FIRST_DELAYS)
        except RemoteError as error:
            if _is_missing(error):
                return None
            raise UsageError(
                f"{self.url}{f'/{folder}' if folder else ''} cannot be listed: {error.strerror}"
            ) from error
        files: dict[str, State | None] = {}
        folders = []
        for entry in entries:
            path = str(entry["name"])
            name = path[len(place) + 1 :]
            is_folder = entry["type"] != "file"
            if not path.startswith(f"{place}/") or (not name and not is_folder):
                continue  # an empty object that stands for the folder itself
            if self._http and ("?" in name or name in ("", "./", "../")):
                continue  # links of a page to itself
            name = name.removesuffix("/") if is_folder else name
            name = urllib.parse.unquote(name) if self._http else name
            if not name or "/" in name or name in (".", ".."):
                raise UsageError(
                    f"{self.url}{f'/{folder}' if folder else ''} has an object {name!r} in a folder that no disk can "
                    "have: its name is empty, . or ..\nrename it, or leave its folder out of data.root"
                )
            if is_folder:
                folders.append(name)
            else:
                files[name] = _state(entry)
        return Listing(files, tuple(folders))

    def states(self, names: list[str]) -> list[State | None]:
        """The states of files below this folder, now; None for each that does not exist.

        Raises:
            UsageError: one cannot be had, or does not say of which version it is.
        """
        with ThreadPoolExecutor(CONCURRENT_QUESTIONS) as pool:
            return list(pool.map(self.state, names))

    def state(self, name: str) -> State | None:
        """As ``states``, of one file."""
        try:
            found = patiently(lambda: self._look(name), FIRST_DELAYS)
        except RemoteError as error:
            if _is_missing(error):
                return None
            raise UsageError(f"{self.url}/{name} cannot be read: {error.strerror}") from error
        if found is None:
            raise UsageError(
                f"{self.url}/{name} has no size, or neither an ETag nor a time of modification, so nobody could notice "
                "that it changes; copy it to this machine, or use a server that gives them"
            )
        return found

    def fetch(self, name: str, state: State, begin: int, end: int) -> bytes:
        """Bytes ``begin`` to ``end`` of a file in this ``state``, in one attempt.

        Raises:
            Changed: it is in another state.
            Exception: what the network or the library behind the URL has.
        """
        path = self._path(name)
        if self._s3 and state.version.startswith(ETAG):
            data = self._of_same(path, name, state, begin, end)
        else:
            data = self._files.cat_file(path, start=begin, end=end)
            self._compare(name, state)
        assert isinstance(data, bytes)
        if len(data) > end - begin:
            raise NotImplementedError(f"{len(data):,} bytes came where {end - begin:,} were asked for")
        if len(data) < end - begin:
            raise OSError(f"{len(data):,} bytes came where {end - begin:,} were asked for")
        return data

    def _of_same(self, path: str, name: str, state: State, begin: int, end: int) -> bytes:
        """As ``fetch``, where the server itself compares (If-Match): one question, whatever s3fs remembers."""
        bucket, key, _ = self._files.split_path(path)
        tag = state.version.removeprefix(ETAG)
        span = f"bytes={begin}-{end - 1}"
        try:
            answer = self._files.call_s3("get_object", Bucket=bucket, Key=key, Range=span, IfMatch=tag)
        except OSError as error:
            if error.errno == errno.EINVAL:  # s3fs's for a condition that does not hold
                self._compare(name, state)
            raise
        return _read_whole(self._files.loop, answer["Body"])

    def _path(self, name: str) -> str:
        return f"{self._root}/{urllib.parse.quote(name) if self._http else name}"

    def _compare(self, name: str, state: State) -> None:
        now = self._look(name)
        if now != state:
            raise Changed(errno.ESTALE, f"it was changed: it had {state}, and has now {now or 'no size'}; {ADVICE}")

    def _look(self, name: str) -> State | None:
        path = self._path(name)
        if self._s3:
            return _state(self._files.info(path, refresh=True))  # and keep the listing, which spares a question a read
        if not self._http:
            self._files.invalidate_cache(path.rpartition("/")[0])
        return _state(self._files.info(path))


def _read_whole(loop: Any, body: Any) -> bytes:
    """The bytes of an answer of S3, which is read in the loop of its filesystem."""
    from fsspec.asyn import sync

    async def read() -> Any:
        try:
            return await body.read()
        finally:
            body.close()

    data: bytes = sync(loop, read)
    return data


def patiently(attempt: Callable[[], Answer], delays: tuple[float, ...] | None = None) -> Answer:
    """What ``attempt`` returns. When it fails for a reason that may pass, it is tried again after each of ``delays``
    (seconds).

    Raises:
        RemoteError: it has failed, with the reason and what to do.
    """
    began, waits = time.monotonic(), iter(DELAYS if delays is None else delays)
    attempts = 0
    while True:
        attempts += 1
        try:
            return attempt()
        except RemoteError:
            raise
        except Exception as error:  # of whatever network or library is behind the URL
            cause = _cause(error)
            lasting = _lasting(cause)
            if lasting is not None:
                raise RemoteError(errno.ENOENT, lasting) from cause
            delay = next(waits, None)
            if delay is None:
                seconds = time.monotonic() - began
                raise RemoteError(
                    errno.ETIMEDOUT,
                    f"{attempts} attempts in {seconds:.0f} s have failed ({_reason(cause)})\n"
                    "check network, address and credentials",
                ) from cause
        time.sleep(delay)


def _is_missing(error: RemoteError) -> bool:
    return isinstance(error.__cause__, FileNotFoundError) or _status(error.__cause__) in (404, 410)


def _cause(error: Exception) -> BaseException:
    """fsspec says of every HTTP error that a question meets that the file does not exist."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        with contextlib.suppress(ImportError):
            from aiohttp import ClientError

            if isinstance(error.__cause__, ClientError | TimeoutError):
                return error.__cause__
    return error


def _lasting(error: BaseException) -> str | None:
    """Why another attempt would fail, too, and what to do; None where it might not."""
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return "it does not exist (any more)\ncheck the address, or bring it back"
    if isinstance(error, PermissionError) or status in NO_ACCESS or type(error).__name__ in WITHOUT_CREDENTIALS:
        return (
            f"no access ({_reason(error)})\n"
            "give credentials to the filesystem itself: environment variables or its configuration file"
        )
    if status in LASTING or isinstance(error, NotImplementedError | TypeError):
        return f"{_reason(error)}\ncheck the address; the server must give files by ranges (Range)"
    return None


def _status(error: BaseException | None) -> int | None:
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _reason(error: BaseException) -> str:
    """The first line of what a library says, without what may be a signature."""
    lines = str(error).strip().splitlines()
    text = QUERY.sub("?…", lines[0])[:300] if lines else ""
    return one_line(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _state(details: Mapping[str, Any]) -> State | None:
    size = details.get("size")
    found = next((f"{name} {details[name]}" for name in (*VERSIONS, *TIMES) if details.get(name)), None)
    return None if size is None or found is None else State(int(size), one_line(found))


def _options(url: str) -> dict[str, Any]:
    """For an instance of its own: what it remembers of listings is not changed by others (``checkpoint.mirror``)."""
    own: dict[str, Any] = {"skip_instance_cache": True}
    if url.lower().startswith(("s3://", "s3a://")):
        import fsspec

        # what the user has configured stays
        configured = fsspec.config.conf.get(url.partition("://")[0].lower(), {}).get("config_kwargs", {})
        return {**own, "config_kwargs": {"max_pool_connections": CONCURRENT_QUESTIONS + 1, **configured}}
    if not url.lower().startswith(("http://", "https://")):
        return own
    try:
        from aiohttp import ClientTimeout
    except ImportError:
        return own  # fsspec says what to install
    timeout = ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
    return {**own, "client_kwargs": {"timeout": timeout, "trust_env": True}}  # proxies, and ~/.netrc
