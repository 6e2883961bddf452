"""PyTorch's contenders in ``scripts/bench torch``, each in a process of its own:
``torch_contender.py SIZE BATCH [channels_last] [bfloat16] [compiled]``.

Inception V3 of torchvision without auxiliary head and dropout, Adam, cross-entropy, on one batch that stays in memory.
The forms are those of PyTorch's documentation for a CPU: eager, with the channels as the last dimension in memory, with
bfloat16 by autocast, and compiled.
"""

from __future__ import annotations

import sys

import torch
import torchvision
from bench_step import BLOCK_STEPS, CLASSES, WARM_STEPS
from workers import Turns

LEARNING_RATE = 0.001
CHANNELS_LAST, BFLOAT16, COMPILED = "channels_last", "bfloat16", "compiled"


def main(size: int, batch: int, forms: set[str]) -> None:
    turns = Turns()
    torch.manual_seed(0)
    network = torchvision.models.inception_v3(
        num_classes=CLASSES, aux_logits=False, transform_input=False, init_weights=False, dropout=0.0
    )
    images, labels = torch.randn(batch, 3, size, size), torch.randint(CLASSES, (batch,))
    if CHANNELS_LAST in forms:
        network = network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    model = torch.compile(network) if COMPILED in forms else network
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    for _ in turns.steps(WARM_STEPS, BLOCK_STEPS):
        with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16 in forms):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), set(sys.argv[3:]))
