"""LeNet: parameter counts by hand, sizes after each block, and the refusal of small images."""

from __future__ import annotations

import pytest
import torch

from fedkd import rng
from fedkd.errors import ConfigError
from fedkd.models import lenet


@pytest.mark.parametrize(("channels", "parameters"), [(3, 62_006), (1, 61_706)])
def test_counts_by_hand(channels: int, parameters: int) -> None:
    """6 (25 c + 1) + 16 (25 x 6 + 1) + 120 (400 + 1) + 84 (120 + 1) + 10 (84 + 1); a channel less is 150 weights less."""
    by_hand = 6 * (25 * channels + 1) + 16 * (25 * 6 + 1) + 120 * 401 + 84 * 121 + 10 * 85
    with rng.torch_scope(0):
        model = lenet.build(lenet.Config(), (channels, 32, 32), 10)
    assert sum(p.numel() for p in model.parameters()) == by_hand == parameters


def test_blocks_are_ordered_shallow_to_deep() -> None:
    with rng.torch_scope(0):
        model = lenet.build(lenet.Config(), (3, 32, 32), 10)
    z, seen = torch.zeros(2, 3, 32, 32), {}
    for name, child in model.named_children():
        z = child(z)
        seen[name] = tuple(z.shape[1:])
    assert seen == {"block1": (6, 14, 14), "block2": (16, 5, 5), "block3": (120,), "block4": (84,), "classifier": (10,)}


def test_smallest_image() -> None:
    with rng.torch_scope(0):
        model = lenet.build(lenet.Config(), (1, 16, 16), 2)
    assert model(torch.zeros(1, 1, 16, 16)).shape == (1, 2)
    with pytest.raises(ConfigError, match="16x16"):
        lenet.build(lenet.Config(), (1, 15, 16), 2)
