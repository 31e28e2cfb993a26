"""Laws of every file in ``fedkd/models``, at its default Config."""

from __future__ import annotations

import dataclasses
import re
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from fedkd import plugins, rng
from fedkd.errors import ConfigError

NAMES = plugins.available("models")
SHAPE, CLASSES = (1, 28, 28), 10


@pytest.fixture(params=NAMES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return plugins.find("models", request.param)


def build(module: ModuleType, key: int = 0, shape: tuple[int, ...] = SHAPE, classes: int = CLASSES) -> nn.Sequential:
    with rng.torch_scope(key):
        return module.build(module.Config(), shape, classes)


def inputs(rows: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(1))


def test_the_folder_has_models() -> None:
    assert {"cnn_small", "fedavg_cnn", "cnn5", "mlp", "resnet8"} <= set(NAMES)


def test_config_is_a_frozen_dataclass_with_defaults(module: ModuleType) -> None:
    assert dataclasses.is_dataclass(module.Config)
    assert module.Config.__dataclass_params__.frozen


def test_children_are_blocks_shallow_to_deep_and_a_classifier(module: ModuleType) -> None:
    model = build(module)
    assert type(model) is nn.Sequential
    names = [name for name, _ in model.named_children()]
    assert names == [f"block{i}" for i in range(1, len(names))] + ["classifier"]
    assert len(names) >= 2
    for child in model.children():
        assert any(p.requires_grad for p in child.parameters()), "each block is a parametric layer"


def test_composed_blocks_are_the_forward_pass(module: ModuleType) -> None:
    model, x = build(module), inputs(3)
    z = x
    for child in model.children():
        z = child(z)
    assert torch.equal(z, model(x))
    assert z.shape == (3, CLASSES)


def test_no_batch_norm_and_no_buffers_by_default(module: ModuleType) -> None:
    model = build(module)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    assert list(model.buffers()) == []


def test_samples_are_not_coupled(module: ModuleType) -> None:
    model, x = build(module), inputs(4)
    model.train()
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]), atol=1e-5, rtol=1e-4)


def test_same_key_same_weights_and_another_key_others(module: ModuleType) -> None:
    first, again, other = build(module, 1).state_dict(), build(module, 1).state_dict(), build(module, 2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_every_parameter_gets_a_gradient(module: ModuleType) -> None:
    model = build(module)
    model(inputs(2)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_stacked_clients_equal_the_loop(module: ModuleType) -> None:
    models, x = [build(module, key) for key in (1, 2)], inputs(2)
    params, _ = stack_module_state(models)

    def total(weights: dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        return functional_call(models[0], weights, (rows,)).square().mean()

    stacked = vmap(grad(total), in_dims=(0, None))(params, x)
    for position, model in enumerate(models):
        alone = grad(total)(dict(model.named_parameters()), x)
        for name, value in alone.items():
            torch.testing.assert_close(stacked[name][position], value.detach(), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
@given(channels=st.integers(0, 3), height=st.integers(0, 20), width=st.integers(0, 20), rows=st.integers(0, 2))
@settings(max_examples=20, deadline=None)
def test_any_shape_works_or_is_refused(name: str, channels: int, height: int, width: int, rows: int) -> None:
    shape = (channels, height, width)
    module = plugins.find("models", name)
    try:
        model = build(module, shape=shape, classes=3)
    except ConfigError:
        with pytest.raises(ConfigError, match=re.escape(str(shape))):
            module.build(module.Config(), shape, 3)
        return
    logits = model(inputs(rows, shape))
    assert logits.shape == (rows, 3)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("classes", [-1, 0, 1])
def test_fewer_than_two_classes_are_refused(module: ModuleType, classes: int) -> None:
    with pytest.raises(ConfigError, match="at least 2 classes"):
        build(module, classes=classes)
