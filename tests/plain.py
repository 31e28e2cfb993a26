"""Plain PyTorch for reference implementations: modules and torch.optim, nothing of the executor, jobs or flat vectors.

Shared with the library are only what makes two runs comparable: initial weights, batch orders and client samples, from the
random streams of the same names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fedkd import heads, plugins, rng
from fedkd.config import parse_args
from fedkd.setting import Setting
from fedkd.types import Arrays, ClientData
from tests.toy import CLASSES, SHAPE

Weights = dict[str, Tensor]


def network(setting: Setting) -> nn.Sequential:
    """The model as a module with the run's initial weights."""
    module = plugins.find("models", setting.experiment.model_name)
    with rng.torch_scope(0):
        net: nn.Sequential = module.build(parse_args(setting.experiment.model_args, module.Config, ""), SHAPE, CLASSES)
    net.load_state_dict({n: torch.tensor(v) for n, v in setting.initial().items()})
    return net.train()


def head(setting: Setting, cut: int, width: int) -> nn.Linear:
    """A linear head with the run's first weights for this cut."""
    with rng.torch_scope(0):
        linear = nn.Linear(width, CLASSES)
    first = heads.initial(setting, cut)
    linear.load_state_dict({"weight": torch.tensor(first[f"head{cut}.weight"]), "bias": torch.tensor(first[f"head{cut}.bias"])})
    return linear


def rows_of(data: ClientData) -> tuple[Tensor, Tensor]:
    """x [K, ...] and y [K] int64 of a client's training split."""
    return torch.tensor(np.asarray(data.train.x)), torch.tensor(np.asarray(data.train.y, dtype=np.int64))


def sgd(setting: Setting, params: Iterable[Tensor], round: int, lr: float | None = None) -> torch.optim.SGD:
    """torch.optim.SGD at the round's rate: lr (.05 + .95 (1 + cos(pi t / R)) / 2)."""
    e = setting.experiment
    cosine = e.learning_rate * (0.05 + 0.95 * (1 + math.cos(math.pi * round / e.num_server_rounds)) / 2)
    rate = cosine if lr is None else lr
    return torch.optim.SGD(params, lr=rate, momentum=e.momentum, weight_decay=e.weight_decay, foreach=False)


def batches(setting: Setting, round: int, client: int, rows: int, epochs: int | None = None) -> Iterator[Tensor]:
    """Row numbers of each mini-batch, a fresh permutation an epoch."""
    stream = rng.experiment(setting.seed, "batch order", round, client)
    for _ in range(setting.experiment.local_epochs if epochs is None else epochs):
        yield from torch.tensor(stream.permutation(rows)).split(setting.experiment.batch_size)


def mean(parts: Sequence[tuple[Weights, int]]) -> Weights:
    """sum K_n w_n / sum K_n in float64; integers are rounded."""
    total = sum(k for _, k in parts)
    out: Weights = {}
    for name, like in parts[0][0].items():
        value = sum((k * w[name].double() for w, k in parts), torch.zeros_like(like, dtype=torch.float64)) / total
        out[name] = (value if like.is_floating_point() else value.round()).to(like.dtype)
    return out


def copy_of(module: nn.Module, names: Iterable[str] | None = None) -> Weights:
    """Copies of a module's parameters and buffers."""
    state = module.state_dict()
    return {n: state[n].detach().clone() for n in (state if names is None else names)}


def arrays(weights: Weights) -> Arrays:
    """As NumPy, to compare."""
    return {n: t.detach().numpy().copy() for n, t in weights.items()}


def block_names(net: nn.Sequential, number: int) -> list[str]:
    """Names of block ``number`` (L + 1 = the classifier)."""
    child = [name for name, _ in net.named_children()][number - 1]
    return [n for n in net.state_dict() if n.startswith(f"{child}.")]
