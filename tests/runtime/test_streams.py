"""Standard streams that are closed, full or broken, or take ASCII only; and views and lists that cannot be written."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import saving
from processes import checkpoint_names

from trainer.checkpoint.verification import newest_valid
from trainer.config.override import Change
from trainer.errors import SPELLED, RestoreRefused
from trainer.fingerprint.verdict import judge
from trainer.run_directory import validation_predictions
from trainer.run_directory.metrics import read_metrics
from trainer.runtime.streams import json_text, spelling

ROOT = Path(__file__).parents[2]
SECONDS_ALLOWED = 240
TRAINER = ("-m", "trainer")


def run(*arguments: str, redirected: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python with some of its standard streams as a shell's ``redirected`` says."""
    command = f"exec {shlex.join([sys.executable, *arguments])} {redirected}"
    return subprocess.run(
        ["sh", "-c", command], cwd=cwd, capture_output=True, text=True, timeout=SECONDS_ALLOWED, check=False
    )


@pytest.mark.parametrize("redirected", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_a_command_does_not_fail_for_a_stream_that_is_closed(redirected: str) -> None:
    assert run(*TRAINER, "help", redirected=redirected).returncode == 0
    assert run(*TRAINER, "nonsense", redirected=redirected).returncode == 2


def test_output_that_is_all_there_is_must_be_written() -> None:
    ended = run(*TRAINER, "help", redirected=">/dev/full")
    assert ended.returncode == 1
    assert ended.stderr == "error: standard output cannot be written: No space left on device\n"


PRINTING = """
import sys
import threading
from trainer.runtime import streams
streams.open_closed()
streams.guard(tolerant=True)
for line in range(20_000):
    print(line)
sys.stdout.flush()
"""
JUDGING = PRINTING.replace("tolerant=True", "tolerant=False") + "sys.exit(3)"


def test_a_program_that_is_to_buffer_nothing_shows_each_line_at_once() -> None:
    """Under PYTHONUNBUFFERED, which images of containers set, Python's own streams have no buffer of lines to copy."""
    program = (
        "import os, sys; from trainer.runtime import streams; streams.guard(tolerant=True)\n"
        "print('out'); print('err', file=sys.stderr); os._exit(0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS_ALLOWED,
        check=True,
    )
    assert (ended.stdout, ended.stderr) == ("out\n", "err\n")


def test_what_a_full_disk_refuses_is_lost_with_one_warning() -> None:
    ended = run("-c", PRINTING, redirected=">/dev/full")
    assert ended.returncode == 0
    assert ended.stderr.count("standard output cannot be written: No space left on device") == 1
    assert len(ended.stderr.splitlines()) == 1


def left_by_its_reader(program: str) -> tuple[str, int]:
    """What a program says on standard error when nobody reads its output, and its exit status."""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    return process.stderr.read(), process.wait(SECONDS_ALLOWED)


def test_a_reader_that_has_had_enough_ends_no_run() -> None:
    said, status = left_by_its_reader(PRINTING)
    assert "Broken pipe" in said
    assert status == 0


def test_a_reader_that_has_had_enough_changes_no_verdict() -> None:
    assert left_by_its_reader(JUDGING) == ("", 3)


CLOSING_ITS_TERMINAL = """
import os, sys
os.close(int(sys.argv[1]))
from trainer.runtime import streams
streams.guard(tolerant=True)
print("nobody reads this", flush=True)
print("nor this", file=sys.stderr, flush=True)
sys.exit(75)
"""


def test_a_terminal_that_is_gone_ends_no_run() -> None:
    ours, its = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CLOSING_ITS_TERMINAL, str(ours)], cwd=ROOT, stdout=its, stderr=its, pass_fds=[ours]
    )
    os.close(ours)
    os.close(its)
    assert process.wait(SECONDS_ALLOWED) == 75


def test_what_is_said_goes_through_as_it_is() -> None:
    assert run("-c", PRINTING, redirected="").stdout == "".join(f"{line}\n" for line in range(20_000))


FOREIGN = """
import os, sys
from trainer.runtime import streams
streams.guard(tolerant=True)
for stream in (sys.stdout, sys.stderr):
    print("\\u732b \\xb7", os.fsdecode(b"caf\\xe9"), file=stream, flush=True)
"""
ASCII_ONLY = ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})


@pytest.mark.parametrize("environment", ASCII_ONLY)
def test_a_stream_that_takes_ascii_only_gets_the_rest_spelled(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ended = run("-c", FOREIGN, redirected="")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ended.stderr == "\\u732b . caf\\xe9\n"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_json_is_json_on_every_stream(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"猫": ["é", "😀", os.fsdecode(b"caf\xe9")]}
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding=encoding, errors=SPELLED))
    print(json_text(value), flush=True)
    assert json.loads(output.getvalue()) == value
    print(json_text({"猫": 1}), flush=True)
    assert ("猫".encode() in output.getvalue()) == (encoding == "utf-8")


def test_other_programs_streams_are_changed_only_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
    with spelling():
        print("猫", flush=True)
    assert (output.getvalue(), sys.stdout.errors) == (b"\\u732b\n", "strict")


def test_no_file_gets_the_number_of_a_closed_stream_not_even_in_a_child(tmp_path: Path) -> None:
    opening = f"""
import subprocess, sys
from trainer.runtime import streams
streams.open_closed()
with open({str(tmp_path / "mine")!r}, "w") as file:
    subprocess.run([sys.executable, "-c", "import os; os.write(1, b'1'); os.write(2, b'2'); os.read(0, 1)"], check=True)
    assert file.fileno() > 2
"""
    assert run("-c", opening, redirected="<&- >&- 2>&-").returncode == 0
    assert (tmp_path / "mine").read_text() == ""


def test_a_run_whose_streams_are_closed_ends_as_any_other(small: tuple[str, ...], tmp_path: Path) -> None:
    arguments = (*small, "train.steps=2", f"run_dir={tmp_path / 'run'}")
    assert run(*TRAINER, "train", *arguments, redirected="<&- >&- 2>&-", cwd=tmp_path).returncode == 0
    assert checkpoint_names(tmp_path / "run") == ["step-00000002"]
    newest_valid(tmp_path / "run" / "checkpoints", "full", pytest.fail)
    assert "done at step 2" in (tmp_path / "run" / "train.log").read_text()
    assert [record["step"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [2, 2]


def test_a_refusal_without_a_place_for_its_list_has_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    change = Change("model.activation", "relu", "sigmoid", "fixed")
    with pytest.raises(RestoreRefused) as refused:
        judge(tmp_path, [change], [], [])
    assert "model.activation" in str(refused.value)
    assert "the full list could not be written (No such file or directory): choose another place with TMPDIR=" in str(
        refused.value
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of its own for ``tensorboard``, with room for a few events."""
    place = tmp_path / "run" / "tensorboard"
    place.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a filesystem")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # TensorFlow keeps a writer that failed


def read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def full(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "fill").open("wb", buffering=0) as file:
        while file.write(bytes(4096)) == 4096:
            pass


@pytest.mark.parametrize("refuse", [read_only, full])
def test_a_run_goes_on_without_tensorboards_files(refuse: Callable[[Path], None], disk: Path) -> None:
    run_dir = disk.parent
    before = saving.Run(run_dir, 0, 0, False)
    before.step(1)
    before.checkpointer.save()
    before.step(2)
    before.close()
    refuse(disk)
    resumed = saving.Run(run_dir, 1, 1, False)  # has to take step 2 out of the files that are there
    for step in range(2, 60):
        resumed.step(step)
        resumed.checkpointer.check()
    resumed.checkpointer.save()
    resumed.checkpointer.finish()
    resumed.close()
    (warning,) = resumed.warnings
    assert "TensorBoard will not show everything" in warning
    assert ("Read-only file system" if refuse is read_only else "No space left on device") in warning
    assert checkpoint_names(run_dir)[-1] == "step-00000059"
    assert [record["step"] for record in read_metrics(run_dir / "metrics.jsonl")][-1] == 59


def test_tensorboards_files_may_become_full_in_the_middle_of_a_run(disk: Path) -> None:
    running = saving.Run(disk.parent, 0, 0, False)
    running.step(1)
    running.checkpointer.save()
    full(disk)
    for step in range(2, 60):
        running.step(step)
    running.checkpointer.save()
    running.checkpointer.check()
    running.checkpointer.finish()
    running.close()
    (warning,) = running.warnings
    assert "No space left on device" in warning
    assert checkpoint_names(disk.parent)[-1] == "step-00000059"


def test_predictions_that_cannot_be_looked_at_stop_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "predictions").mkdir()

    def refusing(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refusing)
    validation_predictions.forget_later(tmp_path, 1)


NOBODY_READS = """
import sys
import threading
from trainer.runtime import streams
streams.PATIENCE_SECONDS = 0.5
streams.guard(tolerant=True)
for line in range(50_000):
    print(line)
sys.stdout.flush()
sys.stderr.write("read on\\n")
sys.stdin.readline()
print("and this is read again", flush=True)
"""


def test_a_reader_that_stops_reading_does_not_stop_a_run_and_gets_what_comes_when_it_reads_on() -> None:
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", NOBODY_READS], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    impatient = threading.Timer(SECONDS_ALLOWED, process.kill)
    impatient.start()
    said = [process.stderr.readline(), process.stderr.readline()]
    assert said[0].startswith("warning: nobody has taken standard output for 0 s (a pipe that is full"), said
    assert said[1] == "read on\n"
    taken = [process.stdout.readline() for _ in range(5_000)]
    assert taken == [f"{line}\n" for line in range(5_000)], "what had room before is whole"
    process.stdin.write("\n")
    rest, said_later = process.communicate()
    impatient.cancel()
    assert rest.endswith("and this is read again\n")
    assert said_later == ""
    assert process.returncode == 0
