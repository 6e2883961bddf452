#!/usr/bin/env bash
# A SavedModel that Keras's Model.export writes holds every variable of the model twice, under two entries of one list
# with the same name, so the file of its variables is twice as large as the model. tf.saved_model.save of the same model
# writes each once. Who restores by names finds two tensors for each.
# Usage: findings/keras-export-writes-every-variable-twice.sh     installs TensorFlow into a temporary folder
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check tensorflow==2.21.0 keras==3.15.1 numpy==2.4.6
cat >"$place/program.py" <<'PYTHON'
import os
import sys

import keras
import tensorflow as tf

given = keras.Input((8,))
model = keras.Model(given, keras.layers.Dense(4)(keras.layers.Dense(1000)(given)))
size = sum(variable.numpy().nbytes for variable in model.variables)
print(f"the model has {len(model.variables)} variables of {size} bytes")


def stored(directory):
    prefix = os.path.join(directory, "variables", "variables")
    keys = tf.train.load_checkpoint(prefix).get_variable_to_shape_map()
    count = sum(key.endswith("VARIABLE_VALUE") for key in keys)
    return f"{count} entries, {round(os.path.getsize(prefix + '.data-00000-of-00001') / size)} times the bytes"


model.export(sys.argv[1] + "/exported", verbose=False)
print("Model.export:", stored(sys.argv[1] + "/exported"))
tf.saved_model.save(model, sys.argv[1] + "/saved")
print("tf.saved_model.save:", stored(sys.argv[1] + "/saved"))
PYTHON
output=$("$place/venv/bin/python" "$place/program.py" "$place" 2>"$place/errors" || { cat "$place/errors"; exit 1; })
echo "TensorFlow 2.21.0, Keras 3.15.1:"
echo "$output"
grep -q "^the model has 4 variables of 52016 bytes" <<<"$output"
grep -q "^Model.export: 8 entries, 2 times the bytes" <<<"$output"
grep -q "^tf.saved_model.save: 4 entries, 1 times the bytes" <<<"$output"
echo "As before: an export by Keras has twice the size of its model."
