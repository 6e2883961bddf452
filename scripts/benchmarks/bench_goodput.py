"""What share of the time becomes steps that are kept, when a run is killed again and again.

    scripts/bench goodput minutes=10 minutes_between_failures=1 seed=0 contenders=ours,keras,orbax clock=wall

One supervisor starts each contender, kills it at random moments, the same for all, and starts it again at once: 70 %
SIGKILL, 20 % SIGTERM, and 10 % freeze the process, which the supervisor then kills. The contenders live in turns, one
life each, until each had ``minutes`` of wall time. ``ours`` has no key of its checkpoints set; ``ours-50`` saves every
50 steps, as the peers do.

Afterwards each contender trains as many steps without a kill and without a save, and the states are compared bit for
bit. Goodput is the time of a step in that run, times the steps that were kept, over the wall time of all lives.

``keys=model=keras_application,model.name=MobileNet`` takes another network. With ``clock=cpu`` every time here is one
of the contender's processor, that of kills included. On a machine that is shared with other work, that is the fairer
measure; what waits for a disk or stands still is not in it.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
from interleaved import publish, row

from trainer.checkpoint import directory, manifest
from trainer.checkpoint.differences import differing_tensors
from trainer.config import stored
from trainer.config.complete import complete
from trainer.config.compose import compose
from trainer.data.batches import evaluation_batches
from trainer.data.opened import open_sources
from trainer.run_directory import layout

KINDS = (signal.SIGKILL,) * 7 + (signal.SIGTERM,) * 2 + (signal.SIGSTOP,)
FROZEN_SECONDS = 10.0  # until the supervisor finds out; no contender finds out by itself
STOPPING_SECONDS = 60.0  # that a process gets after SIGTERM
CRASHES = 5  # in a row, after which a contender is given up
PEERS_EVERY = 50  # steps between saves of the peers
NEVER = 10**9
RUN, UNDISTURBED, LOG = "run", "undisturbed", "output.log"
POLL_SECONDS = 0.2
BATCH = 32
EXAMPLES = 44 * BATCH  # an epoch is whole batches, so that after each every example was seen equally often
OPTIONS = {
    "minutes": "10",
    "minutes_between_failures": "1",
    "seed": "0",
    "contenders": "ours,keras,orbax",
    "clock": "wall",
    "keys": "model.dropout=0.0,model.aux_logits=false",  # the narrow Inception V3 of experiment=digits
}
TRAINING = (
    f"data.train_examples={EXAMPLES}",
    f"train.global_batch_size={BATCH}",
    "schedule=constant",  # which does not depend on the length
    "train.log_every_steps=1",
    f"evaluation.every_steps={NEVER}",
)


@dataclasses.dataclass(frozen=True)
class Step:
    """A step that was made: its number, and its examples, if known."""

    number: int
    examples: tuple[int, ...]


@dataclasses.dataclass
class Life:
    """What a process did: the step that it went on from, and its steps."""

    start: int
    steps: list[Step]


class Ours:
    """``python -m trainer``."""

    def __init__(self, place: Path, keys: Sequence[str], every: int | None) -> None:
        self._keys = keys
        self.place = place
        self._newest = 0  # the step that the next life goes on from
        self._saving = [] if every is None else [f"checkpoint.every_steps={every}"]

    def command(self, name: str, steps: int) -> list[str]:
        arguments = [f"run_dir={self.place / name}", f"train.steps={steps}", "on_existing=resume"]
        saving = [f"checkpoint.every_steps={NEVER}"] if name == UNDISTURBED else self._saving
        return [sys.executable, "-m", "trainer", "train", *arguments, *TRAINING, *self._keys, *saving]

    def progress(self, name: str) -> int:
        """The steps that are in the history."""
        return _lines(self.place / name / layout.METRICS)

    def lives(self, before: list[Life]) -> list[Life]:
        """All lives; the history is cut when the run goes on, so it is read after each."""
        start = self._newest
        metrics = self.place / RUN / layout.METRICS
        steps = []
        for line in metrics.read_text().splitlines() if metrics.exists() else []:
            try:
                record = json.loads(line)
            except ValueError:  # cut short by a kill
                continue
            if record["split"] == "train" and record["step"] > start:
                steps.append(Step(record["step"], ()))
        self._newest = self.kept()
        return [*before, Life(start, steps)]

    def kept(self, name: str = RUN) -> int:
        there = directory.committed(self.place / name / layout.CHECKPOINTS)
        return directory.step_of(there[-1]) if there else 0

    def compare(self, kept: int) -> tuple[int, bool]:
        """Tensors that differ from those of the undisturbed run, and whether its examples were others."""
        places = [self.place / name / layout.CHECKPOINTS / directory.name_of(kept) for name in (RUN, UNDISTURBED)]
        ledgers = {manifest.read(place / manifest.FILE_NAME).ledger for place in places}
        return len(differing_tensors(*places)), len(ledgers) > 1


class Peer:
    """A script beside this one."""

    def __init__(self, place: Path, script: str) -> None:
        self.place, self._script = place, script

    def command(self, name: str, steps: int) -> list[str]:
        """With 0 steps the script writes the weights that it would go on from."""
        (self.place / name).mkdir(exist_ok=True)
        script = str(Path(__file__).with_name(self._script))
        every = NEVER if name == UNDISTURBED else PEERS_EVERY
        return [sys.executable, script, str(self.place / name), str(steps), str(every)]

    def progress(self, name: str) -> int:
        return _lines(self.place / name / "steps.log")

    def lives(self, before: list[Life]) -> list[Life]:
        """All lives, as the script has logged them."""
        found: list[Life] = []
        log = self.place / RUN / "steps.log"
        for line in log.read_text().splitlines() if log.exists() else []:
            first, *rest = line.split()
            if first == "start":
                found.append(Life(int(rest[0]), []))
            elif rest:
                found[-1].steps.append(Step(int(first), tuple(map(int, rest[0].split(",")))))
        return found

    def kept(self) -> int:
        """The step of the newest checkpoint, by the script's own restore."""
        subprocess.run(self.command(RUN, 0), check=True, env=_environment(), stdout=subprocess.DEVNULL)
        with np.load(self.place / RUN / "weights.npz") as arrays:
            return int(arrays["step"])

    def compare(self, kept: int) -> tuple[int, bool]:
        files = [np.load(self.place / name / "weights.npz") for name in (RUN, UNDISTURBED)]
        assert all(int(each["step"]) == kept for each in files)
        return sum(files[0][name].tobytes() != files[1][name].tobytes() for name in files[0].files), False


@dataclasses.dataclass
class Tally:
    """What became of a contender."""

    lives: list[Life] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    kills: int = 0
    crashes: int = 0
    failed: int = 0  # in a row


def main(*arguments: str) -> None:
    options = OPTIONS | dict(argument.split("=", 1) for argument in arguments)
    assert options.keys() == OPTIONS.keys(), f"the options are {', '.join(OPTIONS)}"
    budget, between = 60 * float(options["minutes"]), 60 * float(options["minutes_between_failures"])
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        keys = options["keys"].split(",")
        _prepare(root, keys)
        contenders = {name: _contender(root, keys, name) for name in options["contenders"].split(",")}
        tallies = {name: Tally() for name in contenders}
        draws = random.Random(int(options["seed"]))
        while any(_goes_on(tally, budget) for tally in tallies.values()):
            delay, kind = draws.expovariate(1 / between), draws.choice(KINDS)
            for name, contender in contenders.items():
                if _goes_on(tallies[name], budget):
                    _live(contender, tallies[name], delay, kind, budget, options["clock"])
        found = {name: _figures(contenders[name], tally, options["clock"]) for name, tally in tallies.items()}
    first = next(iter(found))
    rows = [
        row(f"{name}: {what}", [value], unit, [found[first][what][0]] if what == "goodput" and value else None)
        for what in found[first]
        for name, figures in found.items()
        for value, unit in [figures[what]]
    ]
    title = f"killed once in {between:g} s of {options['clock']} for {budget:g} s each, seed {options['seed']}"
    publish("goodput", title, rows)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _environment() -> dict[str, str]:
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}


def _prepare(root: Path, keys: Sequence[str]) -> None:
    """The images, decoded and resized once for the peers, and the configuration of the network."""
    config = compose([*TRAINING, *keys])
    data = open_sources(config)
    config = complete(config, data.sampling.examples_per_epoch, len(data.training.class_names))
    (root / stored.FILE_NAME).write_text(stored.to_text(config))
    batches = list(evaluation_batches(data.training, config))
    images, labels = (np.concatenate([batch[name].numpy() for batch in batches]) for name in ("image", "label"))
    pixels = np.clip(np.round((images + 1.0) * 127.5), 0, 255).astype(np.uint8)
    np.savez(root / "images.npz", images=pixels[:EXAMPLES], labels=labels[:EXAMPLES])


def _contender(root: Path, keys: Sequence[str], name: str) -> Ours | Peer:
    place = root / name
    place.mkdir()
    for file in (stored.FILE_NAME, "images.npz"):
        shutil.copyfile(root / file, place / file)
    if name in ("keras", "orbax"):
        return Peer(place, f"goodput_{name}.py")
    assert name == "ours" or name.startswith("ours-"), f"{name} is not ours, ours-STEPS, keras or orbax"
    return Ours(place, keys, int(name.removeprefix("ours-")) if name != "ours" else None)


def _goes_on(tally: Tally, budget: float) -> bool:
    return tally.seconds < budget and tally.failed < CRASHES


class Watch:
    """A process of a contender, and what it has used: seconds of wall time, or of its processor."""

    def __init__(self, command: Sequence[str], log: Path, clock: str) -> None:
        self._began, self._clock, self._log = time.monotonic(), clock, log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, env=_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self._psutil = psutil.Process(self.process.pid)
        self._used = 0.0

    def seconds(self) -> float:
        if self._clock == "wall":
            return time.monotonic() - self._began
        with contextlib.suppress(psutil.Error):  # it has ended: what it used until the last look
            times = self._psutil.cpu_times()
            self._used = max(self._used, times.user + times.system)
        return self._used

    def ended(self) -> bool:
        """Whether it has; waits a moment."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(POLL_SECONDS)
        return self.process.poll() is not None

    def end(self, kind: signal.Signals) -> None:
        self.process.send_signal(kind)
        if kind == signal.SIGSTOP:
            time.sleep(FROZEN_SECONDS)
        elif kind == signal.SIGTERM:
            until = time.monotonic() + STOPPING_SECONDS
            while not self.ended() and time.monotonic() < until:
                self.seconds()
        self.process.kill()
        self.process.wait()

    def output(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


def _live(contender: Ours | Peer, tally: Tally, delay: float, kind: signal.Signals, budget: float, clock: str) -> None:
    """One life: start, wait, end it as ``kind`` says. The last life of a contender ends with its time."""
    left = budget - tally.seconds
    watch = Watch(contender.command(RUN, NEVER), contender.place / LOG, clock)
    while watch.seconds() < min(delay, left) and not watch.ended():
        pass
    if watch.process.poll() is not None:
        tally.crashes += 1
        tally.failed += 1
        print(f"ended by itself:\n{watch.output()}", file=sys.stderr)
    else:
        tally.failed = 0
        tally.kills += delay < left
        watch.end(kind if delay < left else signal.SIGKILL)
    tally.seconds += watch.seconds()
    tally.lives = contender.lives(tally.lives)


def _undisturbed(contender: Ours | Peer, steps: int, clock: str) -> float:
    """Seconds of a step in a run without kills and saves, from its first steps to its last."""
    watch = Watch(contender.command(UNDISTURBED, steps), contender.place / LOG, clock)
    looks: list[tuple[float, int]] = []
    while not watch.ended():
        looks.append((watch.seconds(), contender.progress(UNDISTURBED)))
    assert watch.process.returncode == 0, watch.output()
    moved = [(at, made) for at, made in looks if 1 < made < looks[-1][1]]
    return (moved[-1][0] - moved[0][0]) / (moved[-1][1] - moved[0][1])


def _figures(contender: Ours | Peer, tally: Tally, clock: str) -> dict[str, tuple[float, str]]:
    kept = contender.kept()
    made = [step.number for life in tally.lives for step in life.steps]
    seconds, differing, others = 0.0, 0, False
    if kept:
        seconds = _undisturbed(contender, kept, clock)
        differing, others = contender.compare(kept)
    often, seldom = _examples(tally.lives, kept)
    return {
        "goodput": (seconds * kept / tally.seconds, ""),
        "undisturbed step": (1000 * seconds, "ms"),
        "steps kept": (kept, "steps"),
        "steps made again": (len(made) - len(set(made)), "steps"),
        "cost of a kill": ((tally.seconds - seconds * kept) / max(1, tally.kills), "s"),
        "kills": (tally.kills, ""),
        "ended by itself": (tally.crashes, ""),
        "examples seen too often": (float("nan") if others else often, ""),
        "examples seen too seldom": (float("nan") if others else seldom, ""),
        "tensors that differ": (differing, ""),
    }


def _examples(lives: Sequence[Life], kept: int) -> tuple[int, int]:
    """How often an example was seen more often, and less often, than in as many steps of an undisturbed run: that sees
    each equally often, but for the epoch that has begun. Of the steps that led to the state at the end.
    """
    history: list[Step] = []
    for life in lives:
        history = [step for step in history if step.number <= life.start] + life.steps
    seen = collections.Counter(example for step in history if step.number <= kept for example in step.examples)
    if not seen:
        return 0, 0
    epochs, rest = divmod(BATCH * kept, EXAMPLES)
    return (
        sum(max(0, count - epochs - (rest > 0)) for count in seen.values()),
        sum(max(0, epochs - seen[example]) for example in range(EXAMPLES)),
    )
