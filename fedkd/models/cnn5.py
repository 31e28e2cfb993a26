"""Five-block CNN: three of [conv 3x3, GroupNorm, ReLU, pool] with 32, 64, 128 channels, fc 256, fc 128 (L = 5).

Source: decided here, for the study of layer dropping, for which three cuts are too coarse (FedD2S, arXiv 2402.10846).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fedkd.blocks import assemble, group_norm, image_size

WIDTHS = (32, 64, 128)
HIDDEN = (256, 128)


@dataclass(frozen=True)
class Config:
    """Choices of the network (decided here)."""

    groups: int = 8
    """groups of each GroupNorm; divides 32, 64 and 128"""


def build(config: Config, shape: tuple[int, ...], classes: int) -> nn.Sequential:  # [B, *shape] -> [B, classes] logits
    """The network for images of ``shape`` (channels, height, width), at least 8x8.

    Raises: ConfigError for another shape, fewer than two classes, or groups that do not divide the widths.
    """
    channels, height, width = image_size("cnn5", shape, classes, least=8)
    blocks: list[list[nn.Module]] = []
    for out in WIDTHS:
        conv = nn.Conv2d(channels, out, 3, padding=1)
        blocks.append([conv, group_norm(config.groups, out), nn.ReLU(), nn.MaxPool2d(2)])
        channels, height, width = out, height // 2, width // 2
    size, flatten = channels * height * width, [nn.Flatten()]
    for out in HIDDEN:
        blocks.append([*flatten, nn.Linear(size, out), nn.ReLU()])
        size, flatten = out, []
    return assemble(blocks, nn.Linear(size, classes))
