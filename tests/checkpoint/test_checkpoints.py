"""Checkpoint directories: whole or absent, strict both ways, retired by policy."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from manifests_made import describe
from saving import no_renames_of_checkpoints

from trainer.checkpoint import directory
from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.differences import differing_tensors
from trainer.checkpoint.manifest import PREFIX
from trainer.checkpoint.retention import Retention, retire
from trainer.checkpoint.tensors import NotFinite, StateFile, read_tensor, stored_tensors
from trainer.checkpoint.verification import newest_valid, verify
from trainer.errors import NoValidCheckpoint, RestoreRefused
from trainer.run_directory.history import History, keep_readable
from trainer.run_directory.layout import LOCK
from trainer.run_directory.metrics import Record, read_metrics, read_validations
from trainer.storage.checksums import masked_crc32c
from trainer.storage.lease import Fence
from trainer.training.state import flatten


def make(parent: Path, step: int, accuracy: float | None = None) -> Path:
    validation = None if accuracy is None else {"accuracy": accuracy, "loss": 1 - accuracy}

    def fill(place: Path) -> None:
        (place / "data").write_bytes(bytes([step % 256]) * 100)

    return directory.commit(parent, step, fill, describe(step, validation), Fence(parent / LOCK))


def tree(scale: float = 1.0, **more: tf.Variable) -> dict[str, object]:
    return {
        "model": {"conv": {"kernel": tf.Variable([[scale, 2.0]]), "bias": tf.Variable([3.0])}, **more},
        "progress": {"step": tf.Variable(5, dtype=tf.int64)},
    }


def state_file(content: dict[str, object]) -> StateFile:
    return StateFile(content, flatten(content))


def write(content: dict[str, object], place: Path) -> None:
    file = state_file(content)
    file.write(file.snapshot(), place)


def test_a_committed_checkpoint_verifies_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = make(tmp_path, 3)
    assert path.name == "step-00000003"
    assert verify(path, "full").step == 3
    assert [child.name for child in tmp_path.iterdir()] == ["step-00000003"]


def test_a_writer_that_dies_leaves_no_checkpoint_and_its_leftovers_are_removed(tmp_path: Path) -> None:
    make(tmp_path, 1)

    def fill(place: Path) -> None:
        (place / "data").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        directory.commit(tmp_path, 2, fill, describe(2), Fence(tmp_path / LOCK))
    assert [path.name for path in directory.committed(tmp_path)] == ["step-00000001"]
    directory.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "grow", "delete", "manifest", "no manifest", "empty"])
def test_damage_is_found_named_and_skipped(damage: str, tmp_path: Path) -> None:
    make(tmp_path, 1)
    path = make(tmp_path, 2)
    data, manifest = path / "data", path / manifests.FILE_NAME
    match damage:
        case "flip":
            data.write_bytes(b"\x03" + data.read_bytes()[1:])
        case "truncate":
            data.write_bytes(data.read_bytes()[:50])
        case "grow":
            data.write_bytes(data.read_bytes() + b"x")
        case "delete":
            data.unlink()
        case "manifest":
            manifest.write_text(manifest.read_text()[:-5])
        case "no manifest":
            manifest.unlink()
        case "empty":
            manifest.write_text("{}")
    with pytest.raises(NoValidCheckpoint):
        verify(path, "full")
    warnings: list[str] = []
    found = newest_valid(tmp_path, "full", warnings.append)
    assert found.path.name == "step-00000001"
    assert len(warnings) == 1
    assert "step-00000002" in warnings[0]


def test_no_checkpoint_at_all_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    with pytest.raises(NoValidCheckpoint, match="holds no checkpoint"):
        newest_valid(tmp_path, "full", print)


def test_retention_keeps_the_last_the_best_and_the_multiples(tmp_path: Path) -> None:
    accuracies = {10: 0.5, 20: 0.9, 30: None, 40: 0.7, 50: 0.6, 60: None}
    for step, accuracy in accuracies.items():
        make(tmp_path, step, accuracy)
    retired = retire(tmp_path, Retention(2, 1, 30, "accuracy"), {}, tmp_path / "step-00000060")
    assert [path.name for path in retired] == ["step-00000010", "step-00000040"]
    assert [directory.step_of(path) for path in directory.committed(tmp_path)] == [20, 30, 50, 60]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_retention_ranks_by_the_history_where_a_manifest_has_no_validation(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        make(tmp_path, step, 0.5 if step == 1 else None)
    validations = {2: {"accuracy": 0.8, "loss": 0.2}}
    retire(tmp_path, Retention(1, 1, None, "accuracy"), validations, tmp_path / "step-00000003")
    assert [directory.step_of(path) for path in directory.committed(tmp_path)] == [2, 3]


def test_retention_does_not_touch_a_checkpoint_whose_manifest_is_damaged(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        make(tmp_path, step)
    (tmp_path / "step-00000001" / manifests.FILE_NAME).write_text("?")
    retire(tmp_path, Retention(1, 0, None, "accuracy"), {}, tmp_path / "step-00000003")
    assert [directory.step_of(path) for path in directory.committed(tmp_path)] == [1, 3]


def test_checkpoints_are_set_aside_under_names_of_their_own(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        make(tmp_path, step)
    directory.set_aside(directory.committed(tmp_path)[1:])
    make(tmp_path, 2)
    directory.set_aside(directory.committed(tmp_path)[1:])
    assert [directory.step_of(path) for path in directory.committed(tmp_path)] == [1]
    aside = sorted(path.name for path in (tmp_path / directory.SUPERSEDED).iterdir())
    assert aside == ["step-00000002", "step-00000002.1", "step-00000003"]


def test_where_a_directory_cannot_be_renamed_its_copy_takes_its_place(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    paths = [make(checkpoints, step, accuracy=0.5) for step in (1, 2, 3, 4)]
    (paths[3] / "data").write_bytes(b"damaged")
    (paths[3] / "folder").mkdir()
    (paths[3] / "folder" / "link").symlink_to("nowhere")
    os.mkfifo(paths[3] / "fifo")
    with no_renames_of_checkpoints():
        place = directory.quarantine(paths[3], "its data are not those of its manifest")
        directory.set_aside([paths[2]])
        assert retire(checkpoints, Retention(1, 0, None, "accuracy"), {}, paths[1]) == [paths[0]]
    assert directory.committed(checkpoints) == [paths[1]]
    assert directory.put_away(checkpoints) == [place, checkpoints / directory.SUPERSEDED / paths[2].name]
    assert verify(checkpoints / directory.SUPERSEDED / paths[2].name, "full").step == 3
    assert (place / "data").read_bytes() == b"damaged"
    assert os.readlink(place / "folder" / "link") == "nowhere"
    assert (place / "fifo").is_fifo()
    assert [path.name for path in checkpoints.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("call", ["copy_tree", "rmtree"])
def test_a_copy_that_fails_half_way_leaves_the_checkpoint_under_one_name_that_counts(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = tmp_path / "checkpoints"
    make(checkpoints, 1)
    path = make(checkpoints, 2)

    def half(source: Path, target: Path | None = None, **options: bool) -> None:
        if call == "copy_tree":
            assert target is not None
            target.mkdir()
            (target / "data").write_bytes(b"half")
        elif source == path:
            (source / "data").unlink()
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(source))

    with no_renames_of_checkpoints(), monkeypatch.context() as broken:
        broken.setattr(directory if call == "copy_tree" else directory.shutil, call, half)
        with pytest.raises(OSError, match="Input/output error") if call == "copy_tree" else contextlib.nullcontext():
            directory.set_aside([path])
    assert ("its copy" in capsys.readouterr().err) == (call == "rmtree")
    there, aside = newest_valid(checkpoints, "full", lambda text: None), directory.put_away(checkpoints)
    assert [directory.step_of(found) for found in aside] == ([] if call == "copy_tree" else [2])
    assert all(verify(found, "full") for found in aside)
    assert there.manifest.step == (2 if call == "copy_tree" else 1)
    assert there.damaged == ()
    directory.remove_leftovers(checkpoints)
    assert path.exists() == (call == "copy_tree")
    left = [found.name for found in checkpoints.rglob(".*")]
    assert left == []


def test_a_directory_that_cannot_be_deleted_where_it_is_makes_way_for_its_step_or_is_the_reason_of_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier, path = make(tmp_path, 1), make(tmp_path, 2)
    (tmp_path / f"{directory.RETIRED}{path.name}").mkdir()  # retired when it could be renamed, and in use since

    def refuse(place: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(place))

    with no_renames_of_checkpoints(), monkeypatch.context() as broken:
        broken.setattr(directory.shutil, "rmtree", refuse)
        with pytest.raises(OSError, match="busy"):
            directory.remove(path)
        assert directory.committed(tmp_path) == [earlier]
        directory.remove_leftovers(tmp_path)
        assert capsys.readouterr().err.count("cannot be deleted") == 2
        assert directory.committed(tmp_path) == [earlier]
        with pytest.raises(OSError, match="busy"):
            make(tmp_path, 2)
    make(tmp_path, 2)
    assert directory.committed(tmp_path) == [earlier, path]
    assert verify(path, "full").step == 2


def test_tensors_are_stored_under_the_names_of_the_tree(tmp_path: Path) -> None:
    write(tree(), tmp_path)
    assert stored_tensors(tmp_path) == {
        "model/conv/bias": "float32[1]",
        "model/conv/kernel": "float32[1, 2]",
        "progress/step": "int64[]",
    }
    assert read_tensor(tmp_path, "progress/step") == 5


def test_restore_is_strict_both_ways_and_assigns_nothing_when_it_refuses(tmp_path: Path) -> None:
    write(tree(scale=7.0), tmp_path)
    wider = tree(extra=tf.Variable([1.0]))
    with pytest.raises(RestoreRefused, match=r"model/extra: checkpoint absent, program float32\[1\]"):
        state_file(wider).restore(tmp_path)
    narrower = tree()
    del narrower["progress"]
    with pytest.raises(RestoreRefused, match=r"progress/step: checkpoint int64\[\], program absent"):
        state_file(narrower).restore(tmp_path)
    reshaped = tree()
    reshaped["model"]["conv"]["bias"] = tf.Variable([1.0, 2.0])  # type: ignore[index]
    with pytest.raises(RestoreRefused, match=r"model/conv/bias: checkpoint float32\[1\], program float32\[2\]"):
        state_file(reshaped).restore(tmp_path)
    for content in (wider, narrower, reshaped):
        assert flatten(content)["model/conv/kernel"].numpy().tolist() == [[1.0, 2.0]]
    same = tree()
    state_file(same).restore(tmp_path)
    assert flatten(same)["model/conv/kernel"].numpy().tolist() == [[7.0, 2.0]]


def test_non_finite_variables_are_named(tmp_path: Path) -> None:
    content = tree(extra=tf.Variable([1.0, np.nan]), large=tf.Variable(tf.fill([3, 2**20], 1.0)[:, 1:]))
    flatten(content)["model/large"][2, -1].assign(np.inf)
    with pytest.raises(NotFinite) as found:
        write(content, tmp_path)
    assert found.value.names == ["model/extra", "model/large"]


def test_comparison_is_bitwise_and_names_the_first_difference(tmp_path: Path) -> None:
    places = {}
    for name, value in {"a": 0.0, "b": -0.0, "nan": np.nan, "nan2": np.nan}.items():
        places[name] = tmp_path / name
        places[name].mkdir()
        tf.train.Checkpoint(**tree(value)).write(str(places[name] / PREFIX))  # we do not write a NaN
    assert differing_tensors(places["a"], places["a"]) == []
    assert differing_tensors(places["nan"], places["nan2"]) == []
    (difference,) = differing_tensors(places["a"], places["b"])  # 0.0 == -0.0, but not its bits
    assert difference.name == "model/conv/kernel"
    assert "first at [0, 0]: 0.0 against -0.0" in difference.how


def test_a_comparison_with_a_value_that_cannot_be_read_names_it(tmp_path: Path) -> None:
    write(tree(), tmp_path)
    data = tmp_path / "state.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[content.index(np.float32(2.0).tobytes())] ^= 1
    data.write_bytes(content)
    with pytest.raises(
        NoValidCheckpoint, match=r"is damaged: model/conv/kernel cannot be read: .*\nlook at it: .*doctor"
    ):
        differing_tensors(tmp_path, tmp_path)


def test_history_drops_what_a_resume_makes_again(tmp_path: Path) -> None:
    history = History(tmp_path, 0)
    for step in (2, 4, 6):
        history.add(Record(step, "train", {"loss": float(step)}, {}))
    history.add(Record(4, "val", {"loss": 4.0, "accuracy": 0.5, "skipped": 0}, {}))
    history.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "split": "tr')  # a process that was killed while writing
    resumed = History(tmp_path, 4)
    assert resumed.validations == {4: {"loss": 4.0, "accuracy": 0.5, "skipped": 0}}
    resumed.add(Record(6, "train", {"loss": 60.0}, {}))
    resumed.close()
    assert [(r["step"], r["loss"]) for r in read_metrics(tmp_path / "metrics.jsonl")] == [
        (2, 2.0),
        (4, 4.0),
        (4, 4.0),
        (6, 60.0),
    ]
    assert tensorboard_points(tmp_path / "tensorboard" / "train", "loss/loss") == [(2, 2.0), (4, 4.0), (6, 60.0)]


@pytest.mark.parametrize("later", [(), (5,)], ids=["cut", "rewritten"])
def test_a_validation_of_which_the_state_does_not_know_is_made_again(later: tuple[int, ...], tmp_path: Path) -> None:
    """A stop came before it, so the checkpoint of its step is without it, and a kill after it."""
    values = {"loss": 4.0, "accuracy": 0.5, "skipped": 0}
    history = History(tmp_path, 0)
    for step in (3, *later, 4):
        history.add(Record(step, "train", {"loss": float(step)}, {}))
    history.add(Record(2, "val", values, {"closing": False}))
    history.add(Record(4, "val", values, {"closing": False}))
    history.close()
    resumed = History(tmp_path, 4, noted=False)
    assert list(resumed.validations) == [2]
    resumed.add(Record(4, "val", values, {"closing": True}))
    resumed.close()
    assert list(read_validations(tmp_path)) == [2, 4]
    points = tensorboard_points(tmp_path / "tensorboard" / "val", "loss/loss")
    assert [step for step, _ in points] == [2, 4]
    last = History(tmp_path, 4, noted=False)
    last.close()
    assert list(last.validations) == [2, 4], "one that the end of a run made stays"


def test_tensorboard_shows_one_line_after_a_kill_in_the_middle_of_an_event(tmp_path: Path) -> None:
    history = History(tmp_path, 0)
    for step in (1, 2, 3):
        history.add(Record(step, "train", {"loss": float(step)}, {}))
    history.close()
    (events,) = (tmp_path / "tensorboard" / "train").iterdir()
    events.write_bytes(events.read_bytes()[:-7])
    resumed = History(tmp_path, 2)
    for step in (3, 4):
        resumed.add(Record(step, "train", {"loss": step * 10.0}, {}))
    resumed.close()
    assert tensorboard_points(tmp_path / "tensorboard" / "train", "loss/loss") == [
        (1, 1.0),
        (2, 2.0),
        (3, 30.0),
        (4, 40.0),
    ]


def tensorboard_points(run: Path, tag: str) -> list[tuple[int, float]]:
    """What TensorBoard's own reader shows for a scalar, every event of it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(run), purge_orphaned_data=False)
    reader.Reload()
    return [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in reader.Tensors(tag)]


def test_a_manifest_of_another_format_is_refused_by_number(tmp_path: Path) -> None:
    path = make(tmp_path, 1)
    manifest = path / manifests.FILE_NAME
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 99}))
    with pytest.raises(NoValidCheckpoint, match="has format 99; this version reads 2"):
        verify(path, "full")


def test_leftovers_are_removed_without_following_where_they_lead(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / f"{directory.UNFINISHED}link").symlink_to(elsewhere)
    (checkpoints / f"{directory.RETIRED}file").write_text("x")
    os.mkfifo(checkpoints / f"{directory.UNFINISHED}fifo")
    directory.remove_leftovers(checkpoints)
    assert list(checkpoints.iterdir()) == []
    assert (elsewhere / "kept").read_text() == "kept"


@pytest.mark.parametrize(
    "line",
    [
        b"not JSON",
        b"[" * 5000,
        b"x" * 200_000,
        b'{"step": -1, "split": "train"}',
        b'{"step": 1180591620717411303424, "split": "train"}',
        b'{"step": 1, "step": 2, "split": "train"}',
        b'{"step": 1.0, "split": "train"}',
        b'{"step": true, "split": "train"}',
        b'{"step": 2, "split": "val", "loss": 1.0}',
        b'{"step": 2, "split": "val", "loss": "1", "accuracy": 1.0}',
        b'{"step": 2, "split": "test"}',
        b'{"step": 2, "split": "train", "loss": [[1]]}',
        b"\xff\xfe",
    ],
)
def test_a_line_that_is_no_record_is_put_beside_with_its_reason_and_the_others_are_kept(
    line: bytes, tmp_path: Path
) -> None:
    good = [b'{"step": 1, "split": "train", "loss": 2.0}', b'{"step": 2, "split": "train", "loss": 1.0}']
    path = tmp_path / "metrics.jsonl"
    damaged = b"\n".join([good[0], line, good[1], b""])
    path.write_bytes(damaged)
    said: list[str] = []
    keep_readable(tmp_path, None, said.append)
    assert len(said) == 1
    assert "metrics.jsonl is damaged: line 2: " in said[0]
    assert path.read_bytes() == b"\n".join([*good, b""])
    assert (tmp_path / "metrics.jsonl.damaged.0").read_bytes() == damaged
    keep_readable(tmp_path, None, said.append)
    assert len(said) == 1


def test_an_event_that_claims_terabytes_is_where_the_events_end(tmp_path: Path) -> None:
    history = History(tmp_path, 0)
    for step in (1, 2):
        history.add(Record(step, "train", {"loss": float(step)}, {}))
    history.close()
    (events,) = (tmp_path / "tensorboard" / "train").iterdir()
    length = struct.pack("<Q", 2**50)
    with events.open("ab") as file:
        file.write(length + struct.pack("<I", masked_crc32c(length)))
    os.mkfifo(events.with_name("events.out.tfevents.fifo"))
    History(tmp_path, 1).close()
    events.with_name("events.out.tfevents.fifo").unlink()
    assert tensorboard_points(tmp_path / "tensorboard" / "train", "loss/loss") == [(1, 1.0)]


def test_a_checkpoint_that_takes_the_place_of_one_of_its_step_leaves_that_if_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = tmp_path / "run" / "checkpoints"
    parent.parent.mkdir()
    last, fence = make(parent, 6), Fence(parent / LOCK)
    before, rename = (last / manifests.FILE_NAME).read_text(), Path.rename

    def full(path: Path, target: Path) -> Path:
        if path.name.startswith(directory.UNFINISHED):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return rename(path, target)

    def commit_again() -> None:
        directory.commit(parent, 6, lambda place: (place / "made").touch(), lambda *_: "again", fence, again=True)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        with pytest.raises(OSError, match="No space"):
            commit_again()
    assert (last / manifests.FILE_NAME).read_text() == before
    assert directory.put_away(parent) == []
    commit_again()
    assert sorted(path.name for path in last.iterdir()) == ["made", manifests.FILE_NAME]
    assert directory.put_away(parent) == []
    with pytest.raises(AssertionError, match="a resume sets later"):
        directory.commit(parent, 6, lambda place: None, lambda *_: "", fence)
