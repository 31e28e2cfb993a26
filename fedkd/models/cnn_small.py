"""Small CNN for tests, demo and pilot: conv 3x3/2 16, conv 3x3/2 32, fc 64, classifier (L = 3).

Source: the network of the FedD2S pilot (decided here). Stride-2 convolutions instead of pooling: on tiny images
max-pooling took more than half of the forward time. 38,282 parameters on 1x14x14 with 10 classes.

``norm = "batch"`` is there for comparisons with methods that keep normalisation private. BatchNorm couples the samples
of a batch, so it neither stacks over clients nor has per-sample gradients (DP-SGD); it is never the default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from fedkd.blocks import assemble, group_norm, image_size

WIDTHS = (16, 32)
HIDDEN = 64
GROUPS = 8


@dataclass(frozen=True)
class Config:
    """Choices of the network (decided here)."""

    norm: Literal["none", "group", "batch"] = "none"
    """normalisation between convolution and ReLU; "group" = GroupNorm with 8 groups"""


def build(config: Config, shape: tuple[int, ...], classes: int) -> nn.Sequential:  # [B, *shape] -> [B, classes] logits
    """The network for images of ``shape`` (channels, height, width); weights are torch's default initialisation.

    Raises: ConfigError for a shape that is no image or fewer than two classes.
    """
    channels, height, width = image_size("cnn_small", shape, classes, least=1)
    blocks = []
    for out in WIDTHS:
        conv = nn.Conv2d(channels, out, 3, stride=2, padding=1)
        blocks.append([conv, *_norm(config.norm, out), nn.ReLU()])
        channels, height, width = out, (height + 1) // 2, (width + 1) // 2
    blocks.append([nn.Flatten(), nn.Linear(channels * height * width, HIDDEN), nn.ReLU()])
    return assemble(blocks, nn.Linear(HIDDEN, classes))


def _norm(kind: str, channels: int) -> list[nn.Module]:
    if kind == "batch":
        return [nn.BatchNorm2d(channels)]
    return [group_norm(GROUPS, channels)] if kind == "group" else []
