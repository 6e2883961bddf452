#!/usr/bin/env bash
# On a CPU, with op determinism enabled, the same compiled function of the same tensors has one result in its first
# hundred executions or so and another one afterwards, if it adds three tensors. A resumed job, which is a new process,
# begins with the first result again.
# Usage: findings/sums-change-in-later-executions.sh      installs TensorFlow into a temporary folder; a few minutes
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check tensorflow==2.21.0 keras==3.15.1 numpy==2.4.6
cat >"$place/sums.py" <<'PYTHON'
import sys

import numpy as np
import tensorflow as tf

EXECUTIONS = 400
SUMS = {
    "add_n([a, b, c])": lambda a, b, c: tf.math.add_n([a, b, c]),
    "(a + b) + c": lambda a, b, c: (a + b) + c,
}
name, arithmetic = sys.argv[1], sys.argv[2] == "on"
tf.config.experimental.enable_op_determinism()
if not arithmetic:
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
random = np.random.default_rng(0)
terms = [tf.constant(random.normal(size=(128, 128)), tf.float32) for _ in range(3)]


@tf.function(autograph=False)
def step(a, b, c):
    a, b, c = a * 1.1, b * 1.3, c * 1.7
    # two of the terms have another user, as activations in a network do
    return SUMS[name](a, b, c), tf.linalg.matmul(a, a), tf.linalg.matmul(b, b)


results = [step(*terms)[0].numpy().tobytes() for _ in range(EXECUTIONS)]
other = next((number for number, result in enumerate(results, 1) if result != results[0]), None)
print("always the same" if other is None else f"another from execution {other} of {EXECUTIONS} on")
PYTHON
result() {
    TF_CPP_MIN_LOG_LEVEL=3 "$place/venv/bin/python" "$place/sums.py" "$@" 2>"$place/log" || { cat "$place/log" >&2; exit 1; }
}
together=$(result "add_n([a, b, c])" on)
by_twos=$(result "(a + b) + c" on)
kept=$(result "(a + b) + c" off)
cat <<WORDS
TensorFlow 2.21.0 on a CPU, tf.config.experimental.enable_op_determinism(), three float32 tensors, one process:
  add_n([a, b, c])                               $together
  (a + b) + c                                    $by_twos
  (a + b) + c, arithmetic_optimization off       $kept
add_n begins with the first term whose memory it may overwrite. That depends on whether the other users of a term have
finished. The executor takes every operation for expensive at first, 100 million cycles, and its estimate loses a tenth
at each execution: after about ninety, what takes few cycles is run at once instead of in another thread
(KernelStats in tensorflow/core/common_runtime/executor.cc). Grappler's arithmetic optimisation makes an add_n of a sum
that was written in another order; only without it is that order kept.
WORDS
[[ $together == another* && $by_twos == another* && $kept == "always the same" ]] || { echo "this has changed" >&2; exit 1; }
