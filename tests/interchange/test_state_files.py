"""``export format=state`` and the way back: every bit of a run's state in one file."""

from __future__ import annotations

import json
import random
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import damages
import numpy as np
import pytest
import safetensors.numpy
import small_plugin
from foreign_files import Arrays
from processes import Trainer, checkpoint_names, metrics
from stored_runs import keep_this_process, store_run

from trainer.__main__ import run
from trainer.checkpoint import directory
from trainer.checkpoint.differences import differing_tensors
from trainer.checkpoint.tensors import StoredValues
from trainer.diagnosis.overview import overview
from trainer.errors import NoValidCheckpoint, RestoreRefused, UsageError
from trainer.interchange import state_files
from trainer.interchange.contents import Kind
from trainer.interchange.locate import locate
from trainer.interchange.readers import read_contents
from trainer.interchange.safetensors_files import read_safetensors, write_safetensors
from trainer.run import warm_start
from trainer.run_directory.lock import writing
from trainer.training.interfaces import Run

NAME = "step-00000000"
FORMAT_2 = Path(__file__).parents[1] / "formats" / "2" / "checkpoints"


def drawn(run: Run) -> None:
    """Values in everything that a run changes, so that none can be left out unseen."""
    generator = np.random.default_rng(4)
    state = run.state
    variables = [state.variables, state.ema, *state.optimizer.slots.values()]
    for variable in (variable for group in variables for variable in group.values()):
        variable.assign(np.abs(generator.normal(size=variable.shape)).astype(np.float32))
    state.progress.best_value.assign(0.1 + 0.2)  # needs all of its 64 bits
    state.progress.skipped_steps.assign(2**62 + 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with the run ``run`` and its state ``run.safetensors``."""
    place = tmp_path_factory.mktemp("state")
    small_plugin.install(place)
    with small_plugin.installed_here(place), pytest.MonkeyPatch.context() as patch:
        keep_this_process(patch)
        store_run(place / "run", drawn, "ema.decay=0.9", "optimizer=adam", network=small_plugin.SMALL)
        output = place / "run.safetensors"
        assert run(["export", f"run_dir={place / 'run'}", "format=state", f"output={place / 'run'}.safetensors"]) == 0
        assert output.is_file()
        yield place


def checkpoint_of(place: Path) -> Path:
    return place / "run" / "checkpoints" / NAME


def back(path: Path, run_dir: Path) -> Path:
    with writing(run_dir):
        name = state_files.unpack(path, run_dir)
    return run_dir / "checkpoints" / name


def files(checkpoint: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(checkpoint.iterdir())}


def test_the_way_back_makes_the_same_files_to_the_byte(place: Path, tmp_path: Path) -> None:
    made = back(place / "run.safetensors", tmp_path / "again")
    assert made.name == NAME
    assert files(made) == files(checkpoint_of(place))
    assert len(files(made)) == 5
    assert back(place / "run.safetensors", tmp_path / "again") == made  # a job that was pre-empted is started again


def test_a_checkpoint_of_the_first_program_of_its_format_goes_there_and_back(tmp_path: Path) -> None:
    (old,) = directory.committed(FORMAT_2)[-1:]
    state_files.pack(old, tmp_path / "state.safetensors")
    assert files(back(tmp_path / "state.safetensors", tmp_path / "run")) == files(old)


def test_the_library_reads_weights_slots_averages_and_counters_by_name_and_type(place: Path) -> None:
    found = safetensors.numpy.load_file(place / "run.safetensors")
    stored = StoredValues(checkpoint_of(place))
    assert sorted(found) == sorted(stored.names())
    assert {name.partition("/")[0] for name in found} == {"model", "optimizer", "ema", "progress"}
    for name, value in found.items():
        wanted = np.asarray(stored[name])
        assert (value.dtype, value.shape, value.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes()), name
    assert found["progress/skipped_steps"] == 2**62 + 1


def test_a_run_goes_on_from_its_state_as_if_it_had_never_stopped(trainer: Trainer, small: tuple[str, ...]) -> None:
    settings = (
        *small,
        "ema.decay=0.9",
        "schedule.warmup_steps=1",
        "checkpoint.every_steps=2",
        "evaluation.every_steps=2",
    )
    trainer.run("train", "run_dir=straight", *settings, "train.steps=4", "checkpoint.keep_last=5")
    assert checkpoint_names(trainer.cwd / "straight") == ["step-00000002", "step-00000004"]
    said = trainer.run("export", "run_dir=straight", "checkpoint=step-2", "format=state", "output=carried/state")
    (command,) = re.findall(r"^to go on from it: python -m trainer (.*)$", said, re.MULTILINE)
    said = trainer.run(*shlex.split(command))
    assert "resuming" in said
    continued = trainer.cwd / "carried" / "state.safetensors-continued"
    assert checkpoint_names(continued)[-1] == "step-00000004"
    last = [run_dir / "checkpoints" / "step-00000004" for run_dir in (trainer.cwd / "straight", continued)]
    assert differing_tensors(*last) == []
    assert [record for record in metrics(trainer.cwd / "straight") if record["step"] > 2] == metrics(continued)
    said = trainer.run("resume", "run_dir=straight", "checkpoint=carried/state.safetensors")  # the run itself goes back
    assert "set aside step-00000004" in said
    trainer.run("export", "run_dir=straight", "format=weights", "output=weights")
    said = trainer.run("resume", "run_dir=other", "checkpoint=weights.safetensors", status=4)
    assert "is no run or checkpoint of this program" in said
    assert not (trainer.cwd / "other").exists()


def test_a_file_that_was_cut_or_changed_is_refused_and_nothing_is_made(place: Path, tmp_path: Path) -> None:
    whole = (place / "run.safetensors").read_bytes()
    wanted, path = files(checkpoint_of(place)), tmp_path / "state.safetensors"
    refused, draw = 0, random.Random(8)
    # the same places of the header and of the values in turn: most bytes are values
    header = 8 + int.from_bytes(whole[:8], "little")
    for number in range(120):
        path.write_bytes(whole)
        if number % 4 == 3:
            [damages.truncate, damages.grow, damages.zero][number // 4 % 3](path, draw)
        else:
            content = bytearray(whole)
            content[draw.randrange(*((0, header) if number % 2 else (header, len(whole))))] ^= 1 << draw.randrange(8)
            path.write_bytes(content)
        run_dir = tmp_path / f"run{number}"
        try:
            made = back(path, run_dir)
        except (NoValidCheckpoint, RestoreRefused) as error:
            refused += str(path) in str(error) and not run_dir.exists()
        else:
            assert files(made) == wanted, number
    assert refused > 110


def test_each_kind_of_damage_is_named(place: Path, tmp_path: Path) -> None:
    contents = read_safetensors(place / "run.safetensors")
    values: Arrays = {tensor.key: contents.read(tensor) for tensor in contents.tensors}
    facts = dict(contents.facts)
    one, two = (name for name in values if name.endswith("moving_mean") and name.startswith(("model", "ema")))
    origin = json.loads(facts["trainer/origin.json"])
    configured = facts["trainer/config.yaml"].replace("optimizer:", "optimizer: ")
    damaged = {
        "its state.data-00000-of-00001 has another": ({**values, one: values[two], two: values[one]}, facts),
        "names, types and shapes of its tensors": (
            {{one: two, two: one}.get(name, name): value for name, value in values.items()},
            facts,
        ),
        "its config.yaml has another": (values, {**facts, "trainer/config.yaml": configured}),
        "its origin.json is not the one": (
            values,
            {**facts, "trainer/origin.json": json.dumps({**origin, "class_names": []})},
        ),
        "it has no trainer/fingerprint.json": (
            values,
            {name: text for name, text in facts.items() if "fingerprint" not in name},
        ),
        "was changed after it was written: its own SHA-256": (
            values,
            {**facts, "trainer/manifest.json": facts["trainer/manifest.json"].replace('"step": 0', '"step": 1')},
        ),
        "its state.index has another": (values, {**facts, "trainer/state.index": "AAAA"}),
        "trainer/state.index in it cannot be decoded": (values, {**facts, "trainer/state.index": "?"}),
    }
    for said, (arrays, texts) in damaged.items():
        path = tmp_path / "state.safetensors"
        write_safetensors(path, arrays, texts)
        assert state_files.is_state(path)
        with pytest.raises(NoValidCheckpoint, match=re.escape(said)):
            back(path, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_weights_of_a_changed_state_do_not_start_a_run(place: Path, tmp_path: Path) -> None:
    contents = read_safetensors(place / "run.safetensors")
    values: Arrays = {tensor.key: contents.read(tensor) for tensor in contents.tensors}
    kernel = next(name for name in values if name.startswith("model/") and name.endswith("kernel"))
    path = tmp_path / "state.safetensors"
    write_safetensors(path, {**values, kernel: values[kernel] + np.float32(1)}, contents.facts)
    assert read_contents(locate(place / "run.safetensors")).kind is Kind.STATE
    with pytest.raises(NoValidCheckpoint, match="another SHA-256"):
        warm_start.find(path)


def test_inspect_and_doctor_know_it_and_doctor_says_how_to_go_on(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place / "run.safetensors"
    seen = overview(path)
    assert seen["kind"] == "the whole state of a run of this trainer (format=state)"
    assert seen["file"] == {}
    assert seen["origin"]["checkpoint"] == NAME
    assert run(["doctor", f"checkpoint={path}"]) == 0
    said = capsys.readouterr().out
    assert "would restore as it is" in said
    assert re.search(rf"next: python -m trainer resume run_dir=\S+-continued checkpoint={path}", said)
    assert run(["doctor", f"checkpoint={path}", "optimizer=sgd"]) == 3
    assert "optimizer" in capsys.readouterr().out
    damaged = tmp_path / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    damaged.write_bytes(content)
    assert run(["doctor", f"checkpoint={damaged}"]) == 4
    assert "another SHA-256" in capsys.readouterr().out


def test_a_directory_with_another_checkpoint_of_that_step_is_left_alone(place: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        keep_this_process(patch)
        store_run(tmp_path / "run", lambda run: None, "seed=5", "ema.decay=0.9", network=small_plugin.SMALL)
    with pytest.raises(UsageError, match="has a step-00000000 of its own"):
        back(place / "run.safetensors", tmp_path / "run")


def test_what_belongs_to_a_network_is_no_argument_of_a_state(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = ["export", f"run_dir={place / 'run'}", "format=state", f"output={tmp_path / 'x'}"]
    assert run([*export, "weights=ema"]) == 2
    assert "leave weights=… and allow=… out" in capsys.readouterr().err


def test_a_state_that_is_not_what_was_packed_does_not_appear(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = state_files.write_safetensors

    def write(path: Path, values: Arrays, texts: dict[str, str]) -> None:
        first = next(iter(values))
        sound(path, {**values, first: values[first] + np.ones((), values[first].dtype)}, texts)

    monkeypatch.setattr(state_files, "write_safetensors", write)
    state_files.pack(checkpoint_of(place), tmp_path / "x.safetensors")
    with pytest.raises(NoValidCheckpoint, match="another SHA-256"):
        state_files.prove(tmp_path / "x.safetensors", tmp_path / "again")
    assert run(["export", f"run_dir={place / 'run'}", "format=state", f"output={tmp_path / 'new' / 'x'}"]) == 4
    assert not (tmp_path / "new").exists()
