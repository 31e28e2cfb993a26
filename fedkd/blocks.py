"""What the model files share: checking the input's shape and putting ordered blocks and a classifier together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from fedkd.errors import ConfigError


def image_size(model: str, shape: tuple[int, ...], classes: int, least: int) -> tuple[int, int, int]:
    """Channels, height and width of an image model's input.

    Raises: ConfigError where ``shape`` is not (channels, height, width) with sides of at least ``least``, or for fewer
    than two classes.
    """
    check_classes(model, classes)
    if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < least:
        raise ConfigError(
            f"model {model} needs images (channels, height, width) of {least}x{least} or more; the data has {shape}"
        )
    return shape[0], shape[1], shape[2]


def check_classes(model: str, classes: int) -> None:
    """Raises: ConfigError for fewer than two classes."""
    if classes < 2:
        raise ConfigError(f"model {model} needs at least 2 classes; the data has {classes}")


def group_norm(groups: int, channels: int) -> nn.GroupNorm:
    """GroupNorm over ``groups`` groups. Raises: ConfigError where they do not divide the channels."""
    if groups < 1 or channels % groups:
        raise ConfigError(f"groups = {groups} must divide every width; {channels} channels cannot be split so")
    return nn.GroupNorm(groups, channels)


def assemble(blocks: Sequence[Sequence[nn.Module]], classifier: nn.Module) -> nn.Sequential:
    """A Sequential with children ``block1`` .. ``blockL``, shallow to deep, and ``classifier``."""
    named = [(f"block{i}", nn.Sequential(*layers)) for i, layers in enumerate(blocks, start=1)]
    return nn.Sequential(OrderedDict[str, nn.Module]([*named, ("classifier", classifier)]))
