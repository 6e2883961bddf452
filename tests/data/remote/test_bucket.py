"""What lies on another machine: found as on this one, each range of the object that was found, troubles named."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
from image_data import write
from range_server import Server, serving
from s3_server import s3_server

from trainer.config.urls import is_url
from trainer.data.remote import bucket as module
from trainer.data.remote.bucket import Bucket, Changed, State
from trainer.data.remote.fetching import BLOCK
from trainer.data.remote.remote_path import RemoteFile, RemoteStream, remote_root
from trainer.data.sources.remote_files import matching
from trainer.errors import UsageError
from trainer.storage.filesystems import RemoteError

CONTENT = random.Random(0).randbytes(2 * BLOCK + 1000)
OTHER = CONTENT[::-1]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DELAYS", (0.01, 0.01))
    monkeypatch.setattr(module, "FIRST_DELAYS", (0.01,))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    write(tmp_path / "data" / "one", CONTENT)
    with serving(tmp_path / "data") as server:
        yield server


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3fs.S3FileSystem]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log"):
        files = s3fs.S3FileSystem()
        files.mkdir("mine")
        yield files


def test_a_file_is_read_at_any_place_as_a_local_one(server: Server) -> None:
    file = RemoteFile(remote_root(server.url, 1.0) / "one")
    draw = random.Random(0)
    places = [(draw.randrange(len(CONTENT) + 10), draw.choice((1, 500, BLOCK, 2 * BLOCK))) for _ in range(50)]
    for begin, size in [*places, (len(CONTENT) - 1, 10), (len(CONTENT), 1), (0, len(CONTENT))]:
        assert file.pread(size, begin) == CONTENT[begin : begin + size]
    assert sorted(server.ranges) == [
        ("one", begin, min(begin + BLOCK, len(CONTENT))) for begin in range(0, len(CONTENT), BLOCK)
    ], "each block is fetched once"
    stream = RemoteStream(remote_root(server.url, 1.0) / "one")
    stream.seek(-5, os.SEEK_END)
    assert stream.read() == CONTENT[-5:]
    assert stream.tell() == len(CONTENT)


def test_a_file_that_is_read_in_order_is_fetched_ahead_and_each_block_once(server: Server) -> None:
    file = RemoteFile(remote_root(server.url, 1.0) / "one", in_order=True)
    assert b"".join(file.pread(4096, begin) for begin in range(0, len(CONTENT), 4096)) == CONTENT
    assert server.gets("one") == 3


PATTERNS = [
    "*",
    "train-*",
    "train-?",
    "train-[01]*",
    "sub/*",
    "sub/a.tar",
    "*/*.tar",
    "**/*.tar",
    "none*",
    "a+b*",
    "*.TAR",
]


@pytest.mark.parametrize("where", ["HTTP", "S3"])
def test_patterns_find_what_they_find_on_this_machine(
    where: str, tmp_path: Path, bucket: s3fs.S3FileSystem, request: pytest.FixtureRequest
) -> None:
    names = ("train-0", "train-1", "train-10", "sub/a.tar", "sub/deep/b.tar", "b.tar", "a+b.txt", "ä b.T", ".hid")
    for name in names:
        write(tmp_path / "tree" / name, name.encode())
    with serving(tmp_path / "tree") as server:
        url = server.url
        if where == "S3":
            url = "s3://mine/tree"
            for name in names:
                bucket.pipe_file(f"mine/tree/{name}", name.encode())
        found = matching(remote_root(url, 1.0), PATTERNS)
    for pattern in PATTERNS:
        here = sorted(
            str(path.relative_to(tmp_path / "tree")) for path in (tmp_path / "tree").glob(pattern) if path.is_file()
        )
        assert sorted(path.below for path in found[pattern]) == here, pattern
        assert all(path.state().size == len(path.below.encode()) for path in found[pattern])
        assert all(path.url == f"{url}/{path.below}" for path in found[pattern])


def test_files_that_are_named_need_no_list_of_a_server(server: Server) -> None:
    found = matching(remote_root(server.url, 1.0), ["one", "two"])
    assert [path.name for path in found["one"]] == ["one"]
    assert found["two"] == []
    assert server.gets(".") == 0


@pytest.mark.parametrize("new", [OTHER, CONTENT[:-1], CONTENT + b"x"])
def test_an_object_that_changed_is_refused_with_both_values(new: bytes, server: Server) -> None:
    """Blocks that are on this disk are of the object that was found, and stay usable."""
    file = RemoteFile(remote_root(server.url, 1.0) / "one")
    assert file.pread(10, 0) == CONTENT[:10]
    write(server.root / "one", new)
    assert file.pread(10, 5) == CONTENT[5:15]
    with pytest.raises(Changed) as refused:
        file.pread(10, BLOCK)
    assert f"it had {len(CONTENT):,} bytes, ETag " in refused.value.strerror
    assert f"and has now {len(new):,} bytes, ETag " in refused.value.strerror
    assert RemoteFile(remote_root(server.url, 1.0) / "one").pread(10, 0) == new[:10], "another run reads the new one"


def test_an_object_that_changes_while_a_range_is_sent_is_refused(server: Server) -> None:
    state = Bucket(server.url).state("one")
    assert state is not None
    asked = []

    def change(name: str) -> None:
        asked.append(name)
        if len(asked) == 1:
            write(server.root / "one", OTHER)

    server.before = change
    with pytest.raises(Changed):
        Bucket(server.url).fetch("one", state, 0, 10)


def test_an_object_of_s3_that_changed_or_is_gone_is_refused(bucket: s3fs.S3FileSystem) -> None:
    """s3fs raises FileExpired for an open file, and reads the new bytes with ``cat_file``."""
    bucket.pipe_file("mine/data/one", CONTENT)
    root = remote_root("s3://mine/data", 1.0)
    root.bucket.names()
    file, again = RemoteFile(root / "one"), RemoteFile(root / "one")
    assert file.pread(10, BLOCK) == CONTENT[BLOCK : BLOCK + 10]
    bucket.pipe_file("mine/data/one", OTHER)
    with pytest.raises(Changed, match=r"it was changed: it had .* bytes, ETag .*, and has now .* bytes, ETag "):
        file.pread(10, 0)
    bucket.rm("mine/data/one")
    with pytest.raises(RemoteError, match="it does not exist"):
        again.pread(10, 0)


def test_a_failure_that_passes_is_waited_out_and_one_that_does_not_is_told_with_what_to_do(server: Server) -> None:
    file = RemoteFile(remote_root(server.url, 1.0) / "one")
    server.statuses = [503, 500]
    assert file.pread(10, 0) == CONTENT[:10]
    server.status = 503
    with pytest.raises(RemoteError) as refused:
        file.pread(10, BLOCK)
    assert "3 attempts in " in refused.value.strerror
    assert "503" in refused.value.strerror
    assert "check network, address and credentials" in refused.value.strerror
    asked = server.gets("one")
    server.status = 403
    with pytest.raises(RemoteError, match="give credentials to the filesystem itself"):
        file.pread(10, BLOCK)
    assert server.gets("one") == asked + 1, "another attempt would be refused, too"
    server.close()
    with pytest.raises(RemoteError, match="3 attempts in "):
        file.pread(10, BLOCK)


def test_a_server_that_gives_no_ranges_or_no_version_is_refused(server: Server) -> None:
    server.plain = True
    with pytest.raises(RemoteError, match=r"the server must give files by ranges"):
        RemoteFile(remote_root(server.url, 1.0) / "one").pread(10, 0)
    server.plain, server.stateless = False, True
    with pytest.raises(UsageError, match="neither an ETag nor a time of modification"):
        RemoteFile(remote_root(server.url, 1.0) / "one")


def test_what_does_not_exist_or_answer_is_a_usage_error(server: Server, bucket: s3fs.S3FileSystem) -> None:
    for url in (f"{server.url}/none", "s3://nowhere/data"):
        with pytest.raises(UsageError, match=f"{url} cannot be listed: it does not exist"):
            Bucket(url).names()
    assert Bucket(server.url).state("none") is None
    server.close()
    with pytest.raises(UsageError, match=r"cannot be listed: 2 attempts in "):
        Bucket(server.url).names()


def test_a_signature_that_a_server_has_sent_us_on_to_is_not_told() -> None:
    def fail() -> None:
        raise ConnectionError("400, url='https://store/one?X-Signature=secret&more=1' refused")

    with pytest.raises(RemoteError) as refused:
        module.patiently(fail, ())
    assert "secret" not in refused.value.strerror
    assert "https://store/one?…" in refused.value.strerror


def test_a_state_has_an_etag_or_a_time() -> None:
    assert module._state({"size": 5, "LastModified": "now", "ETag": '"x"'}) == State(5, 'ETag "x"')
    assert module._state({"size": 5, "mtime": "now"}) == State(5, "mtime now")
    assert module._state({"size": 5}) is None
    assert module._state({"size": None, "ETag": "x"}) is None


def test_urls_are_told_from_paths() -> None:
    assert all(map(is_url, ("s3://a/b", "gs://a", "https://a/b", "abfs://c@d/e")))
    assert not any(map(is_url, ("/a/b", "a//b", "./s3://a", "C:/a")))
