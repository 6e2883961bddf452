"""What tests/test_api.py looks at: the functions of ``trainer`` in one process that ends by itself, as a notebook's
kernel does. Prints one JSON object; ``python api_program.py`` runs in an empty directory, with the example plug-in.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from conftest import NARROW

import trainer
from trainer import evaluate, load, resume, train
from trainer.errors import Stopped, TrainerError

SMALL = tuple(key for key in NARROW if key.partition("=")[0] not in ("model.width", "model.min_depth"))
RUN = (
    *SMALL,
    "preprocess.image_size=32",
    "schedule.decay_steps=6",
    "evaluation.every_steps=3",
    "checkpoint.every_steps=2",
    "train.steps=6",
)
APPLICATION = ("model=keras_application", "model.name=MobileNet", "ema.decay=0.9", "evaluation.weights=ema")
PLUGIN = ("model=small_net", "schedule=one_cycle")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def error_of(call: Callable[[], object]) -> list[str]:
    try:
        call()
    except TrainerError as error:
        return [type(error).__name__, str(error)]
    return ["nothing", ""]


def same_after_a_resume(name: str) -> dict[str, Any]:
    """Go on from step 2 of a run in a copy of it, and compare the ends."""
    from trainer.checkpoint.compare import differing_tensors

    copy = Path(f"{name} again")
    shutil.copytree(name, copy)
    result = resume(copy, checkpoint="step-2")
    ends = [Path(place, "checkpoints", "step-00000006") for place in (name, copy)]
    return {"status": result.status, "step": result.step, "differing": list(map(str, differing_tensors(*ends)))}


def interrupted(run_dir: str) -> list[str]:
    """Ctrl-C in the midst of training."""

    def interrupt() -> None:
        log = Path(run_dir, "metrics.jsonl")
        while '"step": 8' not in log.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    return error_of(lambda: resume(run_dir, ["train.steps=1000000"]))


def predictions() -> dict[str, Any]:
    """Probabilities of the validation images as files and as pixels, beside what evaluation says of them."""
    import tensorflow as tf

    from trainer.data.source import open_source

    predictor = load("application")
    source = open_source(predictor.config.data, "validation")
    files, labels = source.read(np.arange(source.count))
    paths = []
    for number, data in enumerate(files):
        paths.append(Path(f"{number}.png"))
        paths[-1].write_bytes(data)
    pixels = [tf.io.decode_image(data, channels=3).numpy() for data in files]
    found = predictor.predict(paths)
    report = evaluate("application")
    return {
        "shape": found.shape,
        "dtype": str(found.dtype),
        "class_names": predictor.class_names,
        "weights": predictor.weights,
        "from_pixels": bool((predictor.predict(np.stack(pixels)) == found).all()),
        "loss": float(-np.log(found[np.arange(len(labels)), labels]).mean()),
        "accuracy": float((found.argmax(1) == labels).mean()),
        "evaluated": [report.loss, report.accuracy],
        "of_nothing": predictor.predict([]).shape,
        "errors": [
            error_of(lambda: predictor.predict("0.png")),
            error_of(lambda: predictor.predict(["absent.png"])),
            error_of(lambda: predictor.predict([np.zeros([4, 4], np.uint8)])),
            error_of(lambda: predictor.predict([Path(__file__)])),
        ],
    }


def main() -> dict[str, Any]:
    found: dict[str, Any] = {"lazy": "tensorflow" not in sys.modules, "file": trainer.__file__}
    before = [signal.getsignal(number) for number in SIGNALS]
    first = train(["run_dir=application", *APPLICATION, *RUN])
    found["first"] = [first.status, first.step, first.validation, first.training]
    found["application"] = same_after_a_resume("application")
    found["complete"] = resume("application").status
    plugin = train(["run_dir=plugin", *PLUGIN, *RUN])
    found["plugin"] = {"first": plugin.status, **same_after_a_resume("plugin")}
    found["predictions"] = predictions()
    found["errors"] = [
        error_of(lambda: train(["run_dir=other", *PLUGIN, *RUN, "runtime.threads=1"])),
        error_of(lambda: train(["run_dir=plugin", *PLUGIN, *RUN])),
        error_of(lambda: train(["--multirun", "seed=1,2"])),
        error_of(lambda: train(["train.stesp=3"])),
        error_of(lambda: resume("plugin", ["seed=3"])),
        error_of(lambda: load("absent")),
    ]
    found["interrupted"] = interrupted("plugin")
    found["handlers are back"] = before == [signal.getsignal(number) for number in SIGNALS]
    found["in a thread"] = []
    thread = threading.Thread(target=lambda: found["in a thread"].append(resume("plugin again").status))
    thread.start()
    thread.join()
    assert Stopped.__name__ == found["interrupted"][0]
    return found


if __name__ == "__main__":
    results = main()
    Path("results.json").write_text(json.dumps(results))
