"""The job that a method hands to an executor, the local SGD step on one flat vector, and the only evaluation loop."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from fedkd.backward import CrossEntropy, chain_of
from fedkd.layers import LayeredModel, Params
from fedkd.types import Arrays, Split

CHUNK = 1024
"""Rows per evaluation batch: fixed, because the bits of a row depend on the batch's row count."""

BatchLoss = Callable[[Params, Tensor, Tensor, Mapping[str, Tensor]], Tensor]
"""(params, x [B, ...], y [B], targets) -> per-sample terms [B]; pure and vmap-able.

Where rows fill a batch up, ``targets[ROWS]`` [B] is 1 for those that count: a term that divides by a mean over the batch
takes it over these alone (a contract test of methods).
"""

ROWS = "counts"
"""The name in a loss's targets that says which rows count; absent where all do."""


@dataclass(frozen=True)
class NoisySteps:
    """What replaces the batches and the gradient of plain SGD (DP-SGD: Abadi et al., 2016, arXiv 1607.00133)."""

    steps: int
    """local steps of this round, >= 1"""
    rate: float
    """probability with which each sample enters a step's batch, in (0, 1]"""
    clip: float
    """largest L2 norm of one sample's gradient"""
    noise_multiplier: float
    """standard deviation of the noise on the sum / clip"""
    divisor: float
    """what the sum is divided by: a constant, never the size of the batch that was drawn"""
    key: int
    """of the batch draws and the noise: from the sender's secret"""


@dataclass
class Job:
    """One client's local training of one round."""

    client: int
    params: dict[str, Tensor]
    """everything the loss reads; the executor trains a copy"""
    trainable: tuple[str, ...]
    x: Tensor
    """[K, *shape]"""
    y: Tensor
    """[K] int64"""
    loss: BatchLoss
    order: npt.NDArray[np.int64]
    """[passes, K] the order of samples; -1 fills up a pass over fewer rows than the longest"""
    learning_rate: float
    momentum: float
    weight_decay: float
    batch_size: int
    targets: dict[str, Tensor] = field(default_factory=dict)
    """per-sample targets, [K, ...] each, in the order of x"""
    noisy: NoisySteps | None = None
    """a mechanism's steps instead of plain SGD: Poisson batches, clipped gradients, noise (fedkd.noisy_sgd)"""
    trace: list[dict[str, Any]] = field(default_factory=list)
    """what such steps measured of themselves; it never leaves the client"""

    @property
    def epochs(self) -> int:
        """Epochs over the client's samples."""
        return len(self.order)


class FlatVector:
    """Named tensors as 64-byte aligned views of one flat vector, so that load, step and average are single operations.

    The total is padded to a multiple of 64 numbers: a value's update never depends on what else is in the vector.
    """

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self.shapes = {n: (v.numel(), v.shape) for n, v in tensors.items()}
        self._rooms = [-(-size // 16) * 16 for size, _ in self.shapes.values()]
        used = sum(self._rooms)
        self._rooms.append(-used % 64)
        self.grads = torch.zeros(used + self._rooms[-1], device=device)
        self.velocity = torch.zeros_like(self.grads)
        self.slots = self._views(self.grads)
        self.load(tensors)

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        rooms = flat.split_with_sizes(self._rooms)
        return {
            n: (part if room == size else part[:size]).view(shape)
            for (n, (size, shape)), room, part in zip(self.shapes.items(), self._rooms, rooms, strict=False)
        }

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether ``load`` takes these: the same names and shapes in the same order, on the same device."""
        return list(self.shapes) == list(tensors) and all(
            v.shape == self.shapes[n][1] and v.device == self.values.device for n, v in tensors.items()
        )

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy into a new vector; that of before is its views' owner's, and gradient and momentum are used again."""
        self.values = torch.zeros_like(self.grads)
        views = self._views(self.values)
        torch._foreach_copy_(list(views.values()), list(tensors.values()))
        self.views = {n: view.requires_grad_(True) for n, view in views.items()}


@torch.no_grad()
def descend(flat: FlatVector, job: Job, first: bool) -> None:
    """One update by the gradient in ``flat.grads``, weight decay first; on CPU in one pass over the vector.

    The pass is that of ``torch.optim.SGD(fused=True)``. On a vector padded to whole registers its bits are those of the
    separate operations (a test): only an odd rest is rounded otherwise, and there is none.
    """
    values, grads, velocity = flat.values, flat.grads, flat.velocity
    if values.device.type == "cpu":
        torch._fused_sgd_(
            [values], [grads], [velocity] if job.momentum else [], weight_decay=job.weight_decay, momentum=job.momentum,
            lr=job.learning_rate, dampening=0.0, nesterov=False, maximize=False, is_first_step=first,
        )  # fmt: skip
        return
    if job.weight_decay:
        grads.add_(values, alpha=job.weight_decay)
    if job.momentum and first:
        velocity.copy_(grads)
    elif job.momentum:
        velocity.mul_(job.momentum).add_(grads)
    values.add_(velocity if job.momentum else grads, alpha=-job.learning_rate)


def sgd(job: Job, flat: FlatVector | None = None) -> dict[str, Tensor]:
    """Train a copy of the job's parameters by SGD with momentum (fresh buffer) and return it, detached.

    A step averages the per-sample terms over the rows of the batch; without rows there is no step. The same update as
    ``torch.optim.SGD``, written on a flat vector. A job with noisy steps takes those instead.

    Args:
        flat: a vector that fits the job's trainable parameters, for its buffers.
    """
    if job.noisy is not None:
        from fedkd import noisy_sgd

        return noisy_sgd.train(job, job.noisy)
    trainable = {n: job.params[n] for n in job.trainable}
    if flat is None:
        flat = FlatVector(trainable, job.x.device)
    else:
        flat.load(trainable)
    params: dict[str, Tensor] = {n: flat.views[n] if n in flat.views else v.clone() for n, v in job.params.items()}
    gradient, first = _tapeless(job, flat, params) or _taped(job, flat, params), True
    order = torch.from_numpy(job.order).to(job.x.device)
    for epoch in range(job.epochs if len(job.y) else 0):
        for rows in order[epoch][order[epoch] >= 0].split(job.batch_size):
            gradient(rows)
            descend(flat, job, first)
            first = False
    return {n: v.detach() for n, v in params.items()}


def _taped(job: Job, flat: FlatVector, params: Params) -> Callable[[Tensor], None]:
    """rows [b] of a batch -> its gradient in ``flat.slots``, by autograd: any loss of any model."""
    leaves, slots = list(flat.views.values()), list(flat.slots.values())

    def gradient(rows: Tensor) -> None:
        targets = {n: t.index_select(0, rows) for n, t in job.targets.items()}
        loss = job.loss(params, job.x.index_select(0, rows), job.y.index_select(0, rows), targets).mean()
        torch._foreach_copy_(slots, torch.autograd.grad(loss, leaves, materialize_grads=True))

    return gradient


def _tapeless(job: Job, flat: FlatVector, params: Params) -> Callable[[Tensor], None] | None:
    """The same to the bit without a tape, where the job is cross-entropy on a CPU and every layer knows its gradient."""
    if not isinstance(job.loss, CrossEntropy) or job.x.device.type != "cpu" or job.x.dtype != torch.float32:
        return None
    chain, trained = chain_of(job.loss.model), set(job.loss.model.parameter_names)
    if chain is None or not trained <= flat.slots.keys():
        return None
    for name in flat.slots.keys() - trained:  # what the loss does not read
        flat.slots[name].zero_()
    values = {n: v.detach() for n, v in params.items()}
    return lambda rows: chain.cross_entropy(values, job.x.index_select(0, rows), job.y.index_select(0, rows), flat.slots)


class Adam:
    """Adam on a dict of tensors whose state is plain arrays, so that a server can commit it (Kingma & Ba, 2015)."""

    def __init__(self, params: Mapping[str, Tensor], lr: float, state: Arrays | None = None) -> None:
        self.params, self.lr = params, lr
        get = state or {}
        self.step_count = int(get["step"]) if "step" in get else 0
        self.first = {n: _tensor_or_zero(get.get(f"m.{n}"), p) for n, p in params.items()}
        self.second = {n: _tensor_or_zero(get.get(f"v.{n}"), p) for n, p in params.items()}

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor]) -> None:
        """One update, in place; ``grads`` in the order of the parameters."""
        self.step_count += 1
        correct1, correct2 = 1 - 0.9**self.step_count, 1 - 0.999**self.step_count
        for (name, p), g in zip(self.params.items(), grads, strict=True):
            m, v = self.first[name].lerp_(g, 0.1), self.second[name].mul_(0.999).addcmul_(g, g, value=0.001)
            p.addcdiv_(m, (v.sqrt() / correct2**0.5).add_(1e-8), value=-self.lr / correct1)

    def state(self) -> Arrays:
        """Arrays that rebuild this optimizer."""
        out: Arrays = {"step": np.array(self.step_count, dtype=np.int64)}
        for name in self.params:
            out[f"m.{name}"], out[f"v.{name}"] = to_numpy(self.first[name]), to_numpy(self.second[name])
        return out


def _tensor_or_zero(value: npt.NDArray[np.float32] | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if value is None else torch.tensor(value, device=like.device)


def to_numpy(tensor: Tensor) -> npt.NDArray[np.float32]:
    """A NumPy copy on the CPU."""
    return tensor.detach().cpu().numpy().copy()


def to_tensors(arrays: Arrays, device: torch.device) -> dict[str, Tensor]:
    """Copies of named arrays as tensors on the device."""
    return {n: torch.tensor(v, device=device) for n, v in arrays.items()}


def starting(arrays: Arrays, device: torch.device) -> dict[str, Tensor]:
    """Named arrays as the tensors that a job starts from; nobody may write to them, since executors train a copy.

    A read-only array, as what a cohort has received for all, becomes the same tensor at every call for as long as it lives.
    """
    received = {n for n, v in arrays.items() if isinstance(v, np.ndarray) and not v.flags.writeable}  # no NumPy scalar is kept
    return {n: _once(v, device) if n in received else torch.tensor(v, device=device) for n, v in arrays.items()}


def _once(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    key = (id(array), str(device))
    if key not in _received:
        _received[key] = torch.tensor(array, device=device)
        weakref.finalize(array, _received.pop, key, None)
    return _received[key]


_received: dict[tuple[int, str], Tensor] = {}


def stage(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """(x [K, ...] float32, y [K] int64) of a split on the device, copied once (64-byte aligned).

    On a GPU they stay there as long as the split lives, so that whoever keeps a client's data does not send it again.
    """
    return resident(split, device) if device.type == "cuda" else _copied(split, device)


def resident(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """The tensors of this very split, the same at every call; nobody may write to them."""
    key = (id(split), str(device))
    if key not in _resident:
        _resident[key] = _copied(split, device)
        weakref.finalize(split, _resident.pop, key, None)
    return _resident[key]


_resident: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}


def _copied(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(np.asarray(split.x), device=device), torch.tensor(np.asarray(split.y, dtype=np.int64), device=device)


@torch.no_grad()
def logits(model: LayeredModel, params: Params, x: Tensor) -> Tensor:  # [K, C]
    """Logits in eval mode, in chunks of fixed size over one client's rows."""
    return torch.cat([model.forward(params, part)[1] for part in x.split(CHUNK)])


def evaluate(model: LayeredModel, params: Params, x: Tensor, y: Tensor) -> tuple[float, float]:
    """(accuracy in 0..1, mean cross-entropy in nats) of one client's rows; (nan, nan) without rows."""
    if len(y) == 0:
        return float("nan"), float("nan")
    out = logits(model, params, x)
    accuracy = int((out.argmax(1) == y).sum()) / len(y)
    return accuracy, float(F.cross_entropy(out.double(), y))
