"""An inverse network: from the features of a cut, and the label where it is known, back to the image.

He, Zhang and Lee, 2019 (ACSAC), section 4.2, train such a network on pairs that the attacker makes with a model that it
holds; the form here (one hidden layer beside a linear map, squared error, Adam) is decided here. ``fedkd.reconstruct`` makes
the pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedkd import rng
from fedkd.train import CHUNK, Adam
from fedkd.types import Array


@dataclass(frozen=True)
class Config:
    """How the network learns; chosen on public rows alone, with another seed than any study's."""

    hidden: int = 256
    """units of the hidden layer, at least 1"""
    epochs: int = 16
    """passes over the public rows, at least 1"""
    batch: int = 64
    """rows of a step, at least 1"""
    learning_rate: float = 1e-3
    """of Adam, falling to a twentieth by a cosine"""
    seed: int = 0
    """of the first weights and the order of rows"""


@dataclass(frozen=True)
class Decoder:
    """A trained inverse network."""

    params: dict[str, Tensor]
    mean: Tensor
    """[d] of the features that it was trained on"""
    scale: Tensor
    """[d] their standard deviation"""
    classes: int
    """width of the one-hot label; 0 where the label is not known"""

    @torch.no_grad()
    def __call__(self, z: Array, labels: Array | None) -> Array:  # [m, d], [m] -> [m, D] in 0..1, float32
        """Images of rows of features."""
        parts = [_network(self.params, part) for part in _inputs(self, z, labels).split(CHUNK)]
        out: Array = torch.cat(parts).clamp(0.0, 1.0).numpy()
        return out


def train(
    config: Config,
    features: Callable[[int], Array],
    labels: Array | None,
    images: Array,
    classes: int,
) -> Decoder:
    """Fit the network to pairs.

    Args:
        features: epoch -> [P, d] features, so that a mechanism's noise can be drawn anew in each epoch.
        labels: [P], or None where the attacker does not know them.
        images: [P, D] in 0..1, row by row what the features were made of.
        classes: C.
    """
    z = features(0)
    middle, width = z.mean(axis=0), z.std(axis=0)
    network = Decoder(
        _initial(config, z.shape[1] + (0 if labels is None else classes), images),
        torch.from_numpy(middle), torch.from_numpy(np.where(width > 1e-6, width, 1.0).astype(np.float32)),
        0 if labels is None else classes,
    )  # fmt: skip
    leaves = {n: p.requires_grad_(True) for n, p in network.params.items()}
    adam = Adam(leaves, config.learning_rate)
    target = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    for epoch in range(config.epochs):
        adam.lr = config.learning_rate * (0.05 + 0.95 * (1 + np.cos(np.pi * epoch / config.epochs)) / 2)
        inputs = _inputs(network, z if epoch == 0 else features(epoch), labels)
        order = rng.experiment(config.seed, "decoder order", epoch).permutation(len(target))
        for rows in torch.from_numpy(order).split(config.batch):
            loss = F.mse_loss(_network(leaves, inputs[rows]), target[rows])
            adam.step(torch.autograd.grad(loss, list(leaves.values())))
    return Decoder({n: p.detach() for n, p in leaves.items()}, network.mean, network.scale, network.classes)


def _inputs(network: Decoder, z: Array, labels: Array | None) -> Tensor:
    standard = (torch.from_numpy(np.ascontiguousarray(z, dtype=np.float32)) - network.mean) / network.scale
    if not network.classes or labels is None:
        return standard
    hot = F.one_hot(torch.from_numpy(np.asarray(labels, dtype=np.int64)), network.classes)
    return torch.cat([standard, hot.float()], dim=1)


def _network(params: dict[str, Tensor], x: Tensor) -> Tensor:
    hidden = F.relu(F.linear(x, params["in.weight"], params["in.bias"]))
    return F.linear(x, params["skip.weight"]) + F.linear(hidden, params["out.weight"], params["out.bias"])


def _initial(config: Config, width: int, images: Array) -> dict[str, Tensor]:
    """Starts at the mean image: the skip and the hidden layer's output are zero."""
    stream = rng.experiment(config.seed, "decoder weights")
    first = stream.standard_normal((config.hidden, width)) * np.sqrt(2.0 / width)
    size = images.shape[1]
    made = {
        "in.weight": first, "in.bias": np.zeros(config.hidden), "skip.weight": np.zeros((size, width)),
        "out.weight": np.zeros((size, config.hidden)), "out.bias": images.mean(axis=0),
    }  # fmt: skip
    return {n: torch.from_numpy(v.astype(np.float32)) for n, v in made.items()}
