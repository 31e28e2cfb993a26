"""FedJAX: its federated averaging with the ``jit`` backend; the net in plain JAX; XLA's own threads.

A ``ClientDataset`` that answers ``shuffle_repeat_batch`` gives the shared order of samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fedjax.algorithms import fed_avg
from fedjax.core import client_datasets, optimizers

from benchmarks.speed.inputs import Inputs, Weights, arguments, argv, keep, said, share

if not hasattr(jax, "tree_map"):  # FedJAX 0.0.17 calls a name that newer releases of JAX have moved
    jax.tree_map = jax.tree_util.tree_map

POOL = {"window_dimensions": (1, 2, 2, 1), "window_strides": (1, 2, 2, 1), "padding": "VALID"}


class Ordered(client_datasets.ClientDataset):
    """A client's rows whose batches come in the shared order."""

    def __init__(self, inputs: Inputs, round: int, client: int, rows: dict[str, Any]) -> None:
        super().__init__(rows)
        self.batches = inputs.batches(round, client)

    def shuffle_repeat_batch(self, hparams: Any = None, **kwargs: Any) -> Iterator[dict[str, Any]]:
        """All batches of all epochs."""
        for rows in self.batches:
            yield {name: value[rows] for name, value in self.raw_examples.items()}


def forward(net: str, names: list[str], params: dict[str, Any], x: Any) -> Any:  # [B, H, W, C] -> [B, classes]
    """The net on weights in torch's order; convolutions in JAX's faster layout on CPUs (channels last)."""
    layers = [params[n] for n in names]  # a pytree has its names sorted
    weights = list(zip(layers[::2], layers[1::2], strict=True))
    convolutions = [] if net == "mlp" else weights[:2]
    for kernel, bias in convolutions:
        padding = [(2, 2), (2, 2)] if net == "fedavg_cnn" else "VALID"
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias
        x = jax.lax.reduce_window(jax.nn.relu(x), -jnp.inf, jax.lax.max, **POOL)
    x = jnp.transpose(x, (0, 3, 1, 2)).reshape(len(x), -1)
    dense = weights[len(convolutions) :]
    for kernel, bias in dense[:-1]:
        x = jax.nn.relu(x @ kernel + bias)
    return x @ dense[-1][0] + dense[-1][1]


def to_jax(weights: Weights) -> dict[str, Any]:
    """torch's [out, in, h, w] and [out, in] as [h, w, in, out] and [in, out]."""
    axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
    return {n: jnp.asarray(v.transpose(axes[v.ndim])) for n, v in weights.items()}


def to_torch(params: dict[str, Any]) -> Weights:
    """The inverse of ``to_jax``."""
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    return {n: np.asarray(v).transpose(axes[v.ndim]) for n, v in params.items()}


def run(inputs: Inputs, rounds: int) -> Weights:
    """The average of round 0."""
    meta, names = inputs.meta, list(inputs.initial)

    def loss(params: dict[str, Any], batch: dict[str, Any]) -> Any:
        logits = jax.nn.log_softmax(forward(meta["net"], names, params, batch["x"]))
        return -jnp.mean(jnp.take_along_axis(logits, batch["y"][:, None], axis=1))

    gradient = jax.grad(loss)
    algorithm = fed_avg.federated_averaging(
        lambda params, batch, rng: gradient(params, batch),
        optimizers.sgd(meta["learning_rate"], meta["momentum"]),
        optimizers.sgd(1.0),
        client_datasets.ShuffleRepeatBatchHParams(batch_size=meta["batch_size"], num_epochs=meta["epochs"]),
    )
    state = algorithm.init(to_jax(inputs.initial))
    staged: dict[int, dict[str, Any]] = {}
    first = Weights()
    for round in range(rounds):
        clients = []
        for client in share(inputs.cohort(round)):
            if client not in staged:
                x, y = inputs.rows(client)
                staged[client] = {"x": np.ascontiguousarray(x.transpose(0, 2, 3, 1)), "y": y.astype(np.int32)}
            clients.append((client, Ordered(inputs, round, client, staged[client]), jax.random.PRNGKey(client)))
        state, _ = algorithm.apply(state, clients)
        jax.block_until_ready(state.params)
        if round == 0:
            first = {n: to_torch(state.params)[n] for n in names}
        said(round)
    return first


if __name__ == "__main__":
    inputs, rounds, _, out = arguments(argv())
    keep(out, run(inputs, rounds), share(inputs.cohort(0)))
