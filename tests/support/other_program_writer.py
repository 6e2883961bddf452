"""Write a checkpoint of another training program with that program: ``python other_program_writer.py PROGRAM PLACE``.

It imports nothing of ``trainer``: a Python that has torch, timm and lightning runs it. ``PLACE`` gets the checkpoint,
``last…``, of a ResNet50 for ten classes after one step, and ``truth.json`` with what is in it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

PROGRAMS = ("lightning", "timm")


def lightning(place: Path) -> tuple[str, Any]:
    torch, pl = (importlib.import_module(name) for name in ("torch", "lightning.pytorch"))
    network = importlib.import_module("torchvision.models").resnet50(weights=None, num_classes=10)

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = network

        def training_step(self, batch: Any, index: int) -> Any:
            return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters())

    data = torch.utils.data.TensorDataset(torch.zeros(2, 3, 64, 64), torch.zeros(2, dtype=torch.long))
    trainer = pl.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    module = Module()
    trainer.fit(module, torch.utils.data.DataLoader(data, 2))
    trainer.save_checkpoint(place / "last.ckpt")
    return f"a checkpoint of PyTorch Lightning {pl.__version__}", module.state_dict()


def timm(place: Path) -> tuple[str, Any]:
    torch, library = importlib.import_module("torch"), importlib.import_module("timm")
    model = library.create_model("resnet50", num_classes=10)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(2, 3, 64, 64)).sum().backward()
    optimizer.step()
    arguments = argparse.Namespace(model="resnet50", lr=0.1)
    saver = library.utils.CheckpointSaver(
        model, optimizer, arguments, checkpoint_dir=str(place), recovery_dir=str(place)
    )
    saver.save_checkpoint(3, metric=0.5)
    return "a checkpoint of timm's training script, of its network resnet50", model.state_dict()


def main(program: str, place: Path) -> None:
    said, weights = {"lightning": lightning, "timm": timm}[program](place)
    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    (place / "truth.json").write_text(json.dumps({"said": said, "shapes": shapes}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
