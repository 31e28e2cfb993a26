"""The usual FedAvg CNN: conv 5x5 32, pool, conv 5x5 64, pool, fc 512, classifier (L = 3).

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017,
arXiv 1602.05629, in the form without padding that PFLlib and FL-bench use. Parameters: 608,702 on 1x28x28 with 62
classes (FEMNIST), 878,538 on 3x32x32 with 10 (CIFAR10), 924,708 with 100 (CIFAR100). The paper's own network pads:
1,663,370 parameters on 1x28x28 with 10 classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fedkd.blocks import assemble, image_size
from fedkd.errors import ConfigError

WIDTHS = (32, 64)
HIDDEN = 512


@dataclass(frozen=True)
class Config:
    """Choices of the network."""

    padding: int = 0
    """zeros around the input of each convolution: 0 as in PFLlib, 2 as in the paper (sides are kept)"""

    def __post_init__(self) -> None:
        if self.padding not in (0, 1, 2):
            raise ConfigError(f"model.args: padding = {self.padding!r}; valid: 0, 1 or 2")


def build(config: Config, shape: tuple[int, ...], classes: int) -> nn.Sequential:  # [B, *shape] -> [B, classes] logits
    """The network for images of ``shape`` (channels, height, width), at least 16x16.

    Raises: ConfigError for another shape or fewer than two classes.
    """
    channels, height, width = image_size("fedavg_cnn", shape, classes, least=16)
    blocks: list[list[nn.Module]] = []
    for out in WIDTHS:
        blocks.append([nn.Conv2d(channels, out, 5, padding=config.padding), nn.ReLU(), nn.MaxPool2d(2)])
        channels, height, width = out, (height - 4 + 2 * config.padding) // 2, (width - 4 + 2 * config.padding) // 2
    blocks.append([nn.Flatten(), nn.Linear(channels * height * width, HIDDEN), nn.ReLU()])
    return assemble(blocks, nn.Linear(HIDDEN, classes))
