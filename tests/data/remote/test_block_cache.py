"""Blocks on local disk: what is read is what was kept, or nothing; and their bound, for all who share it."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from damages import flip, grow, truncate, zero

from trainer.data.remote.block_cache import CHUNK, CRC, PAGE, BlockCache, taken

SIZE = 5 * CHUNK // 2
ON_DISK = taken(SIZE + 3 * CRC.size)
DAMAGES = (flip, truncate, grow, zero)


def block(number: int) -> bytes:
    return random.Random(number).randbytes(SIZE)


def on_disk(place: Path) -> int:
    """Bytes of the disk that blocks take, also those being written."""
    return sum(taken(path.stat().st_size) for path in place.glob("*/*"))


def test_a_block_is_read_back_in_any_part(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path / "new" / "blocks", 10**7)
    assert cache.read("a", 0, SIZE, 0, 1) is None
    assert cache.keep("a", 0, block(0))
    assert cache.keep("a", 1, b"x")
    draw = random.Random(1)
    for _ in range(100):
        begin, end = sorted((draw.randrange(SIZE), draw.randrange(SIZE + 1)))
        if begin < end:
            assert cache.read("a", 0, SIZE, begin, end) == block(0)[begin:end]
    assert cache.read("a", 0, SIZE, 0, SIZE) == block(0)
    assert cache.read("a", 1, 1, 0, 1) == b"x"
    assert BlockCache(tmp_path / "new" / "blocks", 10**7).read("a", 0, SIZE, 7, 9) == block(0)[7:9], "a later process"


@pytest.mark.parametrize("case", range(60))
def test_a_damaged_block_is_no_block_and_gives_way_to_a_whole_one(
    case: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, draw = BlockCache(tmp_path, 10**7), random.Random(case)
    assert cache.keep("a", 0, block(0))
    place = tmp_path / "a" / "0"
    before = place.read_bytes()
    DAMAGES[case % len(DAMAGES)](place, draw)
    begin, end = sorted((draw.randrange(SIZE), 1 + draw.randrange(SIZE)))
    found = cache.read("a", 0, SIZE, begin, max(end, begin + 1))
    assert found in (None, block(0)[begin : max(end, begin + 1)])
    whole = cache.read("a", 0, SIZE, 0, SIZE)
    if place.exists() and place.read_bytes() == before:
        assert whole == block(0), "the damage changed nothing"
        return
    assert whole is None
    assert "is fetched again: a/0" in capsys.readouterr().err
    assert cache.keep("a", 0, block(0))
    assert cache.read("a", 0, SIZE, 0, SIZE) == block(0)


def test_a_block_in_the_place_of_another_is_no_block(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 10**7)
    for key in ("a", "b"):
        assert cache.keep(key, 0, block(0))
        assert cache.keep(key, 1, block(1))
    (tmp_path / "a" / "1").replace(tmp_path / "a" / "0")
    (tmp_path / "a" / "1").write_bytes((tmp_path / "b" / "1").read_bytes())
    assert cache.read("a", 0, SIZE, 0, 9) is None
    assert cache.read("a", 1, SIZE, 0, 9) is None
    assert cache.read("b", 1, SIZE, 0, 9) == block(1)[:9]


def test_the_bound_holds_and_the_least_recently_used_blocks_are_gone(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 10 * ON_DISK)
    for number in range(10):
        assert cache.keep("a", number, block(number))
        os.utime(tmp_path / "a" / str(number), ns=(number, number))
    assert on_disk(tmp_path) == 10 * ON_DISK
    used_again = BlockCache(tmp_path, 10 * ON_DISK).read("a", 0, SIZE, 0, 1)
    assert used_again == block(0)[:1]
    for number in range(10, 40):
        assert cache.keep("b", number, block(number))
        assert on_disk(tmp_path) <= 10 * ON_DISK
        if number == 10:
            there = {path.name for path in tmp_path.glob("*/*")}
            assert {"0", "9", "10"} <= there
            assert "1" not in there
    assert not (tmp_path / "a").exists(), "an empty folder is left"


def test_small_files_share_folders_and_count_as_the_pages_that_they_take(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 10 * PAGE)
    for number in range(10):
        assert cache.keep(f"0a1/{number}", 0, b"small")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["0a1"]
    assert cache.read("0a1/3", 0, 5, 1, 4) == b"mal"
    assert cache.keep("0a2/0", 0, b"small")
    assert on_disk(tmp_path) <= 10 * PAGE
    assert len(list(tmp_path.glob("0a1/*"))) < 10, "an older one gave way"


def test_the_bound_holds_for_all_who_share_a_directory_and_counts_what_a_kill_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".new-left").write_bytes(bytes(3 * ON_DISK))
    sharing = [BlockCache(tmp_path, 10 * ON_DISK) for _ in range(3)]
    seen: list[int] = []
    kept: list[bool] = []

    def keep(number: int) -> None:
        kept.append(sharing[number % 3].keep("abc"[number % 2], number, block(number)))
        with sharing[number % 3]._account():  # nobody begins a block or removes one
            seen.append(on_disk(tmp_path))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(keep, range(90)))
    assert max(seen) <= 10 * ON_DISK
    assert sum(kept) > 60, "one that is being written may have to give way"
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "a" / ".new-left").exists()


def test_without_a_place_or_room_nothing_is_kept_and_one_warning_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    cache = BlockCache(tmp_path / "file" / "blocks", 10**7)
    assert not cache.keep("a", 0, block(0))
    assert not cache.keep("a", 1, block(1))
    said = capsys.readouterr().err
    assert said.count("warning: nothing can be kept in ") == 1
    assert not BlockCache(tmp_path / "small", ON_DISK - 1).keep("a", 0, block(0))
    assert on_disk(tmp_path / "small") == 0
