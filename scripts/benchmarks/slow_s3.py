"""A server that gives the files of a directory as S3 gives those of a bucket, and waits before each answer.

It does so little that it takes hardly any time from those who are measured on the same cores. It can list, and read
by ranges; it checks no signature. Usage: slow_s3.py DIRECTORY PORT SECONDS
"""

from __future__ import annotations

import functools
import os
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, directory: Path, seconds: float, *given: Any) -> None:
        self._directory, self._seconds = directory, seconds
        super().__init__(*given)

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._give(with_content=False)

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self._list(query.get("prefix", [""])[0])
        else:
            self._give(with_content=True)

    def _give(self, *, with_content: bool) -> None:
        time.sleep(self._seconds)
        path = self._directory / unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = path.stat().st_size
        asked = RANGE.fullmatch(self.headers.get("Range", ""))
        begin, end = (int(asked[1]), min(size, int(asked[2]) + 1)) if asked else (0, size)
        self.send_response(206 if asked else 200)
        self.send_header("ETag", _tag(path))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(end - begin))
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.end_headers()
        self.wfile.flush()
        if with_content:
            with path.open("rb") as file:
                while begin < end:
                    begin += os.sendfile(self.connection.fileno(), file.fileno(), begin, end - begin)

    def _list(self, prefix: str) -> None:
        time.sleep(self._seconds)
        found = ""
        for path in sorted(self._directory.rglob("*")):
            key = str(path.relative_to(self._directory))
            if path.is_file() and key.startswith(prefix):
                found += (
                    f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                    f"<ETag>{escape(_tag(path))}</ETag><Size>{path.stat().st_size}</Size></Contents>"
                )
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def _tag(path: Path) -> str:
    status = path.stat()
    return f'"{status.st_size:x}-{status.st_mtime_ns:x}"'


def main(directory: Path, port: int, seconds: float) -> None:
    ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Handler, directory, seconds)).serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
