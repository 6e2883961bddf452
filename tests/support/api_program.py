"""What tests/test_api.py looks at: the functions of ``trainer`` in one process that ends by itself, as a notebook's
kernel does. Prints one JSON object; ``python api_program.py`` runs in an empty directory, with the example plug-in.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from processes import NARROW

import trainer
from trainer import evaluate, load, resume, train
from trainer.commands import check_data
from trainer.config import plugins, reproduction
from trainer.config.compose import compose
from trainer.config.schema import Config
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
PLUGIN = (
    "model=small_net",
    "optimizer=lion",
    "schedule=one_cycle",
    "data=arrays",
    "data.file=images.npz",
    "data.on_bad_record=skip",
    "preprocess.train=[decode,resize,grain,horizontal_flip,normalize]",
    "preprocess.eval=[decode,resize,grain,normalize]",
    "preprocess.plugins.grain.strength=0.1",
)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def error_of(call: Callable[[], object]) -> list[str]:
    try:
        call()
    except TrainerError as error:
        return [type(error).__name__, str(error)]
    return ["nothing", ""]


def same_after_a_resume(name: str, *overrides: str) -> dict[str, Any]:
    """Go on from step 2 of a run in a copy of it, and compare the ends."""
    copy = Path(f"{name} again")
    shutil.copytree(name, copy)
    return same_end(copy, name, *overrides)


def same_end(run_dir: Path, other: str, *overrides: str) -> dict[str, Any]:
    """Go on from step 2, and compare the end with that of another run."""
    from trainer.checkpoint.differences import differing_tensors

    result = resume(run_dir, ["train.steps=6", *overrides], checkpoint="step-2")
    ends = [Path(place, "checkpoints", "step-00000006") for place in (other, run_dir)]
    return {"status": result.status, "step": result.step, "differing": list(map(str, differing_tensors(*ends)))}


@contextlib.contextmanager
def edited(place: object, name: str, value: object) -> Iterator[None]:
    """Another version of a plug-in's method, for the time of the block."""
    from trainer.data.images import plugin as transform_plugin

    transform_plugin._applied.cache_clear()
    with mock.patch.object(place, name, value):
        yield
    transform_plugin._applied.cache_clear()


def refused() -> dict[str, list[str]]:
    """What a resume says of a plug-in that does something else than before."""
    import tensorflow as tf
    import trainer_example as example

    from trainer.config.contracts import Rule

    apply, rule = example.Grain.apply, example.Lion.rule

    def go_on(*overrides: str, allow: tuple[str, ...] = ()) -> list[str]:
        return error_of(lambda: resume("plugin", ["train.steps=8", *overrides], allow=allow))

    def slower(self: Any) -> Any:
        return Rule({"momentum": 0.0}, lambda rate, step: rule(self).begin(rate * 0.5, step))

    found = {
        "data": go_on("data.file=changed.npz"),
        "list": go_on("preprocess.train=[decode,resize,horizontal_flip,normalize]"),
        "keys": go_on("preprocess.plugins.grain.strength=0.2"),
    }
    with edited(example.Grain, "apply", lambda self, image, draws: tf.sqrt(apply(self, image, draws))):
        found["transform"] = go_on()
        with mock.patch.object(plugins, "_origin", return_value="trainer-example 1.1"):
            found["transform of an accepted version"] = go_on(allow=("trainer-example",))
    with edited(example.Lion, "rule", lambda self: Rule({"momentum": 0.0, "second": 0.0}, rule(self).begin)):
        found["slots"] = go_on()
    with edited(example.Lion, "rule", slower):
        found["rule"] = go_on()
    return found


def hostile_transforms(config: Config) -> dict[str, list[str]]:
    import tensorflow as tf
    import trainer_example as example

    from trainer.fingerprint.behaviour import preprocessing_facts

    kept = tf.Variable(0.0)

    def drawn(image: tf.Tensor) -> tf.Tensor:
        return image + tf.random.uniform([], seed=1)

    applied: dict[str, Callable[..., Any]] = {
        "stateful draw": lambda self, image, draws: drawn(image),
        "hidden deeper": lambda self, image, draws: tf.cond(draws[0] < 0.5, lambda: drawn(image), lambda: image),
        "variable": lambda self, image, draws: image + kept,
        "Python's draw": lambda self, image, draws: image + random.random(),
        "Python's code": lambda self, image, draws: tf.ensure_shape(
            tf.numpy_function(np.sqrt, [image], tf.float32, stateful=False), image.shape
        ),
        "other size": lambda self, image, draws: image[1:],
        "other type": lambda self, image, draws: tf.cast(image, tf.uint8),
    }
    found = {}
    for name, apply in applied.items():
        with edited(example.Grain, "apply", apply):
            found[name] = error_of(lambda: preprocessing_facts(config))
    with edited(tf.random, "stateless_normal", None):
        found["failing"] = error_of(lambda: preprocessing_facts(config))
    return found


def hostile_optimizers(config: Config) -> dict[str, list[str]]:
    import tensorflow as tf
    import trainer_example as example

    from trainer.config.contracts import Rule
    from trainer.fingerprint.structure import optimizer_facts

    kept = tf.Variable(0.0)

    def updating(update: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self: Rule({"m": 0.0}, lambda rate, step: update)

    rules: dict[str, Callable[..., Any]] = {
        "slash": lambda self: Rule({"m/v": 0.0}, lambda rate, step: None),
        "no number": lambda self: Rule({"m": None}, lambda rate, step: None),  # type: ignore[dict-item]
        "no rule": lambda self: {"m": 0.0},
        "new variable": updating(lambda variable, gradient, slots: tf.Variable(gradient)),
        "variable": updating(lambda variable, gradient, slots: kept.assign_add(1.0)),
        "stateful draw": updating(lambda variable, gradient, slots: slots["m"].assign(drawn(gradient))),
        "Python's draw": updating(lambda variable, gradient, slots: variable.assign_add(gradient * random.random())),
        "no such slot": updating(lambda variable, gradient, slots: slots["v"].assign(gradient)),
    }

    def drawn(gradient: tf.Tensor) -> tf.Tensor:
        return tf.random.normal(gradient.shape, seed=1)

    found = {}
    for name, rule in rules.items():
        with edited(example.Lion, "rule", rule):
            found[name] = error_of(lambda: optimizer_facts(config))
    return found


def hostile_sources(config: Config) -> dict[str, list[str]]:
    from trainer_example.arrays import ArraysSplit

    from trainer.data.batches import training_batches
    from trainer.data.sources.source import open_source

    read, counted = ArraysSplit.read, iter(range(100))

    def reading(change: Callable[[list[bytes], Any], Any]) -> Callable[..., Any]:
        return lambda self, records: change(*read(self, records))

    def first_batch() -> None:
        next(iter(training_batches(open_source(config.data, "train"), config, 0, 1, warn=lambda text: None)))

    reads: dict[str, Callable[..., Any]] = {
        "other count": reading(lambda images, labels: (images[:1], labels[:1])),
        "other type": reading(lambda images, labels: (images, labels.astype(np.int32))),
        "no bytes": reading(lambda images, labels: ([list(image) for image in images], labels)),
        "no class": reading(lambda images, labels: (images, labels + 3)),
        "no pair": reading(lambda images, labels: images),
        "failing": reading(lambda images, labels: images[0].nothing),
    }
    found = {}
    for name, other in reads.items():
        with edited(ArraysSplit, "read", other):
            found[name] = error_of(first_batch)
    with edited(ArraysSplit, "read", reading(lambda images, labels: ([b"%d" % next(counted)], labels))):
        found["other each time"] = error_of(lambda: open_source(config.data, "train").read(np.array([0])))
    with edited(ArraysSplit, "labels", lambda self: np.zeros(3)):
        found["other labels"] = error_of(open_source(config.data, "train").labels)
    with edited(ArraysSplit, "part", lambda self, records, count: records[::-1][:count]):
        found["other order"] = error_of(first_batch)
    return found


def exported() -> bool:
    """A SavedModel does what the run does, with the plug-in's transform in it."""
    import tensorflow as tf

    from trainer.commands import export
    from trainer.data.sources.source import open_source

    export.main(["run_dir=plugin", "checkpoint=step-6", "format=savedmodel", "output=served"])
    predictor = load("plugin", checkpoint="step-6")
    files, _ = open_source(predictor.config.data, "validation").read(np.arange(3))
    paths = [Path(f"array {number}.png") for number in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    served = tf.saved_model.load("served").signatures["serving_default"](image_bytes=tf.constant(files))
    return bool(np.allclose(served["probabilities"].numpy(), predictor.predict(paths), atol=1e-6))


def printed(call: Callable[[], object]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        call()
    return output.getvalue()


def interrupted(run_dir: str) -> list[str]:
    """Ctrl-C in the midst of training."""

    def interrupt() -> None:
        log = Path(run_dir, "metrics.jsonl")
        while '"step": 8' not in log.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    more = ["train.steps=1000000", "schedule.decay_steps=1000000"]
    return error_of(lambda: resume(run_dir, more, allow=["schedule.decay_steps"]))


def in_a_thread(run_dir: str, steps: int) -> list[Any]:
    """Go on from step 6; how it ended, and the steps of which the loss was logged."""
    ends: list[Any] = []
    more = [f"train.steps={steps}"]
    thread = threading.Thread(target=lambda: ends.append(resume(run_dir, more, allow=["schedule"])))
    thread.start()
    thread.join()
    records = map(json.loads, Path(run_dir, "metrics.jsonl").read_text().splitlines())
    logged = [record["step"] for record in records if record["split"] == "train" and record["step"] > 6]
    return [*((end.status, end.step) for end in ends), logged]


def predictions() -> dict[str, Any]:
    """Probabilities of the validation images as files and as pixels, beside what evaluation says of them."""
    import tensorflow as tf

    from trainer.data.sources.source import open_source

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
            error_of(lambda: predictor.predict([np.zeros([4, 4, 2], np.uint8)])),
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
    found["plugin"] = {"first": plugin.status, **same_after_a_resume("plugin", "data.file=moved.npz")}
    found["killed"] = same_end(Path("killed"), "plugin")
    found["same command"] = train(["run_dir=plugin", *PLUGIN, *RUN, "on_existing=resume"]).status
    found["refused"] = refused()
    config = load("plugin").config
    found["made again"] = compose(reproduction.overrides(config)) == config
    found["hostile"] = {
        "transforms": hostile_transforms(config),
        "optimizers": hostile_optimizers(config),
        "sources": hostile_sources(config),
    }
    found["exported"] = exported()
    found["checked"] = printed(lambda: check_data.main(["data=arrays", "data.file=images.npz"]))
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
    found["in a thread"] = in_a_thread("plugin again", 8)
    assert Stopped.__name__ == found["interrupted"][0]
    return found


if __name__ == "__main__":
    results = main()
    Path("results.json").write_text(json.dumps(results))
