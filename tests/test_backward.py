"""Gradients without a tape have the bits of autograd's, for every model that they take."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from fedkd import backward, jobs, plugins, rng, train
from fedkd.backward import Chain, CrossEntropy, chain_of
from fedkd.layers import LayeredModel
from fedkd.losses import ce
from tests.toy import CLASSES, toy_clients, toy_setting

TAPELESS = {"cnn_small", "fedavg_cnn", "lenet", "mlp"}


def layered(*layers: nn.Module, shape: tuple[int, ...], classifier: nn.Module) -> LayeredModel:
    module = nn.Sequential(OrderedDict(block1=nn.Sequential(*layers), classifier=classifier))
    return LayeredModel(module, shape, CLASSES)


def both(model: LayeredModel, x: torch.Tensor, key: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(gradient by the chain, gradient by autograd), by parameter."""
    chain = chain_of(model)
    assert chain is not None
    params = {n: torch.tensor(v) for n, v in model.initial(key).items()}
    y = torch.arange(len(x)) % CLASSES
    slots = {n: torch.full_like(v, 7.0) for n, v in params.items()}
    before = x.clone()
    chain.cross_entropy(params, x, y, slots)
    assert torch.equal(x, before), "a client's rows stay as they are"
    leaves = {n: v.clone().requires_grad_(True) for n, v in params.items()}
    loss = CrossEntropy(model, lambda out, _, y: ce.loss(ce.Config(), out, None, y))(leaves, x, y, {}).mean()
    return slots, dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def assert_same(model: LayeredModel, x: torch.Tensor) -> None:
    ours, taped = both(model, x)
    assert ours.keys() == taped.keys()
    different = [n for n in ours if not torch.equal(ours[n], taped[n])]
    assert not different
    assert any(g.any() for g in ours.values())


def images(rows: int, shape: tuple[int, ...], levels: int = 0) -> torch.Tensor:
    """Normal pixels; with ``levels`` few values, as in drawings on a plain ground, so that maxima have ties."""
    stream = np.random.default_rng(rows)
    drawn = stream.integers(0, levels, (rows, *shape)) / levels if levels else stream.standard_normal((rows, *shape))
    return torch.tensor(drawn, dtype=torch.float32)


@pytest.mark.parametrize("name", plugins.available("models"))
@pytest.mark.parametrize("rows", [1, 7, 10])
@pytest.mark.parametrize("levels", [0, 2])
def test_every_models_gradient_is_autograds_to_the_bit(name: str, rows: int, levels: int) -> None:
    shape = (3, 28, 28) if name in ("fedavg_cnn", "lenet", "mlp") else (3, 14, 14)
    module = plugins.find("models", name)
    with rng.torch_scope(1):
        model = LayeredModel(module.build(module.Config(), shape, CLASSES), shape, CLASSES)
    assert (chain_of(model) is not None) == (name in TAPELESS)
    if name in TAPELESS:
        assert_same(model, images(rows, shape, levels))


@pytest.mark.parametrize("ground", [0.0, 0.5])
def test_ties_go_to_the_first_place_in_reading_order(ground: float) -> None:
    """On a plain ground all four numbers of a window are equal, and larger than 0 where the bias is."""
    model = toy_setting("fedavg", shape=(1, 28, 28), model_name="lenet").model
    x = torch.full((4, 1, 28, 28), ground)
    x[:, :, 10:14, 10:14] = 1.0
    assert_same(model, x)


@pytest.mark.parametrize("side", [8, 9, 11])
def test_odd_sides_and_rare_convolutions(side: int) -> None:
    """Padding, stride, dilation and groups; a pool whose last row and column belong to no window; ReLU on the input itself."""
    with rng.torch_scope(2):
        body = [nn.ReLU(), nn.Conv2d(2, 4, 3, padding=2, dilation=2, groups=2), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()]
        width = 4 * (side // 2) ** 2
        model = layered(*body, nn.Linear(width, 6), nn.ReLU(), shape=(2, side, side), classifier=nn.Linear(6, CLASSES))
    assert_same(model, images(5, (2, side, side)))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Dropout(0.5), nn.Tanh(), nn.MaxPool2d(3, padding=1), nn.MaxPool2d(2, stride=1), nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(2, 2, 3, bias=False), nn.Conv2d(2, 2, 3, padding="same"), nn.GroupNorm(1, 2),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), nn.ReLU6(),
    ],
    ids=str,
)  # fmt: skip
def test_other_layers_are_left_to_autograd(layer: nn.Module) -> None:
    with torch.no_grad(), rng.torch_scope(3):
        width = layer(torch.zeros(1, 2, 7, 7)).flatten(1).shape[1]
        model = layered(layer, nn.Flatten(), shape=(2, 7, 7), classifier=nn.Linear(width, CLASSES))
    assert chain_of(model) is None


@pytest.mark.parametrize("model", ["lenet", "mlp"])
@pytest.mark.parametrize("epochs", [1, 3])
def test_training_with_and_without_a_tape_has_the_same_bits(model: str, epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (1, 28, 28)
    setting = toy_setting("fedavg", shape=shape, model_name=model, local_epochs=epochs, momentum=0.9)
    job = jobs.local_job(setting, 0, toy_clients(shape=shape)[1], setting.initial())
    asked: list[int] = []
    whole = Chain.cross_entropy
    monkeypatch.setattr(Chain, "cross_entropy", lambda self, *given: asked.append(len(given[2])) or whole(self, *given))
    ours = train.sgd(job)
    assert asked == [9] * epochs  # client 1 has nine rows, one batch
    monkeypatch.setattr(train, "chain_of", lambda model: None)
    taped = train.sgd(job)
    assert [n for n in ours if not torch.equal(ours[n], taped[n])] == []
    assert any(not torch.equal(ours[n], job.params[n]) for n in ours)


def test_a_parameter_that_cross_entropy_does_not_read_moves_by_weight_decay_alone() -> None:
    """As with autograd, whose gradient for it is zero, also where the vector held another job's gradient before."""
    setting = toy_setting("fedavg", shape=(1, 28, 28), model_name="mlp", momentum=0.0, weight_decay=0.5, learning_rate=0.1)
    client, params = toy_clients(shape=(1, 28, 28))[1], {**setting.initial(), "rest": np.ones(3, np.float32)}
    job = jobs.local_job(setting, 0, client, params, extra_trainable=("rest",), epochs=1)
    flat = train.FlatVector({n: job.params[n] for n in job.trainable}, job.x.device)
    flat.slots["rest"].fill_(5.0)
    assert train.sgd(job, flat)["rest"].tolist() == pytest.approx([0.95] * 3)


def test_other_losses_take_the_tape(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = toy_setting("fedavg", shape=(1, 28, 28), model_name="mlp")
    job = jobs.local_job(setting, 0, toy_clients(shape=(1, 28, 28))[1], setting.initial())
    monkeypatch.setattr(Chain, "cross_entropy", lambda *given: pytest.fail("no chain here"))
    train.sgd(dataclasses.replace(job, loss=lambda *given: job.loss(*given)))


def test_losses_of_one_setting_are_equal_values() -> None:
    """So that executor ``stacked`` finds clients that take the same steps."""
    setting, other = toy_setting("fedavg"), toy_setting("fedavg", model_name="mlp")
    assert jobs.cross_entropy(setting) == jobs.cross_entropy(setting)
    assert jobs.cross_entropy(setting) != jobs.cross_entropy(other)
    assert hash(jobs.cross_entropy(setting)) == hash(jobs.cross_entropy(setting))


def test_corners_are_where_the_windows_begin() -> None:
    assert backward._corners(2, 3, 7).tolist() == [[0, 2, 4], [14, 16, 18]]
