"""Lightning: train on a folder, go on after a kill, predict. As its pages on training and on checkpoints say."""

import csv
import sys
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torch.nn.functional import cross_entropy
from torchvision import datasets, models, transforms

SIZE, BATCH, EPOCHS = 64, 16, 4
PREPARE = [transforms.Resize((SIZE, SIZE)), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]


class Classifier(lightning.LightningModule):
    def __init__(self, classes: list[str]) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = models.mobilenet_v2(num_classes=len(classes))

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        print("step", self.global_step + 1, flush=True)
        images, labels = batch
        return cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.003)


def train(photos: str, place: Path) -> None:
    lightning.seed_everything(0, workers=True)
    images = datasets.ImageFolder(photos, transforms.Compose([transforms.RandomHorizontalFlip(), *PREPARE]))
    loader = torch.utils.data.DataLoader(images, BATCH, shuffle=True)
    saving = ModelCheckpoint(place / "checkpoints", every_n_train_steps=10, save_last=True)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS, deterministic=True, callbacks=[saving], logger=False, enable_progress_bar=False
    )
    trainer.fit(Classifier(images.classes), loader, ckpt_path="last")
    trainer.save_checkpoint(place / "model.ckpt")


def predict(place: Path, new: Path, output: str) -> None:
    model = Classifier.load_from_checkpoint(place / "model.ckpt", map_location="cpu").eval()
    files = sorted(new.iterdir())
    images = torch.stack([transforms.Compose(PREPARE)(Image.open(file)) for file in files])
    with torch.no_grad(), open(output, "w") as stream:
        for file, row in zip(files, model.network(images).softmax(1), strict=True):
            csv.writer(stream).writerow([file.name, model.hparams.classes[row.argmax()], repr(float(row.max()))])


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train(sys.argv[2], Path(sys.argv[3]))
    else:
        predict(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
