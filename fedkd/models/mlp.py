"""Multilayer perceptron: flatten, then one fully connected layer with ReLU per block (L = number of hidden layers).

Source: the "2NN" of McMahan et al., 2017, arXiv 1602.05629: two hidden layers of 200.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from fedkd.blocks import assemble, check_classes
from fedkd.errors import ConfigError


@dataclass(frozen=True)
class Config:
    """Choices of the network."""

    hidden: tuple[int, ...] = (200, 200)
    """units of each hidden layer, shallow to deep; at least one layer"""

    def __post_init__(self) -> None:
        if not self.hidden or any(not isinstance(h, int) or h < 1 for h in self.hidden):
            raise ConfigError(f"model.args: hidden = {self.hidden!r}; valid: one or more whole numbers of at least 1")


def build(config: Config, shape: tuple[int, ...], classes: int) -> nn.Sequential:  # [B, *shape] -> [B, classes] logits
    """The network for inputs of any ``shape`` with at least one value.

    Raises: ConfigError for an empty shape or fewer than two classes.
    """
    check_classes("mlp", classes)
    if not shape or min(shape) < 1:
        raise ConfigError(f"model mlp needs inputs with at least one value; the data has shape {shape}")
    size = math.prod(shape)
    blocks: list[list[nn.Module]] = []
    for out in config.hidden:
        blocks.append([*([] if blocks else [nn.Flatten()]), nn.Linear(size, out), nn.ReLU()])
        size = out
    return assemble(blocks, nn.Linear(size, classes))
