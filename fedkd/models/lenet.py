"""LeNet-5 in today's form: conv 5x5 6, pool, conv 5x5 16, pool, fc 120, fc 84, classifier (L = 4).

Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998, with ReLU and
max-pooling as in PyTorch's and Flower's tutorials. Parameters: 62,006 on 3x32x32 with 10 classes, 61,706 on 1x32x32.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fedkd.blocks import assemble, image_size

WIDTHS = (6, 16)
HIDDEN = (120, 84)


@dataclass(frozen=True)
class Config:
    """Nothing to choose."""


def build(config: Config, shape: tuple[int, ...], classes: int) -> nn.Sequential:  # [B, *shape] -> [B, classes] logits
    """The network for images of ``shape`` (channels, height, width), at least 16x16.

    Raises: ConfigError for another shape or fewer than two classes.
    """
    channels, height, width = image_size("lenet", shape, classes, least=16)
    blocks: list[list[nn.Module]] = []
    for out in WIDTHS:
        blocks.append([nn.Conv2d(channels, out, 5), nn.ReLU(), nn.MaxPool2d(2)])
        channels, height, width = out, (height - 4) // 2, (width - 4) // 2
    size = channels * height * width
    for position, out in enumerate(HIDDEN):
        blocks.append([*([] if position else [nn.Flatten()]), nn.Linear(size, out), nn.ReLU()])
        size = out
    return assemble(blocks, nn.Linear(size, classes))
