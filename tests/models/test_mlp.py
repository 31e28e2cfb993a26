"""The perceptron: parameter count of McMahan's 2NN, any depth, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fedkd import rng
from fedkd.config import parse_args
from fedkd.errors import ConfigError
from fedkd.models import mlp


def test_parameters_of_2nn() -> None:
    """199,210 parameters on MNIST (McMahan et al., 2017, section 3)."""
    with rng.torch_scope(0):
        model = mlp.build(mlp.Config(), (1, 28, 28), 10)
    assert sum(p.numel() for p in model.parameters()) == 199_210


@pytest.mark.parametrize("shape", [(5,), (2, 3), (1, 4, 4)])
def test_depth_and_shapes(shape: tuple[int, ...]) -> None:
    config = parse_args("hidden = [7, 6, 5]", mlp.Config, "model.args")
    with rng.torch_scope(0):
        model = mlp.build(config, shape, 3)
    assert [name for name, _ in model.named_children()] == ["block1", "block2", "block3", "classifier"]
    assert model(torch.zeros(2, *shape)).shape == (2, 3)


@pytest.mark.parametrize("hidden", [(), (0,), (4, -1), (2.5,), ("8",)])
def test_bad_hidden_is_refused(hidden: Any) -> None:
    with pytest.raises(ConfigError, match="hidden"):
        mlp.Config(hidden=hidden)


def test_an_empty_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one value"):
        mlp.build(mlp.Config(), (), 3)
