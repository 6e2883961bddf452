"""Keras: train on a folder, go on after a kill, predict. As its guides on transfer and checkpoints put it together."""

import csv
import sys
from pathlib import Path

import keras

SIZE, BATCH, EPOCHS = 64, 16, 4


def train(photos: str, place: Path) -> None:
    keras.utils.set_random_seed(0)
    images = keras.utils.image_dataset_from_directory(photos, image_size=(SIZE, SIZE), batch_size=BATCH, seed=0)
    network = keras.applications.MobileNetV2(weights=None, input_shape=(SIZE, SIZE, 3), classes=len(images.class_names))
    model = keras.Sequential([keras.layers.RandomFlip("horizontal"), keras.layers.Rescaling(1 / 127.5, -1), network])
    model.compile(keras.optimizers.AdamW(0.003), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.build((None, SIZE, SIZE, 3))
    show = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: print("step", int(model.optimizer.iterations), flush=True)
    )
    backup = keras.callbacks.BackupAndRestore(str(place / "backup"), save_freq=10)
    model.fit(images, epochs=EPOCHS, callbacks=[backup, show], verbose=0)
    model.save(place / "model.keras")
    (place / "classes.txt").write_text("\n".join(images.class_names))


def predict(place: Path, new: Path, output: str) -> None:
    model = keras.models.load_model(place / "model.keras")
    classes = (place / "classes.txt").read_text().splitlines()
    files = sorted(new.iterdir())
    images = [keras.utils.img_to_array(keras.utils.load_img(file, target_size=(SIZE, SIZE))) for file in files]
    with open(output, "w") as stream:
        for file, row in zip(files, model.predict(keras.ops.stack(images), verbose=0), strict=True):
            csv.writer(stream).writerow([file.name, classes[row.argmax()], repr(float(row.max()))])


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train(sys.argv[2], Path(sys.argv[3]))
    else:
        predict(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
