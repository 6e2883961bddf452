#!/usr/bin/env bash
# Keras's BackupAndRestore with a number as save_freq restores weights, slots and the optimizer's count of steps from the
# middle of an epoch, and then begins that epoch again: its first batches are trained on twice, and the run takes more
# steps than it was asked for. Every schedule that counts steps is past its end then.
# Usage: findings/keras-backup-in-mid-epoch-trains-its-batches-again.sh     installs TensorFlow into a temporary folder
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check tensorflow==2.21.0 keras==3.15.1 numpy==2.4.6
cat >"$place/program.py" <<'PYTHON'
import sys

import keras
import numpy as np

EPOCHS, BATCHES, SIZE = 3, 10, 4
backup, stop_at = sys.argv[1], int(sys.argv[2])  # the step at which the process ends; 0: never


class Batches(keras.utils.PyDataset):
    """Ten batches in one order; prints the number of each that is asked for by the training loop."""

    def __len__(self):
        return BATCHES

    def __getitem__(self, number):
        return np.full((SIZE, 1), number, np.float32), np.ones((SIZE, 1), np.float32)


class Told(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        print("trained", self.epoch, batch)

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == stop_at:
            sys.exit(0)


keras.utils.set_random_seed(0)
model = keras.Sequential([keras.layers.Dense(1)])
model.build((None, 1))
model.compile(keras.optimizers.SGD(0.001), "mse")
kept = keras.callbacks.BackupAndRestore(backup, save_freq=5)
model.fit(Batches(), epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[kept, Told()])
print("steps", int(model.optimizer.iterations))
PYTHON
run() {
    TF_CPP_MIN_LOG_LEVEL=3 "$place/venv/bin/python" "$place/program.py" "$@" 2>"$place/log" || { cat "$place/log" >&2; exit 1; }
}
straight=$(run "$place/straight" 0 | grep steps)
run "$place/backup" 17 >"$place/first"
run "$place/backup" 0 >"$place/second"
resumed=$(grep steps "$place/second")
begins=$(grep -m1 trained "$place/second")
cat <<WORDS
Keras 3.15.1, BackupAndRestore(save_freq=5), three epochs of ten batches, the process ends after step 17:
  never stopped                    $straight
  stopped and started again        $resumed, the first batch of the second process: $begins (epoch, batch)
The backup of step 15 has the weights, the slots and the count of steps. Of the position it has the epoch and the batch
(training_metadata.json), and fit takes only the epoch from it.
WORDS
[[ $straight == "steps 30" && $resumed == "steps 35" && $begins == "trained 1 0" ]] || { echo "this has changed" >&2; exit 1; }
