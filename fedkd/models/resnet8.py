"""ResNet-8 with GroupNorm: a stem and three stages of one basic block each (L = 4); four stages make it a ResNet-10.

Source: He et al., "Deep Residual Learning for Image Recognition", 2016, arXiv 1512.03385 (CIFAR form: 3x3 stem, widths
16, 32, 64); GroupNorm (Wu and He, 2018, arXiv 1803.08494) in the place of BatchNorm, which couples samples and whose
running statistics are not parameters to average. The global average pool belongs to the classifier.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from fedkd.blocks import assemble, group_norm, image_size
from fedkd.errors import ConfigError


@dataclass(frozen=True)
class Config:
    """Choices of the network (decided here where the paper says BatchNorm)."""

    stages: Literal[3, 4] = 3
    """3 = ResNet-8, 4 = ResNet-10"""
    width: int = 16
    """channels of stem and first stage; each further stage doubles them"""
    groups: int = 8
    """groups of each GroupNorm; divides width"""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"model.args: width = {self.width}; it must be at least 1")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (a 1x1 convolution where the size changes)."""

    def __init__(self, channels: int, out: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = group_norm(groups, out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = group_norm(groups, out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), group_norm(groups, out))

    def forward(self, x: Tensor) -> Tensor:  # [B, channels, H, W] -> [B, out, H/stride, W/stride]
        """relu(F(x) + shortcut(x))."""
        y = self.norm1(self.conv1(x)).relu()
        z: Tensor = self.norm2(self.conv2(y)) + self.shortcut(x)
        return z.relu()


def build(config: Config, shape: tuple[int, ...], classes: int) -> nn.Sequential:  # [B, *shape] -> [B, classes] logits
    """The network for images of ``shape`` (channels, height, width) of any size.

    Raises: ConfigError for a shape that is no image, fewer than two classes, or groups that do not divide the width.
    """
    channels, _, _ = image_size("resnet8", shape, classes, least=1)
    width = config.width
    stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    blocks: list[list[nn.Module]] = [[stem, group_norm(config.groups, width), nn.ReLU()]]
    channels = width
    for stage in range(config.stages):
        out = width * 2**stage
        blocks.append([BasicBlock(channels, out, 1 if stage == 0 else 2, config.groups)])
        channels = out
    head = [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("fc", nn.Linear(channels, classes))]
    return assemble(blocks, nn.Sequential(OrderedDict[str, nn.Module](head)))
