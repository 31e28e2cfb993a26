"""A next-token model over a window of tokens: embeddings side by side, hidden layers, a softmax over the vocabulary.

Source: Bengio, Ducharme, Vincent, Jauvin, "A Neural Probabilistic Language Model", JMLR 3, 2003, section 2, without the direct
connections (ReLU instead of tanh; decided here). Inputs are token ids as numbers, for example the windows of data
``next_token``; values outside the vocabulary are moved into it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from fedkd.blocks import assemble, check_classes
from fedkd.errors import ConfigError


@dataclass(frozen=True)
class Config:
    """Choices of the network."""

    width: int = 24
    """numbers per token"""
    hidden: tuple[int, ...] = (256,)
    """units of each hidden layer, shallow to deep; at least one layer"""

    def __post_init__(self) -> None:
        if not self.hidden or any(not isinstance(h, int) or h < 1 for h in (*self.hidden, self.width)):
            raise ConfigError(
                f"model.args: width = {self.width!r}, hidden = {self.hidden!r}; valid: whole numbers of at least 1"
            )


class _Tokens(nn.Embedding):
    """[B, *shape] token ids as numbers -> [B, tokens * width]."""

    def forward(self, input: Tensor) -> Tensor:
        ids = input.flatten(1).clamp(0, self.num_embeddings - 1).long()
        return super().forward(ids).flatten(1)


def build(config: Config, shape: tuple[int, ...], classes: int) -> nn.Sequential:  # [B, *shape] -> [B, classes] logits
    """The network for windows of any ``shape`` with at least one token; the vocabulary is ``classes``.

    Raises: ConfigError for an empty shape or fewer than two classes.
    """
    check_classes("window_mlp", classes)
    if not shape or min(shape) < 1:
        raise ConfigError(f"model window_mlp needs at least one token; the data has shape {shape}")
    size = math.prod(shape) * config.width
    blocks: list[list[nn.Module]] = []
    for out in config.hidden:
        blocks.append([*([] if blocks else [_Tokens(classes, config.width)]), nn.Linear(size, out), nn.ReLU()])
        size = out
    return assemble(blocks, nn.Linear(size, classes))
