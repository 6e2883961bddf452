"""Processes that are killed while they download leave no wrong byte, and keep to the bound on disk."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_data import write
from range_server import Server, serving

from trainer.data.remote import remote_path
from trainer.data.remote.fetching import BLOCK
from trainer.data.remote.remote_path import RemoteFile, remote_root

KILLS_IN_CI, KILLS = 6, 200
CONTENT = random.Random(0).randbytes(40 * BLOCK + 12_345)
GIGABYTES = 0.02  # 19 of the 41 blocks

# reads ranges of a file at random for ever, compares each with what it should be, and says when it has begun
READING = """
import random, sys
from pathlib import Path
from trainer.data.remote.remote_path import RemoteFile, remote_root

url, content, gigabytes, seed = sys.argv[1:]
content, draw = Path(content).read_bytes(), random.Random(int(seed))
file = RemoteFile(remote_root(url, float(gigabytes)) / "one")
print("reading", flush=True)
while True:
    begins = [draw.randrange(len(content)) for _ in range(8)]
    for begin in begins:
        file.expect(begin, begin + 100_000)
    for begin in begins:
        if file.pread(100_000, begin) != content[begin : begin + 100_000]:
            print("a wrong byte", flush=True)
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    write(tmp_path / "data" / "one", CONTENT)
    with serving(tmp_path / "data") as server:
        server.content_is_fixed()
        yield server


def read_and_be_killed(server: Server, seconds: float, seed: int) -> str:
    command = [sys.executable, "-c", READING, server.url, str(server.root / "one"), str(GIGABYTES), str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(Path(remote_path.__file__).parents[3])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        said += process.stdout.read()
    assert process.returncode == -signal.SIGKILL, said
    return said


def judge_what_is_left(server: Server, place: Path) -> tuple[int, int]:
    """Whole blocks and files that are none, of those in the cache."""
    left = list(place.glob("*/*"))
    assert sum(path.stat().st_size for path in left) <= GIGABYTES * 1e9
    root = remote_root(server.url, GIGABYTES)
    whole = 0
    for path in left:
        if not path.name.isdigit():
            continue
        number = int(path.name)
        size = min(BLOCK, len(CONTENT) - number * BLOCK)
        found = root.cache.read(path.parent.name, number, size, 0, size)
        assert found == CONTENT[number * BLOCK : number * BLOCK + size], "a rename is whole, whatever is killed"
        whole += 1
    return whole, len(left) - whole


def kill_again_and_again(server: Server, place: Path, kills: int) -> None:
    blocks = unfinished = 0
    for seed in range(kills):
        said = read_and_be_killed(server, random.Random(seed).uniform(0.0, 0.3), seed)
        assert said == "reading\n"
        whole, others = judge_what_is_left(server, place)
        blocks, unfinished = blocks + whole, unfinished + others
    print(f"{kills} kills left {blocks} blocks and {unfinished} that were being written")
    assert blocks > kills
    file = RemoteFile(remote_root(server.url, GIGABYTES) / "one")
    assert file.pread(len(CONTENT), 0) == CONTENT
    assert sum(path.stat().st_size for path in place.glob("*/*")) <= GIGABYTES * 1e9


def test_kills_during_downloads_leave_no_wrong_byte(server: Server, cache_directory: Path) -> None:
    kill_again_and_again(server, cache_directory / remote_path.FOLDER, KILLS_IN_CI)


@pytest.mark.long
def test_two_hundred_kills_during_downloads_leave_no_wrong_byte(server: Server, cache_directory: Path) -> None:
    kill_again_and_again(server, cache_directory / remote_path.FOLDER, KILLS)
