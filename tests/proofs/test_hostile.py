"""Run directories made to harm: each is refused with a message and an exit status of the contract, and with no effect.

Every case is a whole run directory in which one thing is hostile and everything else, digests included, fits it. What
``resume`` does with it is watched by an audit hook: no import, no code, no process, no connection, nothing opened for
writing outside of the directory, nothing read from the place next to it, nothing in it changed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import step_facts_once
import tensorflow as tf
from processes import NARROW
from stored_runs import built_once

from trainer.__main__ import run
from trainer.checkpoint import directory
from trainer.checkpoint import manifest as manifests
from trainer.checkpoint.tensors import ATTRIBUTE
from trainer.commands import resume  # noqa: F401  imported before anything is watched
from trainer.config.compose import compose
from trainer.models.size import bound, measure
from trainer.run import assembly, session
from trainer.run_directory.layout import CHECKPOINTS
from trainer.sweeps import plan
from trainer.training.interfaces import Run

STEP = 2
USAGE, REFUSED, INVALID = 2, 3, 4
SECRET = "the secret next to the run directory"


def one_step(loop: Run) -> None:
    """In place of training: a checkpoint of the state as it was built, called step 2."""
    loop.state.progress.step.assign(STEP)
    loop.checkpointer.save()
    loop.checkpointer.finish()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with one checkpoint, made and resumable by the program itself."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly.execution, "configure", lambda config: None)
        patch.setattr(session, "run_loop", one_step)
        assert run(["train", f"run_dir={run_dir}", *NARROW]) == 0
    return run_dir


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """This process has used TensorFlow already, so its threads stay; and where training begins, the test ends."""
    reached: list[Run] = []
    monkeypatch.setattr(assembly.execution, "configure", lambda config: None)
    monkeypatch.setattr(session, "run_loop", reached.append)
    monkeypatch.setattr(assembly, "build_state", built_once)  # the cases that get so far all want the same
    step_facts_once.install(monkeypatch)
    return reached


# ---- what is watched


WATCHED: list[tuple[str, tuple[Any, ...]]] | None = None
ANSWERS = {"socket.gethostname"}  # asked for the lock; nothing is sent
EFFECTS = ("subprocess.", "socket.", "pickle.", "marshal.", "ctypes.", "shutil.", "ftplib.", "urllib.", "webbrowser.")
OS_EFFECTS = {"remove", "rename", "mkdir", "rmdir", "link", "symlink", "chmod", "chown", "truncate", "system", "exec"}
OS_EFFECTS |= {"posix_spawn", "spawn", "fork", "forkpty", "startfile", "kill", "mkfifo", "mknod", "utime", "setxattr"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _called_from(*files: str) -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.endswith(files):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if WATCHED is None or event in ANSWERS:
        return
    if event == "os.truncate" and isinstance(arguments[0], int):
        arguments = (os.readlink(f"/proc/self/fd/{arguments[0]}"),)
    # dataclasses' annotations are texts of our own source, which typing evaluates
    code = event in ("exec", "compile") and not _called_from("/typing.py")
    opened = event == "open" and not _called_from("trainer/runtime/quiet.py")  # its nameless temporary file
    changed = event.startswith("os.") and event.removeprefix("os.") in OS_EFFECTS
    if code or opened or changed or event == "import" or event.startswith(EFFECTS):
        WATCHED.append((event, arguments))


sys.addaudithook(_watch)


@contextmanager
def watched() -> Iterator[list[tuple[str, tuple[Any, ...]]]]:
    global WATCHED  # noqa: PLW0603 - an audit hook can never be taken out again
    events: list[tuple[str, tuple[Any, ...]]] = []
    WATCHED = events
    try:
        yield events
    finally:
        WATCHED = None


def effects(events: list[tuple[str, tuple[Any, ...]]], run_dir: Path, outside: Path) -> list[str]:
    """Everything but reading files of the program and of the run directory, and holding its lock."""
    found = []
    for event, arguments in events:
        if event == "os.truncate" and arguments == (str(run_dir / ".lock"),):
            continue
        if event != "open":
            found.append(f"{event} {arguments}")
            continue
        path, _, flags = arguments
        place = Path(os.fsdecode(path)) if isinstance(path, str | bytes) else None
        if place is None:
            continue
        writes = flags & WRITING and place != run_dir / ".lock"
        if writes or place.is_relative_to(outside):
            found.append(f"open {path} {flags:o}")
    return found


def tree(place: Path) -> dict[str, tuple[Any, ...]]:
    """What every path is, holds or points to; the lock aside, which a process must hold to look."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(place.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() and status.st_size < 10**7 else None
        link = os.readlink(path) if path.is_symlink() else None
        if path.name != ".lock" or link is not None:
            found[str(path.relative_to(place))] = (status.st_mode, status.st_size, content, link)
    return found


# ---- how a directory is made hostile


@dataclasses.dataclass(frozen=True)
class Stage:
    """The run directory of one case and the place next to it, which holds a secret."""

    run_dir: Path
    outside: Path

    @property
    def checkpoint(self) -> Path:
        return self.run_dir / CHECKPOINTS / directory.name_of(STEP)

    @property
    def secret(self) -> Path:
        return self.outside / "secret"

    def sign(self, change: Callable[[dict[str, Any]], None] = lambda manifest: None) -> None:
        """Make the manifest fit the files as they are now, and itself: whoever writes a directory can do that."""
        path = self.checkpoint / manifests.FILE_NAME
        manifest = json.loads(path.read_text())
        manifest.pop(manifests.SELF_DIGEST)
        for file in self.checkpoint.iterdir():
            if file != path and file.is_file() and not file.is_symlink():
                manifest["files"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
                manifest["sizes"][file.name] = file.stat().st_size
        change(manifest)
        text = json.dumps(manifest, indent=2) + "\n"
        sealed = {**json.loads(text), manifests.SELF_DIGEST: hashlib.sha256(text.encode()).hexdigest()}
        path.write_text(json.dumps(sealed, indent=2) + "\n")


Hostility = Callable[[Stage], None]


def config(old: str, new: str) -> Hostility:
    """The stored configuration with one text replaced."""

    def apply(stage: Stage) -> None:
        path = stage.checkpoint / "config.yaml"
        text = path.read_text()
        assert text.count(old) == 1, (old, text)
        path.write_text(text.replace(old, new))
        stage.sign()

    return apply


def both(*hostilities: Hostility) -> Hostility:
    def apply(stage: Stage) -> None:
        for hostility in hostilities:
            hostility(stage)

    return apply


def manifest_text(old: str, new: str) -> Hostility:
    """The manifest with one text replaced and its own digest left as it was."""

    def apply(stage: Stage) -> None:
        path = stage.checkpoint / manifests.FILE_NAME
        path.write_text(path.read_text().replace(old, new))

    return apply


def whole_config(content: bytes) -> Hostility:
    def apply(stage: Stage) -> None:
        (stage.checkpoint / "config.yaml").write_bytes(content)
        stage.sign()

    return apply


def added(line: str) -> Hostility:
    """The stored configuration with a line before all others."""

    def apply(stage: Stage) -> None:
        path = stage.checkpoint / "config.yaml"
        path.write_text(f"{line}\n{path.read_text()}")
        stage.sign()

    return apply


def manifest(**changes: Any) -> Hostility:
    """The manifest with fields replaced and its own digest made to fit."""
    return lambda stage: stage.sign(lambda entries: entries.update(changes))


def manifest_in(field: str, name: str, value: Any) -> Hostility:
    return lambda stage: stage.sign(lambda entries: entries[field].update({name: value}))


def manifest_without(field: str) -> Hostility:
    def drop(entries: dict[str, Any]) -> None:
        del entries[field]

    return lambda stage: stage.sign(drop)


def manifest_bytes(content: bytes) -> Hostility:
    def apply(stage: Stage) -> None:
        (stage.checkpoint / manifests.FILE_NAME).write_bytes(content)

    return apply


def fingerprint(content: bytes) -> Hostility:
    def apply(stage: Stage) -> None:
        (stage.checkpoint / "fingerprint.json").write_bytes(content)
        stage.sign()

    return apply


def replaced(name: str, make: Callable[[Path, Stage], object]) -> Hostility:
    """A path below the run directory replaced by something else."""

    def apply(stage: Stage) -> None:
        path = stage.run_dir / name.replace("CKPT", f"{CHECKPOINTS}/{directory.name_of(STEP)}")
        if path.is_dir():
            path.rename(stage.outside / "moved")
        else:
            path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path, stage)

    return apply


def link_to_secret(path: Path, stage: Stage) -> None:
    path.symlink_to(stage.secret)


def link_to_moved(path: Path, stage: Stage) -> None:
    """A link to a whole directory elsewhere: the one that was there, or an empty one."""
    (stage.outside / "moved").mkdir(exist_ok=True)
    path.symlink_to(stage.outside / "moved")


def hard_link(path: Path, stage: Stage) -> None:
    path.hardlink_to(stage.secret)


def fifo(path: Path, stage: Stage) -> None:
    os.mkfifo(path)


def unix_socket(path: Path, stage: Stage) -> None:
    place = Path.cwd()
    os.chdir(path.parent)  # an address has room for 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(place)


def sparse(size: int) -> Callable[[Path, Stage], object]:
    def make(path: Path, stage: Stage) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return make


def index_of(shape: str) -> Hostility:
    """A state file whose index says that the first kernel has another shape."""

    def apply(stage: Stage) -> None:
        key = f"model/conv2d_1a_3x3/conv/kernel{ATTRIBUTE}"
        for path in stage.checkpoint.glob("state.*"):
            path.unlink()
        tf.raw_ops.SaveV2(
            prefix=str(stage.checkpoint / "state"), tensor_names=[key], shape_and_slices=[shape], tensors=[[0.0]]
        )
        stage.sign()

    return apply


def state_index(content: bytes) -> Hostility:
    def apply(stage: Stage) -> None:
        (stage.checkpoint / "state.index").write_bytes(content)
        stage.sign()

    return apply


class Harm:
    """What a pickle would do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch /tmp/harmed",))


LAUGHS = "a: &a [l,l,l,l,l,l,l,l,l]\n" + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))  # fmt: skip  # noqa: E501
DEEP = 100_000

DIGITS = """name: digits
  classes: null
  class_weights: null
  train_examples: 40
  validation_examples: 20
  on_bad_record: fail"""
OTHER_LABELS = """name: tfrecord
  classes: null
  class_weights: null
  train_examples: 1
  validation_examples: 1
  on_bad_record: fail
  root: /
  train_pattern: t
  validation_pattern: v
  image_key: i
  label_key: l
  label_offset: 0
  labels_file: ../../etc/passwd
  num_classes: null
  verify_crc: true"""

CASES: dict[str, tuple[Hostility, int, str]] = {
    # YAML that is more than data
    "anchor": (config("seed: 0", "seed: &a 0"), INVALID, "anchors and aliases"),
    "alias": (config("seed: 0", "seed: &a 0\nother: *a"), INVALID, "anchors and aliases"),
    "billion laughs": (whole_config(LAUGHS.encode()), INVALID, "anchors and aliases"),
    "merge key": (added("<<: {seed: 1}"), INVALID, "merge keys"),
    "tag that calls": (config("seed: 0", "seed: !!python/object/apply:os.system [id]"), INVALID, "tags"),
    "tag that names": (config("seed: 0", "seed: !!python/name:os.system"), INVALID, "tags"),
    "tag that imports": (config("seed: 0", "seed: !!python/module:antigravity"), INVALID, "tags"),
    "tag of YAML itself": (config("seed: 0", "seed: !!int 0"), INVALID, "tags"),
    "binary tag": (config("seed: 0", "seed: !!binary aGk="), INVALID, "tags"),
    "local tag": (config("seed: 0", "seed: !include /etc/passwd"), INVALID, "tags"),
    "two documents": (config("seed: 0", "seed: 0\n---\nseed: 1"), INVALID, "second documents"),
    "directive": (added("%YAML 1.1\n---"), INVALID, "directives"),
    "tag directive": (added("%TAG ! tag:yaml.org,2002:python/\n---"), INVALID, "directives"),
    "a key twice": (added("seed: 1"), INVALID, "the key 'seed' appears twice"),
    "a nested key twice": (
        config("  momentum: 0.95", "  momentum: 0.95\n    momentum: 0.5"),
        INVALID,
        "the key 'momentum' appears twice",
    ),
    "a key that is a list": (added("? [a, b]\n: 1"), INVALID, "a key is not plain text"),
    "nested lists": (config("seed: 0", f"seed: {'[' * 200}{']' * 200}"), INVALID, "levels deep"),
    "too many entries": (config("seed: 0", f"seed: [{'1,' * 20_000}]"), INVALID, "entries"),
    "too large": (added("#" * 70_000), INVALID, "bytes; a file of this program has at most"),
    "not UTF-8": (whole_config(b"seed: \xff\xfe"), INVALID, "not UTF-8"),
    "not YAML": (whole_config(b"seed: [1"), INVALID, "not YAML"),
    "control bytes": (whole_config(b"seed: \x00\x01"), INVALID, "not YAML"),
    "a pickle": (whole_config(pickle.dumps(Harm())), INVALID, "not UTF-8"),
    "empty": (whole_config(b""), INVALID, "must be a section of keys"),
    "a list": (whole_config(b"- 1\n- 2\n"), INVALID, "must be a section of keys"),
    "impossible date": (config("seed: 0", "seed: 2024-13-45"), INVALID, "not YAML"),
    "endless integer": (config("seed: 0", f"seed: {'9' * 6000}"), INVALID, "not YAML"),
    # configuration that is not one of ours
    "interpolation of a secret": (config("experiment: digits", "experiment: ${oc.env:HOME}"), INVALID, "experiment"),
    "interpolation of a key": (config("experiment: digits", "experiment: ${seed}"), INVALID, "interpolations"),
    "_target_": (config("model:\n", "model:\n  _target_: os.system\n"), INVALID, "unknown key model._target_"),
    "_target_ at the top": (added("_target_: builtins.open"), INVALID, "unknown key _target_"),
    "unknown section": (added("hydra: {run: {dir: /}}"), INVALID, "unknown key hydra"),
    "missing key": (config("seed: 0\n", ""), INVALID, "missing key seed"),
    "an optimizer that is a module": (config("name: adam", "name: os.system"), INVALID, "must be one of adam"),
    "a source that is a function": (config("name: digits", "name: builtins.open"), INVALID, "must be one of digits"),
    "a transform that is code": (
        config("- decode\n  - random_area_crop", "- __import__('os')\n  - resize"),
        INVALID,
        "preprocess.train[0]",
    ),
    "an activation that is code": (
        config("activation: relu", "activation: 'lambda x: x'"),
        INVALID,
        "model.activation",
    ),
    "text for a number": (config("learning_rate: 0.003", "learning_rate: '0.003'"), INVALID, "must be a number"),
    "not a number": (config("learning_rate: 0.003", "learning_rate: .nan"), INVALID, "must be finite"),
    "infinite": (config("width: 0.01", "width: .inf"), INVALID, "must be finite"),
    "overflow to infinity": (config("width: 0.01", "width: 1.0e+999"), INVALID, "must be finite"),
    "an integer of 70 bits": (config("every_steps: 100", f"every_steps: {2**70}"), INVALID, "fit in 64"),
    "negative": (config("min_depth: 4", "min_depth: -4"), INVALID, "must be at least 1"),
    "terminal escape": (
        config("experiment: digits", 'experiment: "\\e[2J\\e]0;owned\\a"'),
        INVALID,
        "control characters",
    ),
    "NUL in a text": (config("experiment: digits", 'experiment: "a\\0b"'), INVALID, "control characters"),
    "10^9 classes": (config("num_classes: 10", f"num_classes: {10**9}"), INVALID, "at most"),
    "width of 10^9": (config("width: 0.01", "width: 1.0e+9"), INVALID, "at most 8"),
    "batch of 10^12": (config("global_batch_size: 8", f"global_batch_size: {10**12}"), INVALID, "at most"),
    "a batch that cannot be split": (
        config("accumulate_steps: 1", "accumulate_steps: 16777213"),
        INVALID,
        "equal parts",
    ),
    "a batch of 3 petabytes": (
        both(
            config("global_batch_size: 8", "global_batch_size: 16777216"), config("image_size: 75", "image_size: 4096")
        ),
        USAGE,
        "the images of one batch would take at least",
    ),
    "an evaluation of terabytes": (config("batch_size: 16", "batch_size: 16777216"), USAGE, "the images of one batch"),
    "a network of terabytes": (
        both(config("width: 0.01", "width: 8.0"), config("num_classes: 10", "num_classes: 16777216")),
        USAGE,
        "nothing was allocated",
    ),
    # data outside of its place
    "labels of another place": (
        config(DIGITS, OTHER_LABELS),
        INVALID,
        "data.labels_file=../../etc/passwd leads through ..",
    ),
    # manifests
    "pickled manifest": (manifest_bytes(pickle.dumps(Harm())), INVALID, "not UTF-8"),
    "manifest that is a list": (manifest_bytes(b"[]"), INVALID, "it is not a manifest"),
    "empty manifest": (manifest_bytes(b""), INVALID, "not JSON"),
    "deep manifest": (manifest_bytes(b"[" * DEEP), INVALID, "levels deep"),
    "moderately deep manifest": (manifest_bytes(b"[" * 50 + b"]" * 50), INVALID, "levels deep"),
    "manifest key twice": (manifest_bytes(b'{"format_version": 2, "format_version": 2}'), INVALID, "appears twice"),
    "endless integer in the manifest": (
        manifest_bytes(b'{"format_version": ' + b"9" * 6000 + b"}"),
        INVALID,
        "not JSON",
    ),
    "manifest of 100 MB": (replaced("CKPT/manifest.json", sparse(100 << 20)), INVALID, "has at most"),
    "manifest that was changed": (
        manifest_text('"step": 2', '"step": 3'),
        INVALID,
        "changed after it was written",
    ),
    "format of the future": (manifest(format_version=99), INVALID, "has format 99"),
    "format that is a list": (manifest(format_version=[2]), INVALID, "has format [2]"),
    "step of another directory": (manifest(step=7), INVALID, "holds step 7"),
    "negative step": (manifest(step=-2), INVALID, "step is -2"),
    "step that is true": (manifest(step=True), INVALID, "must be an integer"),
    "step that is a fraction": (manifest(step=2.0), INVALID, "must be an integer"),
    "step of 70 bits": (manifest(step=2**70), INVALID, "must be an integer of 64 bits"),
    "epoch that is not a number": (manifest(epoch=float("nan")), INVALID, "epoch is nan"),
    "infinite epoch": (manifest(epoch=float("inf")), INVALID, "epoch is inf"),
    "ledger that is none": (manifest(ledger="0"), INVALID, "not a digest"),
    "class names that are a text": (manifest(class_names="abc"), INVALID, "must be a list"),
    "lineage of something": (manifest(lineage=[{"x": 1}]), INVALID, "lineage[0] lacks"),
    "unknown field": (manifest(_target_="os.system"), INVALID, "not one of its fields"),
    "missing field": (manifest_without("ledger"), INVALID, "lacks ledger"),
    "validation without a loss": (manifest(validation={"accuracy": 1.0}), INVALID, "needs loss"),
    "file above": (manifest_in("files", "../../../secret", "0" * 64), INVALID, "not the name of a file"),
    "file of an absolute path": (manifest_in("files", "/etc/passwd", "0" * 64), INVALID, "not the name of a file"),
    "file below": (manifest_in("files", "a/b", "0" * 64), INVALID, "not the name of a file"),
    "hidden file": (manifest_in("files", ".config.yaml", "0" * 64), INVALID, "not the name of a file"),
    "digest that is none": (manifest_in("files", "state.index", "x"), INVALID, "not a digest"),
    "size that is negative": (manifest_in("sizes", "state.index", -1), INVALID, "sizes.state.index is -1"),
    "sizes of other files": (manifest_in("sizes", "other", 1), INVALID, "files and sizes"),
    # fingerprints
    "fingerprint that is a section": (fingerprint(b"{}"), INVALID, "not a list of facts"),
    "fact that is none": (fingerprint(b'[["data"]]'), INVALID, "is not a fact"),
    "fact of an unknown kind": (fingerprint(b'[["code", "a", "b", 1, [], "c"]]'), INVALID, "is not a fact"),
    "fact with a section": (fingerprint(b'[["data", "a", "b", {}, [], "c"]]'), INVALID, "is not a fact"),
    "deep fingerprint": (fingerprint(b"[" * DEEP), INVALID, "levels deep"),
    # files that are none
    "checkpoint that is a link": (replaced("CKPT", link_to_moved), INVALID, "is a symbolic link"),
    "configuration that is a link": (replaced("CKPT/config.yaml", link_to_secret), INVALID, "is a symbolic link"),
    "tensors that are a link": (replaced("CKPT/state.data-00000-of-00001", link_to_secret), INVALID, "symbolic link"),
    "manifest that is a link": (replaced("CKPT/manifest.json", link_to_secret), INVALID, "is a symbolic link"),
    "link to itself": (replaced("CKPT/manifest.json", lambda path, stage: path.symlink_to(path)), INVALID, "symbolic"),
    "manifest that is a FIFO": (replaced("CKPT/manifest.json", fifo), INVALID, "is a FIFO"),
    "configuration that is a FIFO": (replaced("CKPT/config.yaml", fifo), INVALID, "is a FIFO"),
    "index that is a FIFO": (replaced("CKPT/state.index", fifo), INVALID, "is a FIFO"),
    "manifest that is a socket": (replaced("CKPT/manifest.json", unix_socket), INVALID, "is a socket"),
    "tensors that are a socket": (replaced("CKPT/state.data-00000-of-00001", unix_socket), INVALID, "is a socket"),
    "manifest that is a device": (
        replaced("CKPT/manifest.json", lambda path, stage: path.symlink_to("/dev/zero")),
        INVALID,
        "symbolic link to /dev/zero",
    ),
    "manifest that is a directory": (
        replaced("CKPT/manifest.json", lambda path, stage: path.mkdir()),
        INVALID,
        "is a directory",
    ),
    "tensors that are a directory": (
        replaced("CKPT/state.index", lambda path, stage: path.mkdir()),
        INVALID,
        "is a directory",
    ),
    # a run directory that leads elsewhere
    "checkpoints elsewhere": (replaced(CHECKPOINTS, link_to_moved), USAGE, "is a symbolic link"),
    "checkpoints that are a file": (replaced(CHECKPOINTS, sparse(3)), USAGE, "must be a directory"),
    "lock elsewhere": (replaced(".lock", link_to_secret), USAGE, "is a symbolic link"),
    "lock that is a FIFO": (replaced(".lock", fifo), USAGE, "is a FIFO"),
    "lock with another name": (replaced(".lock", hard_link), USAGE, "is a hard link"),
    "history elsewhere": (replaced("metrics.jsonl", link_to_secret), USAGE, "is a symbolic link"),
    "history with another name": (replaced("metrics.jsonl", hard_link), USAGE, "is a hard link"),
    "history that is a FIFO": (replaced("metrics.jsonl", fifo), USAGE, "is a FIFO"),
    "log elsewhere": (replaced("train.log", link_to_secret), USAGE, "is a symbolic link"),
    "configuration elsewhere": (replaced("config.yaml", link_to_secret), USAGE, "is a symbolic link"),
    "TensorBoard elsewhere": (replaced("tensorboard", link_to_moved), USAGE, "is a symbolic link"),
    "part of TensorBoard elsewhere": (replaced("tensorboard/val", link_to_moved), USAGE, "is a symbolic link"),
    "superseded elsewhere": (replaced("checkpoints/superseded", link_to_moved), USAGE, "is a symbolic link"),
    "quarantine elsewhere": (replaced("checkpoints/quarantine", link_to_moved), USAGE, "is a symbolic link"),
    # state files
    "a tensor of terabytes": (index_of("1000000000000 0,1"), REFUSED, "float32[1000000000000]"),
    "an index that is none": (state_index(b"not an index"), INVALID, "state.index"),
    "an index that is HDF5": (state_index(b"\x89HDF\r\n\x1a\n" + bytes(2000)), INVALID, "state.index"),
    "an index that is a pickle": (state_index(pickle.dumps(Harm())), INVALID, "state.index"),
}


def test_the_directory_that_is_made_hostile_is_one_that_resumes(
    whole: Path, tmp_path: Path, no_training: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also loads what the command loads on its way, and signing alone harms nothing."""
    stage = stage_of(whole, tmp_path)
    stage.sign()
    assert run(["resume", f"run_dir={stage.run_dir}", "train.steps=9"]) == 0, capsys.readouterr().err
    assert len(no_training) == 1


def stage_of(whole: Path, place: Path) -> Stage:
    stage = Stage(place / "run", place / "outside")
    shutil.copytree(whole, stage.run_dir)
    stage.outside.mkdir()
    stage.secret.write_text(SECRET)
    return stage


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_directory_is_refused_without_any_effect(
    name: str, whole: Path, tmp_path: Path, no_training: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    hostility, status, message = CASES[name]
    stage = stage_of(whole, tmp_path)
    hostility(stage)
    before, modules = (tree(stage.run_dir), tree(stage.outside)), set(sys.modules)
    capsys.readouterr()
    with watched() as events:
        found = run(["resume", f"run_dir={stage.run_dir}", "train.steps=9"])
    printed = capsys.readouterr()
    said = printed.out + printed.err
    assert found == status, said
    assert message in said
    assert "Traceback" not in said
    assert SECRET not in said
    assert all(line.isprintable() for line in said.splitlines())
    assert no_training == []
    assert effects(events, stage.run_dir, stage.outside) == []
    assert set(sys.modules) - modules == set()
    assert (tree(stage.run_dir), tree(stage.outside)) == before


def reading_commands(stage: Stage, place: Path) -> list[list[str]]:
    """Every command that reads a run, given a hostile one: by itself, as the trial of a sweep and at a URL."""
    run_dir, checkpoint = f"run_dir={stage.run_dir}", f"checkpoint={stage.checkpoint}"
    return [
        ["inspect", run_dir],
        ["inspect", checkpoint, "format=json"],
        ["verify", run_dir],
        ["diff", f"left={stage.run_dir}", f"right={stage.checkpoint}"],
        ["doctor", checkpoint],
        ["report", run_dir, f"output={place / 'report.html'}"],
        ["report", f"sweep_dir={place}", f"output={place / 'sweep.html'}"],
        ["evaluate", run_dir],
        ["export", run_dir, "format=weights", f"output={place / 'weights.safetensors'}"],
        ["resume", f"run_dir=file://{stage.run_dir}", f"into={place / 'fetched'}", "train.steps=9"],
    ]


def trial_of(whole: Path, place: Path) -> None:
    """Make the run in ``place/run`` the trial of a sweep in ``place``."""
    config = (whole / "config.yaml").read_text()
    trial = plan.Trial(0, "run", (), None, (), config, None)
    plan.begin(place, plan.Sweep(plan.FORMAT_VERSION, (trial,), None), "fail")


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_a_hostile_directory_does_no_harm_to_any_command_that_reads_it(
    name: str, whole: Path, tmp_path: Path, no_training: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    """What each command makes of it is tested elsewhere: here, that it says so with one of its exit statuses."""
    stage = stage_of(whole, tmp_path)
    trial_of(whole, tmp_path)
    CASES[name][0](stage)
    before = tree(stage.run_dir), tree(stage.outside)
    for command in reading_commands(stage, tmp_path):
        said = spoken(command, capsys)
        assert (tree(stage.run_dir), tree(stage.outside)) == before, said
    for page in (tmp_path / "report.html", tmp_path / "sweep.html"):
        assert not page.exists() or SECRET not in page.read_text()


def spoken(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command said, which ended with a status of the contract, gave no secret away and showed no traceback."""
    capsys.readouterr()
    found = run(command)
    printed = capsys.readouterr()
    said = f"{command}: {found}\n{printed.out}{printed.err}"
    assert found in (0, 1, USAGE, REFUSED, INVALID), said
    assert (found != 1) or "error: " in said
    assert "Traceback" not in said
    assert SECRET not in said
    assert all(line.isprintable() for line in said.splitlines())
    return said


SET_BY_THE_SWEEP = ("an evaluation of terabytes",)  # a key that a resume may change: the sweep's own value counts


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_a_hostile_trial_of_a_sweep_is_refused_without_any_effect(
    name: str, whole: Path, tmp_path: Path, no_training: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    hostility, _, _ = CASES[name]
    stage = stage_of(whole, tmp_path)
    trial_of(whole, tmp_path)
    hostility(stage)
    before = tree(stage.run_dir), tree(stage.outside)
    said = spoken(["resume", f"sweep_dir={tmp_path}", "trial=0"], capsys)
    if name in SET_BY_THE_SWEEP:
        (training,) = no_training
        assert training.config.evaluation.batch_size == 16
        return
    assert no_training == [], said
    assert (tree(stage.run_dir), tree(stage.outside)) == before


def test_the_bound_on_what_a_network_takes_is_one() -> None:
    """The network of the paper stays below what is assumed of it, and a narrow one far below."""
    published = ("experiment=images", "data=digits", "model.num_classes=1000")
    for overrides in (published, (*NARROW, "model.num_classes=10")):
        config = compose(overrides)
        for least, most in zip(measure(config), bound(config), strict=True):
            assert 0 < least <= most
    assert bound(compose(published))[0] < 1.2 * measure(compose(published))[0]
