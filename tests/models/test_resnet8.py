"""ResNet-8: depth, parameter count, residual form, the ResNet-10 switch."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from fedkd import rng
from fedkd.errors import ConfigError
from fedkd.models import resnet8


def build(stages: Literal[3, 4] = 3) -> nn.Sequential:
    with rng.torch_scope(0):
        return resnet8.build(resnet8.Config(stages=stages), (3, 32, 32), 10)


@pytest.mark.parametrize(("stages", "layers", "parameters"), [(3, 8, 78_042), (4, 10, 308_826)])
def test_weight_layers_and_parameters(stages: Literal[3, 4], layers: int, parameters: int) -> None:
    """He et al. count 6n+2 weight layers without the shortcuts' convolutions; n = 1 gives 8, a fourth stage 10.

    3 stages: stem 432, convolutions 2*2304 + (4608+9216) + (18432+36864), shortcuts 512 + 2048, norms 2*(16*3 + 32*3
    + 64*3), classifier 650. The fourth adds 73728 + 147456 + 8192 + 2*128*3 and widens the classifier by 640.
    """
    model = build(stages)
    shortcut = {id(m) for b in model.modules() if isinstance(b, resnet8.BasicBlock) for m in b.shortcut.modules()}
    counted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear) and id(m) not in shortcut]
    assert len(counted) == layers
    three = 432 + 2 * 2304 + 13_824 + 55_296 + 2_560 + 2 * (48 + 96 + 192) + 650
    expected = three if stages == 3 else three + 73_728 + 147_456 + 8_192 + 2 * 384 + 640
    assert sum(p.numel() for p in model.parameters()) == expected == parameters
    assert len(list(model.children())) == stages + 2


def test_blocks_end_in_feature_maps_and_the_pool_is_in_the_classifier() -> None:
    model, z, shapes = build(), torch.zeros(1, 3, 32, 32), []
    for child in model.children():
        z = child(z)
        shapes.append(tuple(z.shape[1:]))
    assert shapes == [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8), (10,)]
    assert [name for name, _ in model.get_submodule("classifier").named_children()] == ["pool", "flatten", "fc"]


def test_with_a_dead_branch_a_block_is_the_relu_of_its_input() -> None:
    with rng.torch_scope(1):
        block = resnet8.BasicBlock(8, 8, stride=1, groups=4)
    nn.init.zeros_(block.norm2.weight)
    x = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), x.relu())


@pytest.mark.parametrize(("field", "value"), [("width", 0), ("width", 12), ("groups", 5)])
def test_bad_widths_are_refused(field: str, value: int) -> None:
    with rng.torch_scope(0), pytest.raises(ConfigError, match=field if value == 0 else "groups"):
        resnet8.build(resnet8.Config(**{field: value}), (1, 8, 8), 10)
