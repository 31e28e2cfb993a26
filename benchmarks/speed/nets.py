"""The nets of the workloads in ordinary torch, as a peer's user would write them; tensors in the same order as fedkd's."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.speed.inputs import Weights


def build(net: str, shape: list[int], classes: int) -> nn.Sequential:
    """LeNet (62,006 parameters on 3x32x32), the MLP 784-200-200-10 or the CNN of McMahan et al. (1,663,370)."""
    with torch.random.fork_rng(devices=[]):  # layers draw as they are built; the weights are given
        return _layers(net, shape, classes)


def _layers(net: str, shape: list[int], classes: int) -> nn.Sequential:
    if net == "lenet":
        return nn.Sequential(
            nn.Conv2d(shape[0], 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes),
        )  # fmt: skip
    if net == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, classes)
        )
    if net == "fedavg_cnn":
        return nn.Sequential(
            nn.Conv2d(shape[0], 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, classes),
        )  # fmt: skip
    raise ValueError(f"unknown net {net!r}; valid: lenet, mlp, fedavg_cnn")


@torch.no_grad()
def load(module: nn.Module, weights: Weights) -> None:
    """Copy weights into a net by their order."""
    for parameter, value in zip(module.parameters(), weights.values(), strict=True):
        parameter.copy_(torch.from_numpy(value))


def read(module: nn.Module, names: list[str]) -> Weights:
    """A net's weights under fedkd's names."""
    return {n: p.detach().cpu().numpy().copy() for n, p in zip(names, module.parameters(), strict=True)}
