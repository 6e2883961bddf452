"""The mirror: what is there was read back, a half copy does not count, and a run comes back from it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
import s3fs
from diagnosing import commit, composed, narrow_config, narrow_state
from fsspec.implementations.memory import MemoryFileSystem
from processes import Trainer, assert_same_run, checkpoint_names
from s3_server import s3_server

from trainer.__main__ import run
from trainer.checkpoint import directory
from trainer.checkpoint.manifest import Start
from trainer.checkpoint.retention import Retention, retire
from trainer.errors import NoValidCheckpoint, UsageError
from trainer.run_directory import mirror as module
from trainer.run_directory import validation_predictions
from trainer.run_directory.mirror import Mirror, default_directory, fetch
from trainer.run_directory.mirror_place import Place

START = Start("2026-01-01T00:00:00+00:00", "host", 0, None, ())
KEEP_ALL = Retention(100, 0, None, "accuracy")
LIFE = '{"began": 100.0, "from": 0, "alive": null, "at": 160.0, "step": 4, "seconds": {"training": 60.0}}\n'
DATA = "state.data-00000-of-00001"


class Flaky(MemoryFileSystem):  # type: ignore[misc]
    """Fails, or changes what it is given, for the next few copies."""

    protocol = "flaky"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    failures: ClassVar[list[str]] = []

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        failure = Flaky.failures.pop() if Flaky.failures else None
        if failure == "network":
            raise ConnectionError("connection reset")
        super().put_file(lpath, rpath, **options)
        if failure == "changed":
            self.pipe_file(rpath, b"something else")


fsspec.register_implementation("flaky", Flaky)


@pytest.fixture(autouse=True)
def quick_and_clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "DELAYS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(module, "SETTLED", 0.0)
    yield
    for store in (MemoryFileSystem, Flaky):
        store.store.clear()
        store.pseudo_dirs[:] = [""]
    Flaky.failures.clear()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return made(tmp_path / "run", 2, 4)


def made(run_dir: Path, *steps: int) -> Path:
    for step in steps:
        commit(run_dir, step, narrow_state(), narrow_config(), (START,))
    shutil.copy(directory.committed(run_dir / "checkpoints")[-1] / "config.yaml", run_dir)
    (run_dir / "metrics.jsonl").write_text('{"step": 2}\n')
    (run_dir / "time.jsonl").write_text(LIFE)
    return run_dir


def mirrored(url: str, run_dir: Path, retention: Retention = KEEP_ALL, step: int = 0) -> list[str]:
    """Bring the mirror up to date; what it complained of."""
    mirror = Mirror(Place(url), run_dir, retention, START, step)
    mirror.follow({})
    mirror.finish()
    return [mirror.notices.get() for _ in range(mirror.notices.qsize())]


def names(url: str) -> list[str]:
    return [path.name for path, _ in Place(url).described()]


def content(place: Path, base: Path | None = None) -> dict[str, bytes]:
    """The files under a place, named relative to ``base``, or to the place."""
    return {str(path.relative_to(base or place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("scheme", ["memory://bucket/mine", "file"])
def test_a_run_comes_back_from_its_mirror_as_it_was(scheme: str, run_dir: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/far/mine" if scheme == "file" else scheme
    assert mirrored(url, run_dir) == []
    assert names(url) == ["step-00000002", "step-00000004"]
    back = tmp_path / "back"
    back.mkdir()
    fetch(Place(url), back, pytest.fail)
    newest = run_dir / "checkpoints" / "step-00000004"
    assert content(back / "checkpoints" / "step-00000004") == content(newest)
    assert checkpoint_names(back) == ["step-00000004"]
    assert (back / "metrics.jsonl").read_bytes() == (run_dir / "metrics.jsonl").read_bytes()
    assert (back / "time.jsonl").read_bytes() == (run_dir / "time.jsonl").read_bytes()
    assert default_directory(Place(url)) == Path("outputs/digits/mine")


@pytest.mark.parametrize("scheme", ["memory://bucket", "file"])
def test_a_place_whose_name_is_a_pattern_is_itself_alone(scheme: str, run_dir: Path, tmp_path: Path) -> None:
    base = f"file://{tmp_path}/far" if scheme == "file" else scheme
    for other in ("lr=1", "lr=[1]"):
        assert mirrored(f"{base}/{other}", run_dir) == []
    made(run_dir, 6)
    url = f"{base}/lr=[1]"
    assert mirrored(url, run_dir, Retention(1, 0, None, "accuracy"), step=4) == []
    assert names(url) == ["step-00000006"]
    assert names(f"{base}/lr=1") == ["step-00000002", "step-00000004"], "another run's mirror was deleted"
    assert mirrored(url, run_dir, step=4) == []
    back = tmp_path / "back [1]"
    back.mkdir()
    fetch(Place(url), back, pytest.fail)
    assert content(back / "checkpoints" / "step-00000006") == content(run_dir / "checkpoints" / "step-00000006")


def test_files_that_a_manifest_does_not_name_are_not_copied(run_dir: Path) -> None:
    (run_dir / "checkpoints" / "step-00000004" / ".config.yaml.swp").touch()
    assert mirrored("memory://bucket", run_dir) == []
    assert not [name for name in MemoryFileSystem.store if "swp" in name]


@pytest.mark.parametrize("failure", ["network", "changed"])
def test_a_copy_that_fails_is_made_again_and_one_that_arrives_changed_does_not_count(
    failure: str, run_dir: Path
) -> None:
    Flaky.failures += [failure] * 3
    assert mirrored("flaky://bucket", run_dir) == []
    assert names("flaky://bucket") == ["step-00000002", "step-00000004"]
    made(run_dir, 6)
    Flaky.failures += [failure] * 100
    (notice,) = mirrored("flaky://bucket", run_dir, step=4)
    assert "the mirror flaky://bucket is not up to date: " in notice
    assert names("flaky://bucket") == ["step-00000002", "step-00000004"]
    Flaky.failures.clear()
    assert mirrored("flaky://bucket", run_dir, step=6) == []
    assert names("flaky://bucket") == ["step-00000002", "step-00000004", "step-00000006"]


def test_a_half_copy_does_not_count_and_a_damaged_one_is_skipped(run_dir: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/far"
    mirrored(url, made(run_dir, 6))
    (tmp_path / "far" / "checkpoints" / "step-00000006" / "manifest.json").unlink()
    (tmp_path / "far" / "checkpoints" / "step-00000004" / DATA).write_bytes(b"damaged")
    back = tmp_path / "back"
    back.mkdir()
    warnings: list[str] = []
    fetch(Place(url), back, warnings.append)
    assert checkpoint_names(back) == ["step-00000002"]
    (warning,) = warnings
    assert "skipping step-00000004" in warning
    shutil.rmtree(tmp_path / "far" / "checkpoints" / "step-00000002")
    shutil.rmtree(back / "checkpoints")
    with pytest.raises(NoValidCheckpoint, match="holds no valid checkpoint"):
        fetch(Place(url), back, warnings.append)
    with pytest.raises(NoValidCheckpoint, match="cannot be read: FileNotFoundError"):
        default_directory(Place("memory://nowhere"))


def test_retention_on_the_mirror_follows_the_runs(run_dir: Path) -> None:
    keep_two, parent = Retention(2, 0, None, "accuracy"), run_dir / "checkpoints"
    mirrored("memory://bucket", run_dir, keep_two)
    made(run_dir, 6)
    retire(parent, keep_two, {}, parent / "step-00000006")
    assert mirrored("memory://bucket", run_dir, keep_two, step=4) == []
    assert names("memory://bucket") == checkpoint_names(run_dir) == ["step-00000004", "step-00000006"]


def test_what_a_run_makes_again_is_put_away_on_the_mirror_as_well(run_dir: Path) -> None:
    mirrored("memory://bucket", run_dir)
    directory.set_aside([run_dir / "checkpoints" / "step-00000004"])
    mirrored("memory://bucket", run_dir, step=2)
    assert names("memory://bucket") == ["step-00000002"]
    assert MemoryFileSystem().exists("/bucket/checkpoints/superseded/step-00000004/manifest.json")


def test_a_place_that_holds_another_run_is_refused_and_left_alone(run_dir: Path, tmp_path: Path) -> None:
    mirrored("memory://bucket", run_dir)
    other = Start("2026-02-02T00:00:00+00:00", "host", 0, None, ())
    with pytest.raises(UsageError, match="holds another run"):
        Mirror(Place("memory://bucket"), run_dir, KEEP_ALL, other, 0)
    elsewhere = tmp_path / "elsewhere"
    commit(elsewhere, 2, narrow_state(), narrow_config(), (other,))
    with pytest.raises(UsageError, match="holds another run; fetch into another directory"):
        fetch(Place("memory://bucket"), elsewhere, pytest.fail)


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    with s3_server(tmp_path / "server.log"):
        s3fs.S3FileSystem().mkdir("mine")
        yield "s3://mine/run"


def test_a_mirror_in_s3_follows_the_run_and_gives_it_back(bucket: str, run_dir: Path, tmp_path: Path) -> None:
    keep_two, parent = Retention(2, 0, None, "accuracy"), run_dir / "checkpoints"
    assert mirrored(bucket, run_dir, keep_two) == []
    retire(parent, keep_two, {}, made(run_dir, 6) / "checkpoints" / "step-00000006")
    assert mirrored(bucket, run_dir, keep_two, step=4) == []
    assert names(bucket) == ["step-00000004", "step-00000006"]
    directory.set_aside([parent / "step-00000006"])
    assert mirrored(bucket, run_dir, keep_two, step=4) == []
    assert names(bucket) == ["step-00000004"]
    back = tmp_path / "back"
    back.mkdir()
    fetch(Place(bucket), back, pytest.fail)
    assert content(back / "checkpoints") == content(parent / "step-00000004", parent)
    with pytest.raises(NoValidCheckpoint, match="nowhere"):
        fetch(Place("s3://nowhere/run"), tmp_path / "run", pytest.fail)


def test_predictions_of_the_newest_and_best_validation_are_mirrored_and_fetched(run_dir: Path, tmp_path: Path) -> None:
    def validated(step: int, keep: set[int]) -> None:
        validation_predictions.write(run_dir, validation_predictions.Predictions(1, step, 2, ((0, 1, 2),), ()), keep)

    validated(2, {2})
    validated(4, {2, 4})
    assert mirrored("memory://bucket", run_dir) == []
    validated(6, {2, 6})
    assert mirrored("memory://bucket", made(run_dir, 6), step=4) == []
    back = tmp_path / "back"
    back.mkdir()
    fetch(Place("memory://bucket"), back, pytest.fail)
    assert content(back / "predictions") == content(run_dir / "predictions")
    assert sorted(validation_predictions.stored(back)) == [2, 6]


def test_an_account_that_a_mirror_lacks_or_keeps_back_or_that_is_here_already_stops_nothing(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_dir / "time.jsonl").unlink()  # as a version before it
    assert mirrored("memory://bucket", run_dir) == []
    fetch(Place("memory://bucket"), places(tmp_path, "first"), pytest.fail)
    assert not (tmp_path / "first" / "time.jsonl").exists()

    (run_dir / "time.jsonl").write_text(LIFE * 1000)
    assert mirrored("memory://bucket", run_dir) == []
    monkeypatch.setattr(module, "ACCOUNT_LIMIT", 1000)
    said: list[str] = []
    fetch(Place("memory://bucket"), places(tmp_path, "second"), said.append)
    assert "the account of the time before was not fetched from memory://bucket" in said[0]
    assert not (tmp_path / "second" / "time.jsonl").exists()

    there = places(tmp_path, "third") / "time.jsonl"
    there.write_text("what was here")
    fetch(Place("memory://bucket"), tmp_path / "third", pytest.fail)
    assert there.read_text() == "what was here"


def places(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_the_last_line_of_an_account_arrives_after_the_last_pass(run_dir: Path) -> None:
    mirror = Mirror(Place("memory://bucket"), run_dir, KEEP_ALL, START, 0)
    mirror.follow({})
    mirror.finish()
    with (run_dir / "time.jsonl").open("a") as file:
        file.write("the last line")
    mirror.finish_account()
    assert Place("memory://bucket").read(Place("memory://bucket").root / "time.jsonl", 1000).endswith(b"the last line")


def test_a_fetch_leaves_what_is_here_already(run_dir: Path, tmp_path: Path) -> None:
    mirrored("memory://bucket", run_dir)
    made(run_dir, 6)
    before = content(run_dir)
    fetch(Place("memory://bucket"), run_dir, pytest.fail)
    assert content(run_dir) == before


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://key:secret@bucket/run", "carries a user, password or query"),
        ("https://host/run?token=secret", "carries a user, password or query"),
        ("backup/run", "neither a URL"),
    ],
)
def test_a_url_that_would_store_a_secret_or_depends_on_where_one_stands_is_refused(url: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        composed(f"checkpoint.mirror='{url}'")
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "message"), [("dropbox://folder/run", "needs a package"), ("nonsense://bucket/run", "cannot be used")]
)
def test_a_filesystem_that_is_not_there_is_a_usage_error(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Place(url)


@pytest.mark.long
def test_a_run_whose_machine_is_gone_goes_on_from_its_mirror(small: tuple[str, ...], trainer: Trainer) -> None:
    arguments = (*small, "schedule.decay_steps=6", "checkpoint.every_steps=3", "train.steps=6")
    straight, mine, far = trainer.cwd / "straight", trainer.cwd / "mine", trainer.cwd / "far"
    trainer.run("train", f"run_dir={straight}", *arguments)
    trainer.run("train", f"run_dir={mine}", *arguments, "train.steps=4", f"checkpoint.mirror={far}")
    shutil.rmtree(mine)
    trainer.run("resume", f"run_dir=file://{far}", f"into={mine}", "train.steps=6")
    assert_same_run(straight, mine)
    assert checkpoint_names(far) == ["step-00000003", "step-00000004", "step-00000006"]


HOSTILE_NAMES = ["../../elsewhere", "/tmp/elsewhere", "..", ".", ".ssh", "a/b", "a ", "a\\nb"]


@pytest.mark.parametrize("experiment", HOSTILE_NAMES)
def test_the_name_of_the_experiment_on_a_mirror_leads_to_no_other_place(
    experiment: str, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mirrored("memory://bucket/mine", run_dir)
    text = MemoryFileSystem().cat_file("/bucket/mine/config.yaml").decode()
    MemoryFileSystem().pipe_file(
        "/bucket/mine/config.yaml", text.replace("experiment: digits", f'experiment: "{experiment}"').encode()
    )
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below")
    before = sorted(tmp_path.rglob("*"))
    assert run(["resume", "run_dir=memory://bucket/mine"]) == NoValidCheckpoint.exit_status
    assert "into=DIR" in (said := capsys.readouterr().err) or "control characters" in said
    assert sorted(tmp_path.rglob("*")) == before


CKPT = "checkpoints/step-00000004"
NO_FILES = {
    "manifest": f"{CKPT}/manifest.json",
    "configuration of a checkpoint": f"{CKPT}/config.yaml",
    "values": f"{CKPT}/{DATA}",
    "checkpoint": CKPT,
    "configuration": "config.yaml",
    "history": "metrics.jsonl",
}


@pytest.mark.parametrize("kind", ["FIFO", "link"])
@pytest.mark.parametrize("name", NO_FILES)
def test_a_mirror_on_this_machine_is_not_followed_out_of_its_place_and_not_waited_for(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is a FIFO without a writer, or a link to a whole one elsewhere."""
    far, elsewhere = made(tmp_path / "far", 4), tmp_path / "elsewhere"
    (far / NO_FILES[name]).rename(elsewhere)
    if kind == "FIFO":
        os.mkfifo(far / NO_FILES[name])
    else:
        (far / NO_FILES[name]).symlink_to(elsewhere)
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    assert run(["resume", f"run_dir=file://{far}", "into=back"]) == NoValidCheckpoint.exit_status
    said = capsys.readouterr().err
    assert f"{far.name}" in said
    assert not (place / "back" / "metrics.jsonl").exists()


def test_a_mirror_whose_directory_of_checkpoints_leads_elsewhere_is_not_written_through(
    run_dir: Path, tmp_path: Path
) -> None:
    far, elsewhere = tmp_path / "far", tmp_path / "elsewhere"
    mirrored(f"file://{far}", run_dir)
    (far / "checkpoints").rename(elsewhere)
    (far / "checkpoints").symlink_to(elsewhere)
    before = content(elsewhere)
    (complaint, *_) = mirrored(f"file://{far}", made(run_dir, 6), Retention(1, 0, None, "accuracy"), 4)
    assert "checkpoints is a symbolic link" in complaint
    assert content(elsewhere) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "utf-8"),
        (b"a: [", "not YAML"),
        (b"[1, 2]", "not a configuration of this version"),
        (b"a: &x [1]\nb: *x\n", "not a configuration of this version"),
        (b"{" * 100, "not a configuration of this version"),
        (b"# " + b"x" * (1 << 20), "has more than 65536 bytes"),
    ],
)
def test_a_configuration_on_a_mirror_that_is_none_is_refused_and_nothing_is_left(
    content: bytes, message: str, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    mirrored("memory://bucket/mine", run_dir)
    MemoryFileSystem().pipe_file("/bucket/mine/config.yaml", content)
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    assert run(["resume", "run_dir=memory://bucket/mine"]) == NoValidCheckpoint.exit_status
    assert message in capsys.readouterr().err
    assert list(place.iterdir()) == []


def test_a_mirror_with_files_larger_than_its_manifest_says_is_not_copied(run_dir: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/far"
    mirrored(url, run_dir)
    for step in (2, 4):
        with (tmp_path / "far" / "checkpoints" / f"step-{step:08d}" / DATA).open("ab") as file:
            file.truncate(1 << 40)  # a terabyte, of which the disk stores nothing
    back = tmp_path / "back"
    back.mkdir()
    warnings: list[str] = []
    with pytest.raises(NoValidCheckpoint, match="holds no valid checkpoint"):
        fetch(Place(url), back, warnings.append)
    assert len(warnings) == 2
    assert all("1099511627776 bytes" in warning for warning in warnings)
    assert list(back.iterdir()) == [], "nothing is left where nothing was fetched"
