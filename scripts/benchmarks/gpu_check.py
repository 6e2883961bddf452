"""``scripts/gpu_check``: exactness and speed of training on this machine's GPU, one row for each way to run it.

Exactness is that of the command line: a run that stops and is resumed in another process is compared bit for bit with
one that never stopped. ``gpu_measure.py`` measures speed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.runtime.peaks import peak_flops

OUTPUT = Path("outputs/bench/gpu_check.md")
PROGRAM = Path(__file__).with_name("gpu_measure.py")
USUAL = (
    "experiment=images",
    "data=synthetic",
    "data.train_examples=1280000",
    "data.validation_examples=1000",
    "train.global_batch_size=64",
    "schedule=constant",  # a schedule that ends with the run would differ between the two
    "runtime.strategy=one",
)
WAYS = {
    "float32": (),
    "float32, not deterministic": ("runtime.deterministic=false",),
    "float32, XLA": ("runtime.xla=true",),
    "mixed_bfloat16": ("runtime.precision=mixed_bfloat16",),
    "mixed_bfloat16, XLA": ("runtime.precision=mixed_bfloat16", "runtime.xla=true"),
    "mixed_float16": ("runtime.precision=mixed_float16",),
    "mixed_float16, XLA": ("runtime.precision=mixed_float16", "runtime.xla=true"),
}
STOP, STEPS = 7, 12


def main(arguments: list[str]) -> int:
    devices = [argument for argument in arguments if argument.startswith("device=")]
    overrides = [argument for argument in arguments if argument not in devices]
    device = devices[-1].removeprefix("device=") if devices else "gpu"
    if device not in ("gpu", "cpu"):
        print(f"error: device={device} is neither gpu nor cpu", file=sys.stderr)
        return 2
    if device == "gpu" and not _gpus():
        print(
            "error: TensorFlow finds no GPU on this machine, so there is nothing to check\n"
            "on a machine with a GPU: pip install 'resumable-trainer[gpu]', and nvidia-smi must show it\n"
            "to rehearse without a GPU: scripts/gpu_check device=cpu model.width=0.01 model.min_depth=4 …",
            file=sys.stderr,
        )
        return 2
    variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    if device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    rows, name = [], device
    for way, settings in WAYS.items():
        print(f"{way} …", file=sys.stderr, flush=True)
        keys = [*USUAL, *overrides, *settings]
        exact = _exactness(keys, variables) if "runtime.deterministic=false" not in settings else "not promised"
        measured = json.loads(_run([str(PROGRAM), *keys], variables).splitlines()[-1])
        name = measured["device"]
        rows.append(_row(way, exact, measured, sixteen_bits="mixed" in way))
    text = _document(name, overrides, rows)
    print(text)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(text)
    return 0 if all("differ" not in row[1] for row in rows) else 1


def _gpus() -> bool:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def _run(arguments: list[str], variables: Mapping[str, str]) -> str:
    """Run a Python program that must succeed; returns its output."""
    process = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=variables)
    if process.returncode != 0:
        sys.exit(f"error: {' '.join(arguments)} exited with {process.returncode}:\n{process.stderr[-3000:]}")
    return process.stdout


def _exactness(keys: list[str], variables: Mapping[str, str]) -> str:
    """Whether a resumed run on this device ends in the same bits, as text."""
    with tempfile.TemporaryDirectory() as place:
        straight, stopped = f"{place}/straight", f"{place}/stopped"
        for run_dir, steps in ((straight, STEPS), (stopped, STOP)):
            _run(["-m", "trainer", "train", f"run_dir={run_dir}", f"train.steps={steps}", *keys], variables)
        _run(["-m", "trainer", "resume", f"run_dir={stopped}", f"train.steps={STEPS}"], variables)
        last = f"checkpoints/step-{STEPS:08d}"
        from trainer.checkpoint.differences import differing_tensors

        different = differing_tensors(Path(straight) / last, Path(stopped) / last)
    return "bitwise" if not different else f"{len(different)} tensors differ, first {different[0].name}"


def _row(way: str, exact: str, measured: Mapping[str, Any], *, sixteen_bits: bool) -> list[str]:
    peak = peak_flops(measured["device"], sixteen_bits=sixteen_bits)
    flops = measured["training_flops"]  # None where a layer of the network cannot be counted
    share = "" if peak is None or flops is None else f"{measured['step'] * flops / peak:.0%}"
    memory = "" if measured["peak_bytes"] is None else f"{measured['peak_bytes'] / 1e9:.1f} GB"
    return [
        way,
        exact,
        f"{measured['step']:.4g}",
        f"{measured['fed']:.4g}",
        f"{measured['input']:.4g}",
        "input" if measured["input"] < measured["step"] else "device",
        share,
        f"{measured['stall_ms']['async']:.3g} / {measured['stall_ms']['sync']:.3g}",
        f"{measured['seconds_to_first_steps']:.0f}",
        memory,
    ]


def _document(device: str, overrides: list[str], rows: list[list[str]]) -> str:
    header = [
        "",
        f"stop at {STOP}, resume to {STEPS}",
        "images/s, batch on the device",
        "images/s, fed by the input pipeline",
        "images/s of the pipeline alone",
        "bound by",
        "share of peak",
        "loop blocked by a save, ms (async / sync)",
        "s to the first steps",
        "peak memory",
    ]
    lines = [f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows]]
    return "\n".join([f"`scripts/gpu_check {' '.join(overrides)}` on {device}:".replace(" `", "`"), "", *lines]) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
