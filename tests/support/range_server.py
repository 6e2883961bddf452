"""A server of HTTP on this machine that gives the files of a directory by ranges, and has the troubles of one."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class Server:
    """Serves ``root`` at ``url``. ``asked`` counts requests by method and name. ``latency`` is in seconds.

    ``statuses`` are the answers to the next requests, in place of files; ``status`` is that to all others, where it is
    not None. ``before`` is called before a file is read. A ``plain`` server gives no ranges, a ``stateless`` one no
    ETags.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: Counter[tuple[str, str]] = Counter()
        self.ranges: list[tuple[str, int, int]] = []
        self.latency = 0.0
        self._content: dict[Path, bytes] = {}
        self._tags: dict[Path, str] = {}
        self.statuses: list[int] = []
        self.status: int | None = None
        self.plain = self.closed = False
        self.stateless = False
        self.before: Callable[[str], object] = lambda name: None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def content_is_fixed(self) -> None:
        """Read every file once, for all requests."""
        self._content = {path: path.read_bytes() for path in self.root.rglob("*") if path.is_file()}
        self._tags = {path: _tag(content) for path, content in self._content.items()}

    def content_of(self, path: Path) -> tuple[bytes, str]:
        """The bytes of a file, and its ETag."""
        if path in self._content:
            return self._content[path], self._tags[path]
        content = path.read_bytes()
        return content, _tag(content)

    def gets(self, name: str) -> int:
        return self.asked["GET", name]

    def close(self) -> None:
        self.closed = True  # for the connections that are open
        self._server.shutdown()
        self._server.server_close()


def _tag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, owner: Server, *given: Any) -> None:
        self._owner = owner
        super().__init__(*given, directory=str(owner.root))

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def _answer(self, *, with_content: bool) -> None:
        owner, path = self._owner, Path(self.translate_path(self.path))
        name = str(path.relative_to(owner.root))
        owner.asked[self.command, name] += 1
        time.sleep(owner.latency)
        if owner.closed:
            self.close_connection = True
            return
        status = owner.statuses.pop(0) if owner.statuses else owner.status
        if status is not None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if path.is_dir():
            super().do_GET() if with_content else super().do_HEAD()
            return
        owner.before(name)
        try:
            content, tag = owner.content_of(path)
        except OSError:
            self.send_error(404)
            return
        asked = RANGE.fullmatch(self.headers.get("Range", ""))
        part = content
        if asked is not None and not owner.plain:
            begin, end = int(asked[1]), int(asked[2]) + 1
            part = content[begin:end]
            owner.ranges.append((name, begin, end))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{begin + len(part) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if not owner.stateless:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if with_content:
            self.wfile.write(part)


@contextlib.contextmanager
def serving(root: Path) -> Iterator[Server]:
    server = Server(root)
    try:
        yield server
    finally:
        server.close()
