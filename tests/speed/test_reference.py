"""Equality before speed: the float64 reference against NumPy by hand, and what the comparison catches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.speed import nets, reference
from benchmarks.speed.inputs import Inputs
from benchmarks.speed.systems.loop import run
from benchmarks.speed.workloads import W3, export

SMALL = ("num-clients=6", "fraction-train=0.5", 'data.args="clients = 6, shape = [1, 28, 28], samples_per_client = 12"')


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Three of six clients, twelve rows each, the MLP of W3."""
    workload = replace(W3, settings=(*W3.settings, *SMALL))
    return export(workload, 2, tmp_path_factory.mktemp("speed") / "W3")


def test_one_client_by_hand(inputs: Inputs) -> None:
    """SGD with momentum on an MLP, backpropagated in NumPy: v = m v + g; w = w - lr v, from v = g at the first step."""
    client = inputs.cohort(0)[0]
    x, y = inputs.rows(client)
    w = [np.asarray(v, np.float64) for v in inputs.initial.values()]
    speed: list[np.ndarray] = []
    for rows in inputs.batches(0, client):
        a0 = x[rows].reshape(len(rows), -1).astype(np.float64)
        h1 = a0 @ w[0].T + w[1]
        a1 = np.maximum(h1, 0)
        h2 = a1 @ w[2].T + w[3]
        a2 = np.maximum(h2, 0)
        logits = a2 @ w[4].T + w[5]
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        d3 = (p - np.eye(10)[y[rows]]) / len(rows)
        d2 = (d3 @ w[4]) * (h2 > 0)
        d1 = (d2 @ w[2]) * (h1 > 0)
        grads = [d1.T @ a0, d1.sum(0), d2.T @ a1, d2.sum(0), d3.T @ a2, d3.sum(0)]
        speed = grads if not speed else [0.9 * v + g for v, g in zip(speed, grads, strict=True)]
        w = [value - 0.05 * v for value, v in zip(w, speed, strict=True)]
    got = reference.average(inputs, 0, [client], inputs.initial)
    assert reference.gap(got, dict(zip(got, w, strict=True))) < 1e-12


def test_the_loop_is_within_the_tolerance_with_one_worker_and_a_planted_order_is_not(inputs: Inputs, tmp_path: Path) -> None:
    want = reference.average(inputs, 0, inputs.cohort(0), inputs.initial)
    assert reference.gap(want, run(inputs, 1, 1, lambda round, weights: True)) <= reference.TOLERANCE
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for file in inputs.folder.iterdir():
        if file.is_file() and file.name != "orders.npy":
            (wrong / file.name).hardlink_to(file)
    orders = np.load(inputs.folder / "orders.npy")
    client = inputs.cohort(0)[1]
    first = int(np.load(inputs.folder / "offsets.npy")[client])
    orders[0, 0, [first, first + 11]] = orders[0, 0, [first + 11, first]]  # one client's first and last sample change places
    np.save(wrong / "orders.npy", orders)
    assert reference.gap(want, run(Inputs(wrong), 1, 1, lambda round, weights: True)) > reference.TOLERANCE


def test_weights_that_changed_places_are_caught(inputs: Inputs) -> None:
    """Of equal shapes and one pair of tensors exchanged: the gap is the largest difference of the two."""
    left = {"a": np.array([1.0, 2.0]), "b": np.array([1.5, 2.0])}
    assert reference.gap(left, left) == 0.0
    assert reference.gap(left, {"a": left["b"], "b": left["a"]}) == 0.5
    assert reference.gap(left, {"a": left["a"]}) == float("inf")
    assert reference.gap(left, {"a": left["a"][:1], "b": left["b"]}) == float("inf")
    assert reference.gap(left, {"a": np.array([1.0, np.nan]), "b": left["b"]}) == float("inf")


def test_inputs_are_those_of_our_own_app(inputs: Inputs) -> None:
    """Rows of each client, a permutation per epoch, cohorts without a client twice, the weights in the net's order."""
    meta = json.loads((inputs.folder / "meta.json").read_text())
    assert [len(c) for c in meta["cohorts"]] == [3, 3]
    assert all(sorted(set(c)) == c for c in meta["cohorts"])
    for client in range(6):
        assert inputs.rows(client)[0].shape == (12, 1, 28, 28)
        assert sorted(inputs.order(1, client)[0]) == list(range(12))
        assert [len(b) for b in inputs.batches(1, client)] == [10, 2]
    module = nets.build("mlp", [1, 28, 28], 10)
    assert [tuple(p.shape) for p in module.parameters()] == [v.shape for v in inputs.initial.values()]


@pytest.mark.parametrize(("net", "shape", "count"), [("lenet", [3, 32, 32], 62_006), ("fedavg_cnn", [1, 28, 28], 1_663_370)])
def test_the_nets_have_the_stated_sizes(net: str, shape: list[int], count: int) -> None:
    assert sum(p.numel() for p in nets.build(net, shape, 10).parameters()) == count
