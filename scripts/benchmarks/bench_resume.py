"""From the start of a process to its first completed step: ``python -m trainer resume`` beside a Keras script.

Full-width Inception V3 with Adam, 75x75, batches of 32. Ours verifies the checkpoint, compares program and data with
it, and decodes and transforms images; the script (``keras_resume.py``) does none of this. Ours has traced the same
program before; beside it is the same resume with an empty start cache. The benchmark also resumes a narrow network at a
far position, and on a hundred times the data. Neither must take longer.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from interleaved import publish, row

from trainer.checkpoint import directory
from trainer.checkpoint.tensors import StateFile
from trainer.config import stored
from trainer.fingerprint import facts
from trainer.run import restore
from trainer.run_directory import layout, lock
from trainer.storage.lease import Fence
from trainer.training.state import flatten

ROUNDS = 5
BATCH, SIZE, CLASSES = 32, 75, 10
NARROW = ("model.width=0.01", "model.min_depth=4")
RECORDS, FACTOR = 1_000, 100
STEP, FAR_STEP = 10**2, 10**8
NEVER = 10**9
SECONDS_ALLOWED = 300
OURS, TRACED, KERAS = "ours", "ours, empty start cache", "Keras script with BackupAndRestore"
NEAR = f"narrow, step {STEP:,}"
CONSTANT = (NEAR, f"narrow, step {FAR_STEP:,}", f"narrow, step {STEP:,}, {FACTOR} times the data")


@dataclasses.dataclass(frozen=True)
class Start:
    """A process to time. ``prepare`` restores the initial state; ``stepped``: whether the first step is done."""

    command: Sequence[str]
    prepare: Callable[[], object]
    stepped: Callable[[], bool]
    cache: Path

    def measure(self) -> tuple[float, float]:
        """Wall seconds until the first step is done, and CPU seconds used by then."""
        self.prepare()
        with tempfile.TemporaryFile() as output:
            before = time.perf_counter()
            process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=_with_cache(self.cache)
            )
            while not self.stepped():
                time.sleep(0.002)
                if process.poll() is not None or time.perf_counter() - before > SECONDS_ALLOWED:
                    output.seek(0)
                    sys.exit(f"{self.command} made no step:\n{output.read().decode(errors='replace')}")
            wall = time.perf_counter() - before
            process.kill()
            usage = os.wait4(process.pid, 0)[2]
        return wall, usage.ru_utime + usage.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        full = [*_full(place), _keras(place), *_constant(place)]
        starts = dict(zip((OURS, TRACED, KERAS, *CONSTANT), full, strict=True))
        wall: dict[str, list[float]] = {name: [] for name in starts}
        cpu: dict[str, list[float]] = {name: [] for name in starts}
        for number in range(ROUNDS + 1):
            turned = number % len(starts)
            for name in [*list(starts)[turned:], *list(starts)[:turned]]:
                seconds, used = starts[name].measure()
                if number > 0:  # the first fills the operating system's caches
                    wall[name].append(seconds)
                    cpu[name].append(used)
    rows = [
        row(f"{name}: {what}", values[name], "s", values[NEAR if name in CONSTANT else KERAS])
        for values, what in ((wall, "to the first step"), (cpu, "CPU to the first step"))
        for name in starts
    ]
    publish("resume", f"start of a process to its first step: Inception V3, {SIZE}x{SIZE}, batches of {BATCH}", rows)


def _full(place: Path) -> list[Start]:
    """A resume that finds what an earlier one has traced, and one that does not."""
    run_dir, none = place / "full", place / "none"
    _train(run_dir, "model.width=1.0")
    found = _resume(run_dir, place / "cache")

    def prepare() -> None:
        found.prepare()
        shutil.rmtree(none, ignore_errors=True)

    return [found, dataclasses.replace(found, prepare=prepare, cache=none)]


def _with_cache(cache: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(cache)}


def _constant(place: Path) -> list[Start]:
    """Resumes of a narrow run: at a near step, at a far step, and on much more data."""
    few, many = place / "few", place / "many"
    for run_dir, count in ((few, RECORDS), (many, RECORDS * FACTOR)):
        data = _records(place / f"{run_dir.name}-records", count)
        _train(run_dir, *NARROW, "data=tfrecord", f"data.root={data}", f"data.num_classes={CLASSES}")
    far = shutil.copytree(few, place / "far")
    for run_dir, step in ((few, STEP), (far, FAR_STEP), (many, STEP)):
        _move(run_dir, step)
    return [_resume(run_dir, place / "cache") for run_dir in (few, far, many)]


def _train(run_dir: Path, *arguments: str) -> None:
    """One step, and its checkpoint."""
    lengths = ("train.steps=1", "schedule=constant", "train.log_every_steps=1", f"evaluation.every_steps={NEVER}")
    command = [sys.executable, "-m", "trainer", "train", f"run_dir={run_dir}", *lengths, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _resume(run_dir: Path, cache: Path) -> Start:
    """The next step is done when its record appears. A first process has left what it traced in ``cache``."""
    metrics = run_dir / layout.METRICS
    recorded = metrics.read_bytes()
    step = directory.step_of(directory.committed(run_dir / layout.CHECKPOINTS)[-1])
    never = (f"train.steps={NEVER}", f"checkpoint.every_steps={NEVER}")
    command = [sys.executable, "-m", "trainer", "resume", f"run_dir={run_dir}", *never]
    before = _kept(cache)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_with_cache(cache))
    while _kept(cache) == before:  # one of the runs before it may have left the same
        time.sleep(0.1)
        if process.poll() is not None:
            sys.exit(f"{command} has ended with {process.returncode}")
    process.kill()
    process.wait()
    return Start(
        command,
        prepare=lambda: metrics.write_bytes(recorded),
        stepped=lambda: f'"step": {step + 1},'.encode() in metrics.read_bytes(),
        cache=cache,
    )


def _kept(cache: Path) -> dict[str, int]:
    """The steps that are kept, and when each was last used, in nanoseconds."""
    return {path.name: path.stat().st_mtime_ns for path in cache.glob("trainer/start/*-train_step")}


def _move(run_dir: Path, step: int) -> None:
    """Commit the run's newest state once more, as if it were of ``step``."""
    found = restore.restore(run_dir, "latest", ())
    progress, tree = found.state.progress, found.state.tree()
    progress.step.assign(step)
    progress.examples.assign(step * BATCH)
    file = StateFile(tree, flatten(tree))

    def fill(unfinished: Path) -> None:
        file.write(file.snapshot(), unfinished)
        for name in (stored.FILE_NAME, facts.FILE_NAME):
            shutil.copyfile(found.path / name, unfinished / name)

    with lock.writing(run_dir):
        directory.commit(
            run_dir / layout.CHECKPOINTS,
            step,
            fill,
            lambda files, sizes: dataclasses.replace(
                found.manifest, step=step, examples=step * BATCH, validation=None, files=files, sizes=sizes
            ),
            Fence(run_dir / layout.LOCK),
        )


def _records(place: Path, count: int) -> Path:
    """TFRecord files with ``count`` small images for training and as many as a batch for validation."""
    place.mkdir()
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (CLASSES, 8, 8, 3), np.uint8)
    examples = []
    for label, pixels in enumerate(noise):
        features = {
            "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[tf.io.encode_png(pixels).numpy()])),
            "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        }
        examples.append(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    for split, size in (("train", count), ("validation", BATCH)):
        with tf.io.TFRecordWriter(str(place / f"{split}-00000")) as writer:
            for number in range(size):
                writer.write(examples[number % CLASSES])
    return place


def _keras(place: Path) -> Start:
    """The Keras script, with a backup that the script itself made after one step."""
    backup, data, done = place / "backup", place / "arrays.npz", place / "done"
    generator = np.random.Generator(np.random.PCG64(0))
    images = generator.standard_normal((10 * BATCH, SIZE, SIZE, 3)).astype(np.float32)
    np.savez(data, images=images, labels=generator.integers(0, CLASSES, len(images)))

    def start(save_every: int) -> Start:
        script = str(Path(__file__).with_name("keras_resume.py"))
        return Start(
            [sys.executable, script, str(backup), str(data), str(done), str(save_every)],
            prepare=lambda: done.unlink(missing_ok=True),
            stepped=done.exists,
            cache=place / "cache",
        )

    start(1).measure()
    return start(NEVER)
