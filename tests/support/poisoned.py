"""A trainer whose data make it diverge at chosen positions, and that can be killed at any point of a rollback."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from processes import Process, Trainer

Job = tuple[Mapping[int, str], int, Sequence[str]]  # see PROGRAM

# Runs several commands in one process, each as [poison, exit status, arguments]. Poison: position -> kind, for the
# record that belongs there; a ``lasting`` kind also for those in its place. KILL: the process kills itself at this
# point of a rollback.
PROGRAM = """
import json, os, signal, sys
import tensorflow as tf
from trainer.__main__ import run
from trainer.data import batches
from trainer.run import session
from trainer.run.starting_point import FromCheckpoint
from trainer.run_directory.history import History
from trainer.training import gradients

poison = {}
kinds = {
    "nan": lambda image: image * float("nan"),
    "inf": lambda image: tf.fill(tf.shape(image), float("inf")),
    "overflow": lambda image: tf.fill(tf.shape(image), 1e25) * tf.sign(image + 1e-3),
    # these two are looked for where the loss is computed
    "spike": lambda image: tf.fill(tf.shape(image), 7.0),
    "gradient": lambda image: tf.fill(tf.shape(image), 9.0),
}
image_of = batches._image

def image(example, transforms, config, draw):
    result = image_of(example, transforms, config, draw)
    if "label" not in example or transforms != config.preprocess.train:
        return result
    for position, kind in poison.items():
        there = (example["substituted"] == 0) | kind.startswith("lasting ")
        bad = there & (example["position"] == int(position))
        result = tf.where(bad, kinds[kind.removeprefix("lasting ")](result), result)
    return result

batches._image = image
objective_of = gradients.objective

def objective(outputs, part, weights, config):
    loss, image = objective_of(outputs, part, weights, config), part["image"]
    has = lambda value: tf.reduce_any(tf.reduce_all(image == value, [1, 2, 3]))
    loss = tf.where(has(7.0), loss * 1e4, loss)
    return loss + tf.where(has(9.0), 1e4, 0.0) * (loss - tf.stop_gradient(loss))

gradients.objective = objective

def killed(function):
    def wrapper(*arguments, **named):
        os.kill(os.getpid(), signal.SIGKILL)
    return wrapper

def killed_after(function):
    def wrapper(*arguments, **named):
        function(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)
    return wrapper

at = os.environ.get("KILL")
roll_back = session.roll_back
if at == "detected":
    session.roll_back = killed(roll_back)
elif at is not None:
    def then(*arguments):
        if at == "history":  # records are cut, later checkpoints are still there
            FromCheckpoint.make_way = killed(FromCheckpoint.make_way)
        elif at == "set aside":
            FromCheckpoint.make_way = killed_after(FromCheckpoint.make_way)
        elif at == "record":  # the first one after the rollback
            History.add = killed_after(History.add)
        result = roll_back(*arguments)
        if at == "restored":
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    session.roll_back = then
for poison, status, arguments in json.loads(sys.argv[1]):
    found = run(arguments)
    assert found == status, (found, arguments)
"""


def start(trainer: Trainer, *jobs: Job, **variables: str) -> Process:
    return trainer.start_python("-c", PROGRAM, json.dumps(jobs), **variables)
