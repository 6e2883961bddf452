"""A server that speaks S3 on this machine (moto)."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import s3fs
from worker_processes import free_ports

KEYS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}


class Bucket:
    """A bucket of S3 with copies of folders of this machine, and the requests that its server has written down."""

    def __init__(self, log: Path) -> None:
        self.files = s3fs.S3FileSystem()
        self.files.mkdir("mine")
        self._log = log

    def copy(self, folder: Path) -> str:
        """The URL of a copy of ``folder``."""
        place = f"mine/{folder.parent.name}"
        content = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.files.pipe({f"{place}/{path.relative_to(folder)}": data for path, data in content.items()})
        return f"s3://{place}"

    def lists(self) -> list[str]:
        """The folders that were listed, once for each page."""
        return re.findall(r'"GET /mine\?list-type=2&prefix=([^&]*)&', self._log.read_text())

    def requests(self) -> list[str]:
        """Method and path of every question for an object or a list."""
        return re.findall(r'"(?:\x1b\[[0-9;]*m)*((?:GET|HEAD) \S+)', self._log.read_text())


@contextlib.contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """The URL of a server, which the block has in its environment with the keys to it; ``log`` gets what it prints."""
    (port,) = free_ports(1)
    variables = {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    before = {name: os.environ.get(name) for name in variables}
    server = str(Path(sys.executable).with_name("moto_server"))
    with log.open("w") as output:
        process = subprocess.Popen([server, "-H", "127.0.0.1", "-p", str(port)], stdout=output, stderr=output)
        try:
            for _ in range(300):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.1)
            os.environ.update(variables)
            s3fs.S3FileSystem.clear_instance_cache()  # they may know another server
            yield variables["AWS_ENDPOINT_URL"]
        finally:
            process.terminate()
            process.wait()
            s3fs.S3FileSystem.clear_instance_cache()
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
