"""What can be written under a path can be read there, whatever characters are in it; and nothing else is read."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from diagnosing import commit, narrow_arrays, narrow_config, narrow_state
from foreign_files import save_with_saver, slim
from image_data import everything, folder_source, make_shards, make_splits, shard_source

from trainer.__main__ import run
from trainer.checkpoint import bundle
from trainer.checkpoint.bundle import BundleReader
from trainer.checkpoint.differences import differing_tensors
from trainer.checkpoint.tensors import StateFile, damaged_tensors, read_tensor
from trainer.command_line import argument, command_line
from trainer.config.arguments import parse_arguments
from trainer.errors import UsageError
from trainer.interchange.bundles import read_bundle
from trainer.interchange.contents import Kind
from trainer.run import warm_start
from trainer.run.warm_start import WarmStart
from trainer.run_directory.history import History
from trainer.run_directory.metrics import TRAIN, Record
from trainer.training.state import build_state, flatten

NAMES = (
    "lr=[1]", "[", "lr=[0-9]", "a*b", "*", "a?b", "{x,y}", "a\\b", "50%", " blanks at both ends ", "quotes '\"",
    "é-ü-日本", "x" * 240, "$HOME ${HOME}", "#a;b&c|d(e)!", "~", "a,b:c=d", "tab\there", "-dash", "null", "123", "\\'",
    "trailing\\",
)  # fmt: skip
NOT_UTF8 = os.fsdecode(b"b\xfccher [1]")
KERNEL = "mixed_6d/branch_3/conv2d_0b_1x1/conv/kernel"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with one checkpoint."""
    run_dir = tmp_path_factory.mktemp("made") / "run"
    commit(run_dir, 2, narrow_state(), narrow_config())
    return run_dir


def moved_to(place: Path, made: Path) -> Path:
    """The checkpoint of a copy of the run directory at ``place``."""
    return Path(shutil.copytree(made, place)) / "checkpoints" / "step-00000002"


@pytest.mark.parametrize("name", ["lr=[1]", "a*b?", "a\\b", "{x,y} '\" é-日本 50%", "x" * 240, NOT_UTF8])
def test_a_checkpoint_is_written_restored_compared_and_examined_under_any_path(
    name: str, made: Path, tmp_path: Path
) -> None:
    place = commit(tmp_path / name, 2, narrow_state(), narrow_config())
    assert differing_tensors(place, made / "checkpoints" / "step-00000002") == []
    assert damaged_tensors(place) == []
    tree = narrow_state().tree()
    StateFile(tree, flatten(tree)).restore(place)


@pytest.mark.parametrize("name", NAMES)
def test_an_argument_that_is_printed_means_the_path_when_it_is_copied_into_a_shell(name: str, tmp_path: Path) -> None:
    line = command_line("verify", argument("run_dir", tmp_path / name), argument("checkpoint", name))
    program, *_, command, run_dir, checkpoint = shlex.split(line)
    assert (program, command) == ("python", "verify")
    assert parse_arguments([run_dir, checkpoint]) == {"run_dir": str(tmp_path / name), "checkpoint": name}


def test_a_plain_path_is_printed_whole_and_without_quotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain").mkdir()
    monkeypatch.chdir(tmp_path / "plain")
    expected = f"run_dir={tmp_path}/plain/outputs/digits/2026-01-01"
    assert argument("run_dir", Path("outputs/digits/2026-01-01")) == expected


def test_the_commands_work_on_a_run_with_brackets_and_print_commands_that_do(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "lr=[1]"
    path = moved_to(run_dir, made)
    quoted = argument("run_dir", run_dir)
    assert run(["verify", quoted]) == 0
    assert run(["inspect", quoted]) == 0
    assert run(["doctor", argument("checkpoint", path)]) == 0
    line = capsys.readouterr().out.rpartition("next: ")[2]
    assert parse_arguments(shlex.split(line)[4:]) == {"run_dir": str(run_dir), "checkpoint": str(path)}
    values = bytearray((path / "state.data-00000-of-00001").read_bytes())
    values[100] ^= 1
    (path / "state.data-00000-of-00001").write_bytes(values)
    assert run(["verify", quoted]) == 4
    assert "damaged tensor: " in capsys.readouterr().out
    assert run(["doctor", argument("checkpoint", path)]) == 4


@pytest.mark.parametrize("name", ["[1]", "model[1]*.ckpt-5"])
def test_weights_of_other_programs_are_taken_from_any_prefix(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    arrays = narrow_arrays()
    prefix = save_with_saver(tmp_path / "plain.ckpt", slim(arrays))
    for file in prefix.parent.glob("plain.ckpt.*"):
        shutil.move(file, tmp_path / name / file.name.replace("plain.ckpt", name))
    state = build_state(narrow_config())
    start = WarmStart(warm_start.find(tmp_path / name / name), ("preprocess", "model.count_include_pad"), True)
    digits = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    warm_start.load(start, narrow_config(), state, digits)
    assert all(np.array_equal(state.variables[key].numpy(), value) for key, value in arrays.items())


def test_a_saved_model_and_a_file_of_the_first_format_are_listed_below_brackets(tmp_path: Path) -> None:
    place = tmp_path / "[a]"
    module = tf.Module()
    module.weight = tf.Variable([1.0, 2.0])
    tf.saved_model.save(module, str(place))
    contents = read_bundle(place / "variables" / "variables", Kind.BUNDLE)
    assert any(np.array_equal(contents.read(tensor), [1.0, 2.0]) for tensor in contents.tensors)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variable = tf.compat.v1.get_variable("weight", initializer=[3.0])
        session.run(variable.initializer)
        saver = tf.compat.v1.train.Saver(write_version=tf.compat.v1.train.SaverDef.V1)
        saved = saver.save(session, str(tmp_path / "v1.ckpt"), write_meta_graph=False)
    moved = Path(shutil.move(saved, place / "v1[2].ckpt"))
    (tensor,) = read_bundle(moved, Kind.V1).tensors
    assert read_bundle(moved, Kind.V1).read(tensor).tolist() == [3.0]


def test_links_are_made_only_where_they_are_needed_and_do_not_stay(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    path = moved_to(tmp_path / "[1]", made)
    reader = BundleReader(path / "state")
    assert len(list(temporary.iterdir())) == 1
    assert reader.get(next(iter(reader.shapes))) is not None
    del reader
    assert list(temporary.iterdir()) == []
    with bundle.without_patterns(tmp_path / "plain" / "state") as name:
        assert name == str(tmp_path / "plain" / "state")


def test_without_a_writable_temporary_directory_a_descriptor_leads_there(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "PLACES", ())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    path = moved_to(tmp_path / "[1]", made)
    before = os.listdir("/proc/self/fd")
    assert np.array_equal(read_tensor(path, f"model/{KERNEL}"), narrow_state().variables[KERNEL].numpy())
    assert os.listdir("/proc/self/fd") == before
    monkeypatch.setattr(bundle, "DESCRIPTORS", tmp_path / "no-proc")
    with pytest.raises(UsageError, match="TMPDIR"):
        read_tensor(path, f"model/{KERNEL}")


def test_a_temporary_directory_that_is_itself_a_pattern_is_not_used(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job[1]").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "job[1]"))
    path = moved_to(tmp_path / "[1]", made)
    assert damaged_tensors(path) == []
    assert list((tmp_path / "job[1]").iterdir()) == []


@pytest.mark.parametrize("name", ["data [1]*", "{a,b}?\\"])
def test_data_and_history_lie_below_any_path(name: str, tmp_path: Path) -> None:
    root = tmp_path / name
    assert everything(folder_source(make_splits(root / "folder"))) == everything(
        folder_source(make_splits(tmp_path / "plain"))
    )
    assert everything(shard_source(make_shards(root / "shards"))) == everything(
        shard_source(make_shards(tmp_path / "shards"))
    )
    run_dir = root / "run"
    run_dir.mkdir()
    for begun in (0, 1):
        history = History(run_dir, begun)
        history.add(Record(begun + 1, TRAIN, {"loss": 1.0}, {"closing": False}))
        history.sync()
        history.close()
        for path in (run_dir / "tensorboard" / "train").iterdir():  # as on a host whose name is no UTF-8
            path.rename(path.with_name(os.fsdecode(b"events.out.tfevents.1.b\xfccher") + str(begun)))
    assert len((run_dir / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_prepared_data_set_is_found_below_brackets(tmp_path: Path) -> None:
    from prepared_data import prepare, tfds_source

    prepare(tmp_path / "plain")
    shutil.copytree(tmp_path / "plain", tmp_path / "data [1]*")
    values = f"data.root={str(tmp_path / 'data [1]*')!r}"
    assert everything(tfds_source(tmp_path / "plain", "train", values)) == everything(tfds_source(tmp_path / "plain"))
