"""The five-block CNN: layers, parameter count, groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedkd import rng
from fedkd.errors import ConfigError
from fedkd.models import cnn5


def test_layers_and_parameters() -> None:
    """3x32x32: conv 896 + 18,496 + 73,856, norms 448, fc 2048*256+256 = 524,544, 32,896, classifier 1,290."""
    with rng.torch_scope(0):
        model = cnn5.build(cnn5.Config(), (3, 32, 32), 10)
    assert sum(p.numel() for p in model.parameters()) == 896 + 18_496 + 73_856 + 448 + 524_544 + 32_896 + 1_290
    for name in ("block1", "block2", "block3"):
        kinds = [type(layer) for layer in model.get_submodule(name).children()]
        assert kinds == [nn.Conv2d, nn.GroupNorm, nn.ReLU, nn.MaxPool2d]
    assert [type(layer) for layer in model.get_submodule("block5").children()] == [nn.Linear, nn.ReLU]


def test_smallest_image_and_other_groups() -> None:
    with rng.torch_scope(0):
        model = cnn5.build(cnn5.Config(groups=32), (1, 8, 8), 10)
    assert model(torch.ones(1, 1, 8, 8)).shape == (1, 10)


@pytest.mark.parametrize("groups", [0, 3, 64])
def test_groups_that_do_not_divide_are_refused(groups: int) -> None:
    with rng.torch_scope(0), pytest.raises(ConfigError, match=f"groups = {groups}"):
        cnn5.build(cnn5.Config(groups=groups), (1, 28, 28), 10)
