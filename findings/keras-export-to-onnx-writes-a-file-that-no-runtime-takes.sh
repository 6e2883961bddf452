#!/usr/bin/env bash
# Keras's Model.export(format="onnx") of a network with an operation that ONNX does not have returns as if all were well.
# tf2onnx has copied TensorFlow's operation into the file under its own name, in ONNX's own domain, and ONNX Runtime
# refuses the file. The checker of the onnx package refuses it, too, if somebody asks it.
# Usage: findings/keras-export-to-onnx-writes-a-file-that-no-runtime-takes.sh     installs TensorFlow into a temporary folder
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    tensorflow==2.21.0 keras==3.15.1 numpy==2.4.6 tf2onnx==1.17.0 onnx==1.23.2 onnxruntime==1.32.0
cat >"$place/program.py" <<'PYTHON'
import sys

import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf


class Beta(keras.layers.Layer):
    """The regularised incomplete beta function, which TensorFlow has and ONNX has not."""

    def call(self, values):
        return tf.math.betainc(values, values, values)


given = keras.Input((4,))
model = keras.Model(given, Beta()(given))
assert np.isfinite(model(np.full((1, 4), 0.5, np.float32)).numpy()).all()
model.export(sys.argv[1], format="onnx", verbose=False)
print("export returned")
(node,) = onnx.load(sys.argv[1]).graph.node
print(f"the file has one node: {node.op_type!r} of the domain {node.domain!r}")
try:
    onnx.checker.check_model(sys.argv[1])
except onnx.checker.ValidationError as error:
    print("checker refuses:", str(error).splitlines()[0])
try:
    onnxruntime.InferenceSession(sys.argv[1])
except Exception as error:
    print("runtime refuses:", str(error).rpartition(" , ")[2])
PYTHON
output=$("$place/venv/bin/python" "$place/program.py" "$place/network.onnx" 2>"$place/errors" || { cat "$place/errors"; exit 1; })
echo "TensorFlow 2.21.0, Keras 3.15.1, tf2onnx 1.17.0, onnx 1.23.2, ONNX Runtime 1.32.0:"
echo "$output"
grep -q "^export returned" <<<"$output"
grep -q "one node: 'Betainc' of the domain ''" <<<"$output"
grep -q "^checker refuses" <<<"$output"
grep -q "^runtime refuses.*Betainc" <<<"$output"
echo "As before: an export to ONNX that returned may have written a file that cannot be run. Run it before it is believed."
