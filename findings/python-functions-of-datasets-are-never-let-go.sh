#!/usr/bin/env bash
# A Python function that a TensorFlow graph calls is kept until the process ends, with everything that it refers to:
# tf.numpy_function and tf.py_function in Dataset.map or in a tf.function, and the generator of Dataset.from_generator.
# That the dataset, its iterator and the function are deleted and garbage is collected changes nothing. A process that
# opens data again and again, as a search does for its trials, holds all that it ever read from: arrays, caches, files.
# A function that refers to its data weakly is as good, and holds nothing.
# Usage: findings/python-functions-of-datasets-are-never-let-go.sh      installs TensorFlow into a temporary folder
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check tensorflow==2.21.0
cat >"$place/hold.py" <<'PYTHON'
import gc
import weakref

import numpy as np
import tensorflow as tf


class Data:
    def __init__(self):
        self.values = np.ones(10**6)

    def value(self, number):
        return self.values[number]


def by_numpy_function(data):
    numbers = tf.data.Dataset.range(3)
    return list(numbers.map(lambda number: tf.numpy_function(data.value, [number], tf.float64)))


def by_py_function(data):
    numbers = tf.data.Dataset.range(3)
    return list(numbers.map(lambda number: tf.py_function(data.value, [number], tf.float64)))


def by_generator(data):
    generator = lambda: (data.value(number) for number in range(3))  # noqa: E731
    return list(tf.data.Dataset.from_generator(generator, output_signature=tf.TensorSpec([], tf.float64)))


def by_function(data):
    function = tf.function(lambda number: tf.numpy_function(data.value, [number], tf.float64))
    return [function(tf.constant(number)) for number in range(3)]


def by_weak_reference(data):
    weakly = weakref.WeakMethod(data.value)
    numbers = tf.data.Dataset.range(3)
    return list(numbers.map(lambda number: tf.numpy_function(lambda n: weakly()(n), [number], tf.float64)))


found = {}
for way in (by_numpy_function, by_py_function, by_generator, by_function, by_weak_reference):
    references = []
    for _ in range(3):
        data = Data()
        references.append(weakref.ref(data))
        assert [float(value) for value in way(data)] == [1.0, 1.0, 1.0]
        del data
        gc.collect()
    held = sum(reference() is not None for reference in references)
    found[way.__name__] = held
    print(f"TensorFlow {tf.__version__}, {way.__name__}: {held} of 3 deleted objects of 8 MB are still in memory")
expected = {"by_numpy_function": 3, "by_py_function": 3, "by_generator": 3, "by_function": 3, "by_weak_reference": 0}
if found != expected:
    raise SystemExit(f"the behaviour has changed: {found}")
PYTHON
TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES="" "$place/venv/bin/python" "$place/hold.py" 2>"$place/log" || { cat "$place/log" >&2; exit 1; }
