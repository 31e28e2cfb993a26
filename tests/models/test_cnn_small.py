"""The pilot's network: parameter count, normalisation switch, odd sizes."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from fedkd import rng
from fedkd.models import cnn_small


def build(norm: Literal["none", "group", "batch"] = "none", shape: tuple[int, ...] = (1, 14, 14)) -> nn.Sequential:
    with rng.torch_scope(0):
        return cnn_small.build(cnn_small.Config(norm=norm), shape, 10)


def test_parameters_of_the_pilot() -> None:
    """38,282 parameters, 86 % of them in block 3 (FedD2S pilot)."""
    model = build()
    assert sum(p.numel() for p in model.parameters()) == 38_282
    assert sum(p.numel() for p in model.get_submodule("block3").parameters()) == 32_832
    assert [name for name, _ in model.named_children()] == ["block1", "block2", "block3", "classifier"]


@pytest.mark.parametrize(("norm", "kind"), [("group", nn.GroupNorm), ("batch", nn.BatchNorm2d)])
def test_norm_stands_between_convolution_and_relu(norm: Literal["group", "batch"], kind: type[nn.Module]) -> None:
    model = build(norm)
    for block in ("block1", "block2"):
        assert [type(layer) for layer in model.get_submodule(block).children()] == [nn.Conv2d, kind, nn.ReLU]
    assert sum(p.numel() for p in model.parameters()) == 38_282 + 2 * (16 + 32)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 8, 8), (1, 7, 9), (1, 28, 28)])
def test_spatial_sizes_round_up(shape: tuple[int, ...]) -> None:
    assert build(shape=shape)(torch.zeros(2, *shape)).shape == (2, 10)
