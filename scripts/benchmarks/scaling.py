"""How the time of a step changes with the number of GPUs: the model of docs/scaling.md. As a program, this prints the
tables of that page.

Only the published figures were measured; all others are computed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

COUNTS = (1, 2, 4, 8, 16, 32, 64)
GPUS_PER_HOST = 8
BATCH_NORM_EXCHANGES = 2 * 94  # every layer's moments in the forward pass, their gradients in the backward pass


@dataclasses.dataclass(frozen=True)
class Machine:
    """GPUs and their connections. ``rate`` is in images/s of one GPU. Bandwidths of a ring within a host and of a
    host's network are in bytes/s, delays of one exchange in seconds.
    """

    name: str
    rate: float
    batch: int  # images on each GPU
    within: float
    between: float
    delay_within: float = 30e-6
    delay_between: float = 100e-6

    def step_seconds(self, gpus: int, gradient_bytes: int, *, synchronized: bool) -> float:
        """A replica's share, then one ring all-reduce of the gradients and what synchronised batch norm exchanges."""
        return self._seconds(gpus, reduced_bytes(gpus, gradient_bytes), synchronized=synchronized)

    def _seconds(self, gpus: int, exchanged: float, *, synchronized: bool) -> float:
        seconds = self.batch / self.rate
        if gpus == 1:
            return seconds
        hosts = gpus > GPUS_PER_HOST
        seconds += exchanged / (min(self.within, self.between) if hosts else self.within)
        if synchronized:
            seconds += BATCH_NORM_EXCHANGES * (self.delay_between if hosts else self.delay_within)
        return seconds

    def speedup(self, gpus: int, gradient_bytes: int, *, synchronized: bool = False) -> float:
        """Over one GPU, each with a batch of its own."""
        return gpus * self.batch / self.rate / self.step_seconds(gpus, gradient_bytes, synchronized=synchronized)

    def speedup_in_order(self, gpus: int, gradient_bytes: int) -> float:
        """As ``speedup``, with logical replicas: sums are copied to all, and each adds them."""
        seconds = self._seconds(gpus, copied_bytes(gpus, gradient_bytes), synchronized=False)
        return gpus * self.batch / self.rate / seconds


def reduced_bytes(gpus: int, gradient_bytes: int) -> float:
    """What each GPU sends in a ring all-reduce."""
    return 2 * (gpus - 1) / gpus * gradient_bytes


def copied_bytes(gpus: int, gradient_bytes: int) -> float:
    """What each GPU sends when the sums of all are copied to all, around a ring."""
    return float((gpus - 1) * gradient_bytes)


# Bandwidths are assumed orders of magnitude: NVLink of one ring of a DGX-1 and 100 Gbit/s; NVSwitch and
# 200 Gbit/s; PCIe and the 10 Gbit/s of a p2.8xlarge.
P100 = Machine("P100", rate=142.0, batch=64, within=10e9, between=12.5e9)
FAST = Machine("2,000 images/s a GPU", rate=2000.0, batch=256, within=200e9, between=25e9)
K80 = Machine("K80", rate=29.7, batch=64, within=5e9, between=1.25e9)
# Images/s by GPUs in TensorFlow's benchmarks of May 2017: synthetic data, batches of 64 a GPU, SGD, parameter servers
# (tensorflow/tensorflow, docs_src/performance/benchmarks.md)
PUBLISHED = {
    P100: {1: 142.0, 2: 284.0, 4: 569.0, 8: 1131.0},
    K80: {1: 29.7, 8: 229.0, 16: 459.0, 32: 902.0, 64: 1783.0},
}


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])


def costs_table(costs: dict[int, tuple[int, int]]) -> str:
    """``costs``: image size -> (multiply-adds of the forward pass, floating-point operations of a training step)."""
    rows = [
        [f"{size}×{size}", f"{forward / 1e9:.2f}", f"{training / 1e9:.1f}"]
        for size, (forward, training) in costs.items()
    ]
    return _table(["image", "forward, 10⁹ multiply-adds", "training, 10⁹ floating-point operations"], rows)


def speedup_table(gradient_bytes: int) -> str:
    rows = [
        [str(gpus)]
        + [
            f"{machine.speedup(gpus, gradient_bytes, synchronized=synchronized):.3g}"
            for machine in (P100, FAST)
            for synchronized in (False, True)
        ]
        for gpus in COUNTS[1:]
    ]
    header = ["GPUs", P100.name, "with synchronised batch norm", FAST.name, "with synchronised batch norm"]
    return _table(header, rows)


def order_table(gradient_bytes: int) -> str:
    rows = [
        [
            str(gpus),
            f"{reduced_bytes(gpus, gradient_bytes) / 1e6:.0f}",
            f"{copied_bytes(gpus, gradient_bytes) / 1e6:.0f}",
        ]
        + [
            f"{speedup:.3g}"
            for machine in (P100, FAST)
            for speedup in (machine.speedup(gpus, gradient_bytes), machine.speedup_in_order(gpus, gradient_bytes))
        ]
        for gpus in COUNTS[1:]
    ]
    header = ["GPUs", "all-reduce, MB", "copies, MB"]
    header += [text for machine in (P100, FAST) for text in (machine.name, "with logical replicas")]
    return _table(header, rows)


def published_table(gradient_bytes: int) -> str:
    rows = []
    for machine, rates in PUBLISHED.items():
        for gpus, rate in rates.items():
            if gpus > 1:
                found, predicted = rate / rates[1], machine.speedup(gpus, gradient_bytes)
                cells = [f"{rate:g}", f"{found:.2f}", f"{predicted:.2f}", f"{predicted / found - 1:+.1%}"]
                rows.append([machine.name, str(gpus), *cells])
    return _table(["", "GPUs", "published images/s", "published speedup", "predicted", "difference"], rows)


def tables() -> list[str]:
    """All tables of docs/scaling.md, counted and computed."""
    from trainer.config.complete import complete
    from trainer.config.compose import compose
    from trainer.models.cost import cost

    overrides = ["experiment=images", "data=digits", "model.num_classes=1000"]
    costs = {
        size: cost(complete(compose([*overrides, f"preprocess.image_size={size}"]), 1000, 1000)) for size in (75, 299)
    }
    gradient_bytes = costs[299].gradient_bytes
    counted = {}
    for size, each in costs.items():
        assert each.multiply_adds is not None
        assert each.training_flops is not None
        counted[size] = each.multiply_adds, each.training_flops
    return [
        costs_table(counted),
        f"{costs[299].parameters:,} parameters, {gradient_bytes / 1e6:.1f} MB of gradients",
        published_table(gradient_bytes),
        speedup_table(gradient_bytes),
        order_table(gradient_bytes),
    ]


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    print("\n\n".join(tables()))
