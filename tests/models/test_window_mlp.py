"""The window model: number of values, and a forward pass by hand."""

from __future__ import annotations

import pytest
import torch

from fedkd import rng
from fedkd.errors import ConfigError
from fedkd.models import window_mlp


def test_values_and_a_forward_pass_by_hand() -> None:
    """V E + (n E + 1) H + (H + 1) V values (Bengio et al., 2003, section 2, without direct connections)."""
    with rng.torch_scope(0):
        model = window_mlp.build(window_mlp.Config(4, (6,)), (3,), 5)
    assert sum(p.numel() for p in model.parameters()) == 5 * 4 + (3 * 4 + 1) * 6 + (6 + 1) * 5
    values = dict(model.named_parameters())
    x = torch.tensor([[1.0, 0.0, 4.0]])
    z = values["block1.0.weight"][[1, 0, 4]].flatten()
    z = (values["block1.1.weight"] @ z + values["block1.1.bias"]).clamp_min(0)
    expected = values["classifier.weight"] @ z + values["classifier.bias"]
    torch.testing.assert_close(model(x)[0], expected)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="hidden"):
        window_mlp.Config(hidden=())
    with pytest.raises(ConfigError, match="width"):
        window_mlp.Config(width=0)
    with pytest.raises(ConfigError, match="at least one token"):
        window_mlp.build(window_mlp.Config(), (0,), 5)
