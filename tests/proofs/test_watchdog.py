"""Runs that hang, in real processes: each is noticed, with the process, the phase and the cause, and ends with 75 at a
commit from which a resume goes on exactly.

The limits are seconds instead of minutes, and the network is the small one.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import time

import pytest
from processes import Trainer, assert_same_run, checkpoint_names, wait_for_step
from small_plugin import SMALL, paced
from stalled_reads import STALLING_DIGITS
from worker_processes import cluster_of_two

# the first wait for data includes building their pipeline, which takes seconds on a machine with other work
LIMITS = {"starting": 120, "tracing": 120, "training": 10, "waiting": 25, "validating": 10, "saving": 15}
WATCHED = tuple(f"runtime.watchdog.{phase}={seconds}" for phase, seconds in LIMITS.items())
RUN = (
    *SMALL,
    *WATCHED,
    "train.steps=20",
    "evaluation.every_steps=10",
    "checkpoint.every_steps=4",
    "train.log_every_steps=1",
)
UNWATCHED = tuple(f"runtime.watchdog.{phase}=null" for phase in LIMITS)
EXACT = tuple(each for each in RUN if each not in WATCHED)  # the same run, with the limits that are shipped

# Before a program of this trainer begins, something in it is broken.
PROGRAM = """
import os, sys, threading, time
from trainer.__main__ import main
code, *arguments = sys.argv[1:]
exec(code)
main(arguments)
"""
FOREVER = "lambda *_: time.sleep(10**6)"

# how it is broken, what is then said to have happened in which phase, and whether the loop can still commit its step
READ = STALLING_DIGITS
DEADLOCK = """
from trainer.data.sources.digits import DigitsSplit
read, batches, lock = DigitsSplit.read, [], threading.Lock()
def locked(self, records):
    batches.append(len(records))
    with lock:
        if sum(count > 1 for count in batches) > 8:
            with lock:
                pass
    return read(self, records)
DigitsSplit.read = locked
"""
TRANSFORM = """
import tensorflow as tf
from trainer.data import batches
image = batches._image
def sleeping(example, *rest):
    def wait(position):
        time.sleep(10**6 if position >= 70 else 0)
        return position
    with tf.control_dependencies([tf.numpy_function(wait, [example["position"]], tf.int64)]):
        return image(example, *rest)
batches._image = sleeping
"""
PIPE = """
from trainer.monitoring.views import Views
after = Views.after
def loud(self, step):
    after(self, step)
    if step == 7:  # as a library does, which knows nothing of Python's streams
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        while True:
            os.write(1, b"." * 4096)
Views.after = loud
"""
FSYNC = """
fsync, saved = os.fsync, []
def hanging(descriptor):
    saved.append("step-00000008" in os.readlink(f"/proc/self/fd/{descriptor}"))
    if any(saved):
        time.sleep(10**6)
    fsync(descriptor)
os.fsync = hanging
"""
MIRROR = f"""
from trainer.run_directory.mirror_place import Place
Place.put = {FOREVER}
"""
SILENT_MIRROR = f"""
from trainer.run_directory.mirror_place import Place
Place.owner = {FOREVER}
"""
VALIDATION = f"""
from trainer.monitoring.views import Views
Views.graph = {FOREVER}
"""
OPENING = f"""
from trainer.data.sources.digits import DigitsSplit
DigitsSplit.__init__ = {FOREVER}
"""
STEP = """
from trainer.monitoring.views import Views
from trainer.run.worker import _Views
for views in (Views, _Views):
    def before(self, step, batch):
        if step == 7:
            time.sleep(10**6)
    views.before = before
"""
MIRRORED = ("checkpoint.mirror={place}/copy",)
HANGS: dict[str, tuple[str, tuple[str, ...], str, str]] = {
    "a read of a pipe": (READ, (), "waiting", r"reading a batch of 8 records from .* has taken \d+ s so far"),
    "a deadlocked data thread": (DEADLOCK, (), "waiting", r"reading a batch of 8 records from .* has taken"),
    "a transform": (TRANSFORM, (), "waiting", r"the main thread is in _?wait \("),
    "a full pipe": (PIPE, (), "training", r"the main thread is in loud \("),
    "a step": (STEP, (), "training", r"the main thread is in before \("),
    "an fsync": (FSYNC, (), "saving", r"flushing \S*step-00000008\S* to the disk has taken \d+ s so far"),
    "a validation": (VALIDATION, (), "validating", r"the main thread is in <lambda> \("),
    "a mirror": (MIRROR, MIRRORED, "saving", r"bringing the mirror \S*/copy up to date has taken \d+ s so far"),
    "a mirror at the start": (
        SILENT_MIRROR,
        (*MIRRORED, "runtime.watchdog.starting=60"),
        "starting",
        r"asking the mirror",
    ),
    "opening data": (OPENING, ("runtime.watchdog.starting=60",), "starting", r"the main thread is in <lambda> \("),
}
QUICK = ("a read of a pipe", "an fsync")
LOOP_STOPS = ("a read of a pipe", "a deadlocked data thread", "a transform")
REPORT = (
    r"process \d+ on \S+ hangs: no progress for \d+ s while {phase}( after step \d+)? "
    r"\(runtime\.watchdog\.{phase} allows \d+ s\): {cause}"
)


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.long) for kind in HANGS]
)
def test_a_process_that_hangs_says_where_and_ends_with_75_at_a_commit(
    kind: str, small: tuple[str, ...], trainer: Trainer
) -> None:
    code, arguments, phase, cause = HANGS[kind]
    arguments = tuple(each.format(place=trainer.cwd) for each in arguments)
    process = trainer.start_python("-c", PROGRAM, code, "train", *RUN, *arguments, "run_dir=run")
    assert process.wait() == 75, process.output
    report = re.compile(REPORT.format(phase=phase, cause=cause))
    begun = phase != "starting"
    log = [(trainer.cwd / "run" / "train.log").read_text()] if begun else []
    for text in (process.output, *log):
        assert report.search(text), text
        assert "thread MainThread" in text, text
        assert f" on {socket.gethostname()} hangs" in text
    assert "Traceback" not in process.output
    if not begun:
        trainer.run("train", *EXACT, "run_dir=run")  # the directory is still one in which a run may begin
        return
    last = checkpoint_names(trainer.cwd / "run")[-1]
    assert process.output.splitlines()[-1].startswith("  python -m trainer resume run_dir="), process.output
    if kind in LOOP_STOPS:
        assert f"; checkpoint {last} is committed\n" in process.output
    else:
        assert f"\nthe last good checkpoint is run/checkpoints/{last}\n" in process.output
    if kind not in QUICK:
        trainer.run("train", *EXACT, "run_dir=straight")
        trainer.run("resume", "run_dir=run", *UNWATCHED, "checkpoint.mirror=null")
        assert_same_run(trainer.cwd / "straight", trainer.cwd / "run")


SILENT_COPY = """
from trainer.run_directory.mirror_place import Place
get, copied = Place.get, []
def hanging(self, source, *rest):
    copied.append(source)
    if len(copied) == 2:
        time.sleep(10**6)
    get(self, source, *rest)
Place.get = hanging
"""


def test_a_mirror_that_does_not_answer_while_a_run_is_fetched_is_a_hang_and_the_same_command_goes_on(
    small: tuple[str, ...], trainer: Trainer
) -> None:
    trainer.run(
        "train",
        *EXACT,
        "train.steps=4",
        "schedule.decay_steps=8",
        "run_dir=run",
        f"checkpoint.mirror={trainer.cwd}/copy",
    )
    command = ("resume", f"run_dir=file://{trainer.cwd}/copy", "into=fetched", "train.steps=6")
    process = trainer.start_python("-c", PROGRAM, SILENT_COPY, *command, "runtime.watchdog.starting=5")
    assert process.wait() == 75, process.output
    cause = rf"reading file://{re.escape(str(trainer.cwd))}/copy has taken \d+ s so far"
    assert re.search(REPORT.format(phase="starting", cause=cause), process.output), process.output
    assert "Traceback" not in process.output
    trainer.run(*command, "runtime.watchdog.saving=null")
    assert checkpoint_names(trainer.cwd / "fetched")[-1] == "step-00000006"


# of two processes, the one that is broken; how; and what both say about it
SHARED: dict[str, tuple[int, str, str]] = {
    "before the exchange": (1, STEP, r"while training after step 6 \(.*the main thread is in before \("),
    "the chief before the exchange": (0, STEP, r"while training after step 6 \(.*the main thread is in before \("),
    "a read": (1, READ, "hangs(: no progress| while it waits for data)"),
    "a validation": (
        1,
        VALIDATION.replace("Views.graph", "validation.evaluate").replace(
            "trainer.monitoring.views import Views", "trainer.training import validation"
        ),
        "while validating",
    ),
    "opening data": (1, OPENING, "while starting"),
}


@pytest.mark.parametrize(
    "kind",
    [kind if kind == "before the exchange" else pytest.param(kind, marks=pytest.mark.long) for kind in SHARED],
)
def test_of_two_processes_both_name_the_one_that_hangs_and_not_the_one_that_waits_for_it(
    kind: str, small: tuple[str, ...], trainer: Trainer
) -> None:
    guilty, code, said = SHARED[kind]
    command = ("train", *RUN, "runtime.watchdog.starting=60", "run_dir=run")
    processes = [
        trainer.start_python("-c", PROGRAM, code if rank == guilty else "", *command, TF_CONFIG=place)
        for rank, place in enumerate(cluster_of_two())
    ]
    outputs = [process.wait() and process.output for process in processes]
    assert [process.wait() for process in processes] == [75, 75], "\n====\n".join(map(str, outputs))
    number = processes[guilty].group
    for output in outputs:
        assert isinstance(output, str)
        assert re.search(said, output), output
        assert f"worker {1 - guilty} at" not in output
    assert f"process {number} on {socket.gethostname()} hangs" in outputs[guilty]
    log = trainer.cwd / "run" / "train.log"
    if log.exists():
        assert f"process {number} on {socket.gethostname()} hangs" in log.read_text()
        assert "thread MainThread" in log.read_text(), "the stacks of the one that hangs"


@pytest.mark.long
def test_of_two_processes_the_one_that_is_stopped_is_named_by_the_other(
    small: tuple[str, ...], trainer: Trainer
) -> None:
    """It cannot say anything itself: SIGSTOP stops its watchdog, too."""
    command = ("train", *RUN, "run_dir=run", "train.steps=100000", *paced(0.1))
    chief, other = [trainer.start(*command, TF_CONFIG=place) for place in cluster_of_two()]
    wait_for_step(chief, trainer.cwd / "run", 9)
    other.signal(signal.SIGSTOP)
    assert chief.wait() == 75, chief.output
    assert "worker 1 at 127.0.0.1:" in chief.output
    assert "was lost: it has given no sign of life for 20 seconds" in chief.output
    assert "hangs" not in chief.output, "it waited in the exchange, and knew"
    other.signal(signal.SIGCONT)
    assert other.wait() == 75, other.output


# every flush to the disk takes four seconds, and every fifth batch
SLOW = """
from trainer.data.sources.digits import DigitsSplit
fsync, read, batches = os.fsync, DigitsSplit.read, []
def slow(descriptor):
    time.sleep(4)
    fsync(descriptor)
def sluggish(self, records):
    batches.append(len(records))
    time.sleep(4 if len(batches) % 5 == 0 else 0)
    return read(self, records)
os.fsync, DigitsSplit.read = slow, sluggish
"""
PATIENT = tuple(f"runtime.watchdog.{phase}={90 if phase in ('starting', 'tracing') else 15}" for phase in LIMITS)
BUSY = "import os\nwhile os.getppid() > 1:\n    pass"


@pytest.mark.long
def test_load_slow_disks_and_being_stopped_give_no_false_alarm(small: tuple[str, ...], trainer: Trainer) -> None:
    """A save takes twice as long as is allowed without progress, and the process is stopped for twice as long."""
    busy = [trainer.start_python("-c", BUSY) for _ in range(2 * (os.cpu_count() or 1))]
    process = trainer.start_python("-c", PROGRAM, SLOW, "train", *EXACT, *PATIENT, "run_dir=run")
    for step in (3, 9):
        wait_for_step(process, trainer.cwd / "run", step)
        process.signal(signal.SIGSTOP)
        time.sleep(30)
        process.signal(signal.SIGCONT)
    assert process.wait() == 0, process.output
    assert all(each.running for each in busy), "the machine was loaded all the time"
    for each in busy:
        each.finish()
    assert "hangs" not in process.output + (trainer.cwd / "run" / "train.log").read_text()
    trainer.run("train", *EXACT, "run_dir=straight")
    assert_same_run(trainer.cwd / "straight", trainer.cwd / "run")


HOUR = 3600.0


@pytest.mark.long
def test_a_loaded_hour_gives_no_false_alarm(small: tuple[str, ...], trainer: Trainer) -> None:
    """Of starts, traces, slow saves and slow reads, beside processes that take what is left of the machine."""
    endless = ("train.steps=1000000", "on_existing=resume", "run_dir=run")
    busy = [trainer.start_python("-c", f"import os\nos.nice(19)\n{BUSY}") for _ in range(2 * (os.cpu_count() or 1))]
    until, lives, log = time.monotonic() + HOUR, 0, trainer.cwd / "run" / "train.log"
    while time.monotonic() < until:
        process = trainer.start_python("-c", PROGRAM, SLOW, "train", *EXACT, *PATIENT, *endless)
        wait_for_step(process, trainer.cwd / "run", 16 * (lives + 1))
        process.signal(signal.SIGTERM)
        assert process.wait() == 75, process.output
        lives += 1
        assert "hangs" not in process.output + log.read_text()
    print(f"{lives} lives, newest checkpoint {checkpoint_names(trainer.cwd / 'run')[-1]}")
    assert all(each.running for each in busy), "the machine was loaded all the time"
    for each in busy:
        each.finish()
