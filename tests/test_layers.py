"""A model as ordered blocks: names, cuts, initial weights, the pooled head (I14)."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fedkd import plugins, rng
from fedkd.layers import LayeredModel, head_initial, pool, pooled_width
from tests.toy import refusal


def plain(name: str = "cnn_small", shape: tuple[int, ...] = (1, 8, 8), key: int = 0, **config: object) -> nn.Sequential:
    module = plugins.find("models", name)
    with rng.torch_scope(key):
        return module.build(module.Config(**config), shape, 5)


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.detach().clone() for n, t in module.state_dict().items()}


def images(rows: int, shape: tuple[int, ...] = (1, 8, 8)) -> torch.Tensor:
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(3))


def test_forward_with_given_parameters_is_the_modules_own() -> None:
    """f = c o g^L o ... o g^1; z^l is what block l returns. The model's own weights play no part."""
    module, x = plain(key=1), images(4)
    model = LayeredModel(plain(key=2), (1, 8, 8), 5)
    z, out = model.forward(tensors(module), x, cuts=(1, 3))
    first = module[0](x)
    assert torch.equal(z[1], first)
    assert torch.equal(z[3], module[2](module[1](first)))
    assert set(z) == {1, 3}
    assert torch.equal(out, module(x))
    assert model.cut_shapes == [(16, 4, 4), (32, 2, 2), (64,)]


@pytest.mark.parametrize("name", plugins.available("models"))
@pytest.mark.parametrize("train", [False, True])
def test_every_models_forward_is_its_modules_to_the_bit(name: str, train: bool) -> None:
    shape = (1, 28, 28) if name in ("fedavg_cnn", "lenet") else (1, 8, 8)
    module, x = plain(name, shape, key=1).train(train), images(4, shape)
    out = LayeredModel(plain(name, shape, key=2), shape, 5).forward(tensors(module), x, train=train)[1]
    assert torch.equal(out, module(x))


def test_layers_with_rare_options_are_their_modules_to_the_bit() -> None:
    """What is called as a function must carry every option, and what has no such form is called as a module."""
    with rng.torch_scope(4):
        module = nn.Sequential(OrderedDict(
            block1=nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=2, dilation=2, bias=False), nn.ReLU(inplace=True)),
            block2=nn.Sequential(nn.Conv2d(4, 4, 3, padding="same"), nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)),
            block3=nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=2, padding_mode="circular"), nn.Flatten(2), nn.Flatten()),
            block4=nn.Sequential(nn.Sequential(nn.LazyLinear(7, bias=False), nn.Tanh()), nn.GroupNorm(1, 7)),
            classifier=nn.Linear(7, 5),
        ))  # fmt: skip
        x = images(3)
        module(x)
    out = LayeredModel(module, (1, 8, 8), 5).forward(tensors(module), x, train=True)[1]
    assert torch.equal(out, module(x))


def test_names_of_blocks_in_order() -> None:
    model = LayeredModel(plain(), (1, 8, 8), 5)
    assert model.blocks == 3
    assert model.names == tuple(plain().state_dict())
    assert model.names_upto(0) == []
    assert model.names_upto(1) == ["block1.0.weight", "block1.0.bias"]
    assert model.names_upto(4) == list(model.names)
    assert [len(names) for names in model.names_of_block] == [2, 2, 2, 2]


def test_batch_norm_buffers_belong_to_their_block_and_move_in_training_only() -> None:
    module = plain(norm="batch")
    model, params, x = LayeredModel(plain(norm="batch"), (1, 8, 8), 5), tensors(module), images(6)
    assert model.has_batch_norm
    assert not LayeredModel(plain(norm="group"), (1, 8, 8), 5).has_batch_norm
    assert "block1.1.running_mean" in model.names_upto(1)
    assert "block1.1.running_mean" not in model.parameter_names
    before = {n: t.clone() for n, t in params.items()}
    model.forward(params, x)
    assert all(torch.equal(params[n], before[n]) for n in params)
    module.train()
    model.forward(params, x, train=True)
    module(x)
    assert int(params["block1.1.num_batches_tracked"]) == 1
    assert all(torch.equal(params[n], t) for n, t in module.state_dict().items())


def test_initial_weights_repeat_by_key_and_are_the_layers_own_draw() -> None:
    model = LayeredModel(plain(), (1, 8, 8), 5)
    first, again, other = model.initial(11), model.initial(11), model.initial(12)
    assert all(np.array_equal(first[n], again[n]) for n in first)
    assert not np.array_equal(first["block1.0.weight"], other["block1.0.weight"])
    limit = 1 / np.sqrt(64)  # nn.Linear: uniform in +-1/sqrt(fan in)
    assert 0.9 * limit < np.abs(first["classifier.weight"]).max() <= limit
    first["classifier.bias"][:] = 9
    assert not np.array_equal(model.initial(11)["classifier.bias"], first["classifier.bias"]), "a copy"


@pytest.mark.parametrize(
    ("children", "message"),
    [
        (["block1", "head"], "classifier"),
        (["block2", "classifier"], "block1"),
        (["classifier"], "block1"),
    ],
)
def test_other_names_of_children_are_refused(children: list[str], message: str) -> None:
    with rng.torch_scope(0):
        module = nn.Sequential(OrderedDict((name, nn.Linear(5, 5)) for name in children))
    assert message in refusal(lambda: LayeredModel(module, (5,), 5))


def test_a_classifier_of_another_width_is_refused() -> None:
    with rng.torch_scope(0):
        module = nn.Sequential(OrderedDict(block1=nn.Linear(4, 6), classifier=nn.Linear(6, 7)))
    assert "5 classes" in refusal(lambda: LayeredModel(module, (4,), 5))


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(0, 6))
@settings(deadline=None, max_examples=50)
def test_pool_is_the_adaptive_mean_of_cells(batch: int, channels: int, height: int, width: int, size: int) -> None:
    """Oracle: cell i of n over H rows averages rows floor(i H / n) up to ceil((i + 1) H / n)."""
    z = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(height * 10 + width))
    rows, columns = (min(size, height), min(size, width)) if size else (height, width)
    expected = np.empty((batch, channels, rows, columns))
    for i in range(rows):
        for j in range(columns):
            top, bottom = i * height // rows, -(-(i + 1) * height // rows)
            left, right = j * width // columns, -(-(j + 1) * width // columns)
            expected[:, :, i, j] = z[:, :, top:bottom, left:right].numpy().astype(np.float64).mean(axis=(2, 3))
    out = pool(z, size)
    assert out.shape == (batch, pooled_width((channels, height, width), size))
    assert np.allclose(out.numpy(), expected.reshape(batch, -1), atol=1e-6)


def test_i14_pool_on_the_client_is_pool_on_the_server() -> None:
    """A head on features pooled before upload gives the bits of a head that pools itself; pooling twice changes nothing."""
    z = images(7, (3, 9, 9))
    head = {n: torch.tensor(v) for n, v in head_initial(pooled_width((3, 9, 9), 4), 5, key=2).items()}
    sent = torch.tensor(pool(z, 4).numpy())
    on_server = F.linear(sent, head["weight"], head["bias"])
    on_client = F.linear(pool(z, 4), head["weight"], head["bias"])
    assert torch.equal(on_server, on_client)
    assert torch.equal(pool(pool(z, 4), 4), pool(z, 4))
    assert torch.equal(pool(z, 4).reshape(7, 3, 4, 4), F.adaptive_avg_pool2d(z, (4, 4)))


def test_flat_features_are_never_pooled() -> None:
    z = images(3, (20,))
    assert torch.equal(pool(z, 4), z)
    assert pooled_width((20,), 4) == 20
    assert pooled_width((3, 9, 2), 4) == 3 * 4 * 2
    assert pooled_width((3, 9, 2), 0) == 54


def test_head_is_a_plain_linear_layer_drawn_under_its_key() -> None:
    first, again, other = (head_initial(30, 5, key) for key in (1, 1, 2))
    assert first["weight"].shape == (5, 30)
    assert first["bias"].shape == (5,)
    assert np.array_equal(first["weight"], again["weight"])
    assert not np.array_equal(first["weight"], other["weight"])
    assert np.abs(first["weight"]).max() <= 1 / np.sqrt(30)
