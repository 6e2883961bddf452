"""timm: train on a folder, go on after a kill, predict. With the parts that its own training script is made of."""

import csv
import sys
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_loader, create_transform
from timm.models import resume_checkpoint
from timm.optim import create_optimizer_v2
from timm.utils import CheckpointSaver, random_seed
from torch.nn.functional import cross_entropy

SIZE, BATCH, EPOCHS = 64, 16, 4


def classes_of(photos: str) -> list[str]:
    return sorted(folder.name for folder in Path(photos).iterdir())


def train(photos: str, place: Path) -> None:
    place.mkdir(exist_ok=True)
    random_seed(0)
    torch.use_deterministic_algorithms(True)
    images = create_dataset("", photos)
    loader = create_loader(images, (3, SIZE, SIZE), BATCH, is_training=True, num_workers=1, device=torch.device("cpu"))
    model = timm.create_model("mobilenetv2_100", num_classes=len(classes_of(photos)))
    optimizer = create_optimizer_v2(model, "adamw", lr=0.003)
    saver = CheckpointSaver(model, optimizer, checkpoint_dir=str(place), recovery_dir=str(place), max_history=2)
    newest = saver.find_recovery()
    began = resume_checkpoint(model, newest, optimizer) if newest else 0
    for epoch in range(began or 0, EPOCHS):
        for number, (inputs, labels) in enumerate(loader):
            cross_entropy(model.train()(inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            print("step", epoch * len(loader) + number + 1, flush=True)
            if (number + 1) % 10 == 0:
                saver.save_recovery(epoch, number)
        saver.save_checkpoint(epoch)
    torch.save({"model": model.state_dict(), "classes": classes_of(photos)}, place / "model.pt")


def predict(place: Path, new: Path, output: str) -> None:
    stored = torch.load(place / "model.pt")
    model = timm.create_model("mobilenetv2_100", num_classes=len(stored["classes"]))
    model.load_state_dict(stored["model"])
    files, prepare = sorted(new.iterdir()), create_transform((3, SIZE, SIZE), crop_pct=1.0)
    images = torch.stack([prepare(Image.open(file)) for file in files])
    with torch.no_grad(), open(output, "w") as stream:
        for file, row in zip(files, model.eval()(images).softmax(1), strict=True):
            csv.writer(stream).writerow([file.name, stored["classes"][row.argmax()], repr(float(row.max()))])


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train(sys.argv[2], Path(sys.argv[3]))
    else:
        predict(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
