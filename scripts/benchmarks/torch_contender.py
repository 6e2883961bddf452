"""PyTorch's contender in ``scripts/bench torch``, in a process of its own: ``torch_contender.py SIZE BATCH``.

Inception V3 of torchvision without auxiliary head and dropout, Adam, cross-entropy, on one batch that stays in memory.
It runs eagerly, as in PyTorch's documentation.
"""

from __future__ import annotations

import sys

import torch
import torchvision
from bench_step import BLOCK_STEPS, CLASSES, WARM_STEPS
from workers import Turns

LEARNING_RATE = 0.001


def main(size: int, batch: int) -> None:
    turns = Turns()
    torch.manual_seed(0)
    model = torchvision.models.inception_v3(
        num_classes=CLASSES, aux_logits=False, transform_input=False, init_weights=False, dropout=0.0
    )
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    images, labels = torch.randn(batch, 3, size, size), torch.randint(CLASSES, (batch,))
    for _ in turns.steps(WARM_STEPS, BLOCK_STEPS):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
