"""Linear heads on pooled features at a cut: what makes features of one layer comparable across models.

Summaries of FedD2S (arXiv 2402.10846) speak of head models that turn intermediate features into soft labels; their form
(adaptive pool, one linear layer, no dropout, no normalisation) and the server's training of its own head are decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedkd import rng
from fedkd.layers import head_initial, pool, pooled_width
from fedkd.setting import Setting
from fedkd.train import CHUNK, Adam, to_numpy, to_tensors
from fedkd.types import Array, Arrays, Upload


def names(cut: int) -> tuple[str, str]:
    """Names of a head's parameters in a client's state."""
    return f"head{cut}.weight", f"head{cut}.bias"


def width(setting: Setting, cut: int) -> int:
    """d_l after pooling."""
    return pooled_width(setting.model.cut_shapes[cut - 1], setting.method.head_pool)


def initial(setting: Setting, cut: int, owner: int = -1) -> Arrays:
    """A head's first parameters: from the seed, the same for all clients unless ``owner`` names one."""
    key = rng.key(setting.seed, "head", cut, owner)
    head = head_initial(width(setting, cut), setting.classes, key)
    return dict(zip(names(cut), (head["weight"], head["bias"]), strict=True))


def apply(params: Mapping[str, Tensor], cut: int, z: Tensor, head_pool: int) -> Tensor:  # z [B, ...] -> [B, C]
    """A head's logits on the output of block ``cut``."""
    weight, bias = names(cut)
    return F.linear(pool(z, head_pool), params[weight], params[bias])


@torch.no_grad()
def features(setting: Setting, params: Mapping[str, Tensor], cut: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """(pooled features [K, d], head logits [K, C]) of one client's rows, eval mode, fixed chunks."""
    pooled: list[Tensor] = []
    out: list[Tensor] = []
    for part in x.split(CHUNK):
        z = setting.model.forward(params, part, (cut,))[0][cut]
        pooled.append(pool(z, setting.method.head_pool))
        out.append(apply(params, cut, z, setting.method.head_pool))
    return torch.cat(pooled), torch.cat(out)


@dataclass(frozen=True)
class Pooled:
    """What the server trains its head on: rows of all clients, ordered by client id, then sample id."""

    z: Tensor
    """[M, d] pooled features"""
    p: Tensor
    """[M, C] the clients' head logits"""
    y: Tensor | None
    """[M] labels, or None where they stay at home"""
    weight: Tensor
    """[M] weight of each row, mean 1"""


def train_server_head(
    setting: Setting, round: int, cut: int, state: Arrays, rows: Pooled, epochs: int
) -> tuple[dict[str, Tensor], Arrays]:
    """Minimise CE(G(z), y) + lam_s KL(p || G(z)) over the shuffled rows with Adam.

    Args:
        state: the head and its optimizer as the server committed them, or {} at first.
        epochs: passes over the rows.

    Returns:
        The head's tensors and the new server state (names "head<cut>.*" and "adam<cut>.*").
    """
    config = setting.method
    prefix = f"adam{cut}."
    known = {n: state[n] for n in names(cut) if n in state} or initial(setting, cut)
    params = to_tensors(known, setting.device)
    adam = Adam(params, config.server_lr, {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)})
    weight, bias = names(cut)
    stream = rng.experiment(setting.seed, "server shuffle", round)
    for _ in range(epochs):
        order = torch.from_numpy(stream.permutation(len(rows.z))).to(rows.z.device)
        for part in order.split(config.server_batch):
            leaves = [params[weight].requires_grad_(True), params[bias].requires_grad_(True)]
            out = F.linear(rows.z[part], *leaves)
            loss = _server_loss(setting, out, rows, part)
            adam.step(torch.autograd.grad(loss, leaves))
    params = {n: p.detach() for n, p in params.items()}
    new_state = {n: to_numpy(p) for n, p in params.items()}
    new_state.update({prefix + n: v for n, v in adam.state().items()})
    return params, new_state


def _server_loss(setting: Setting, out: Tensor, rows: Pooled, part: Tensor) -> Tensor:
    config = setting.method
    terms: list[Tensor] = []
    if config.server_ce and rows.y is not None:
        terms.append(setting.supervised(out, None, rows.y[part]))
    if config.kd_weight_server:
        terms.append(config.kd_weight_server * setting.distillation(out, rows.p[part], None))
    return (sum(terms[1:], terms[0]) * rows.weight[part]).mean()


def teach(setting: Setting, head: Mapping[str, Tensor], cut: int, upload: Upload) -> tuple[Array, Array, float | None]:
    """(teacher logits [m, C], ids [m] ascending, mean CE on the labels sent) of one client's rows, from these rows alone."""
    kinds = upload.kinds
    order = np.argsort(kinds["ids"]["i"], kind="stable")  # the order of rows on the wire must not matter
    weight, bias = (head[n] for n in names(cut))
    q = F.linear(torch.tensor(kinds["features"]["z"][order], device=setting.device), weight, bias)
    loss: float | None = None
    if "labels" in kinds:
        loss = float(setting.supervised(q, None, torch.tensor(kinds["labels"]["y"][order], device=q.device)).mean())
    return to_numpy(q), kinds["ids"]["i"][order], loss
