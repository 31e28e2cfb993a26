"""Models as the C source reads them, and one job's training by it."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.backward import CrossEntropy, chain_of
from fedkd.layers import LayeredModel
from fedkd.native import compiler
from fedkd.train import FlatVector, Job, descend

CONV, POOL, RELU, FLATTEN, LINEAR = range(1, 6)
"""The layer kinds of the C source."""
LAYERS = 64
"""The most layers it takes."""

Sizes = tuple[int, int, int]
"""Channels, height, width of an image; (features, 0, 0) where it is flat."""


@dataclass(frozen=True)
class Row:
    """One layer, field by field as in the C source."""

    kind: int
    before: Sizes
    after: Sizes
    kernel: tuple[int, int] = (0, 0)
    padding: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Network:
    """A chain of layers, and its weights and biases in the order of the layers."""

    rows: tuple[Row, ...]
    shapes: dict[str, tuple[int, ...]]
    """of each parameter"""
    classes: int

    def table(self) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """[layers, 11]: the descriptors."""
        return np.array([(r.kind, *r.before, *r.after, *r.kernel, *r.padding) for r in self.rows], dtype=np.int64)


class Scratch:
    """Memory for training that is used again by the next job: fresh pages would cost as much as a small job's arithmetic."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, dtype=np.uint8)

    def room(self, size: int) -> int:
        """Address of so many bytes, 64-byte aligned. What they hold is anything."""
        if len(self._bytes) < size + 64:
            self._bytes = np.empty(size + 64, dtype=np.uint8)
        return -(-self._bytes.ctypes.data // 64) * 64


_networks: WeakKeyDictionary[LayeredModel, Network | None] = WeakKeyDictionary()


def network_of(model: LayeredModel) -> Network | None:
    """The model as a chain that C trains; None where it has another layer (a stride, a dilation or groups among others)."""
    if model not in _networks:
        _networks[model] = _network(model)
    return _networks[model]


def _network(model: LayeredModel) -> Network | None:
    layers = model.layers()
    if chain_of(model) is None or type(layers[-1][1]) is not nn.Linear:
        return None
    image = len(model.shape) == 3 and type(layers[0][1]) is not nn.Flatten
    now: Sizes = (model.shape[0], model.shape[1], model.shape[2]) if image else (math.prod(model.shape), 0, 0)
    rows: list[Row] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for prefix, module in layers:
        if type(module) is nn.Flatten and now[1:] == (0, 0):
            continue
        row = _row(module, now)
        if row is None:
            return None
        if isinstance(module, nn.Conv2d | nn.Linear):
            shapes.update({f"{prefix}.{n}": tuple(p.shape) for n, p in module.named_parameters()})
        if row.kind == POOL and rows and rows[-1].kind == RELU:  # the same numbers and gradients, at a quarter of the work
            rows[-1] = Row(POOL, rows[-1].before, row.after)
            row = Row(RELU, row.after, row.after)
        rows.append(row)
        now = row.after
    return Network(tuple(rows), shapes, model.classes) if len(rows) <= LAYERS else None


def _row(module: nn.Module, now: Sizes) -> Row | None:
    """The layer for an input of these sizes, of the kinds that ``chain_of`` knows."""
    channels, height, width = now
    if isinstance(module, nn.Linear):
        return Row(LINEAR, now, (module.out_features, 0, 0))
    if isinstance(module, nn.Conv2d):
        if module.stride != (1, 1) or module.dilation != (1, 1) or module.groups != 1:
            return None
        (high, wide), (above, aside) = module.kernel_size, (int(module.padding[0]), int(module.padding[1]))
        after = (module.out_channels, height + 2 * above - high + 1, width + 2 * aside - wide + 1)
        return Row(CONV, now, after, (high, wide), (above, aside))
    if isinstance(module, nn.MaxPool2d):
        return Row(POOL, now, (channels, height // 2, width // 2))
    return Row(RELU, now, now) if isinstance(module, nn.ReLU) else Row(FLATTEN, now, (channels * height * width, 0, 0))


def fitting(job: Job) -> Network | None:
    """The network of a job that C can train: plain cross-entropy in float32 on the CPU, all of the model trained."""
    if job.noisy is not None or not isinstance(job.loss, CrossEntropy):
        return None
    network = network_of(job.loss.model)
    tensors = (job.x, *(job.params[n] for n in job.trainable))
    if network is None or not set(network.shapes) <= set(job.trainable) or job.y.dtype != torch.int64:
        return None
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors) and job.y.device.type == "cpu"
    return network if plain else None


def train(job: Job, network: Network, scratch: Scratch) -> dict[str, Tensor]:
    """The outcome of ``train.sgd`` up to float32 rounding, its bits a function of the job alone (and of the kind of CPU).

    Raises: ValueError for shapes that are not the network's, IndexError for rows or labels that do not exist.
    """
    order = np.ascontiguousarray(job.order, dtype=np.int64)
    _check(job, network, order)
    out = {n: v.detach().clone() for n, v in job.params.items() if n not in network.shapes}
    out |= {n: torch.empty(shape) for n, shape in network.shapes.items()}
    before = {n: job.params[n].detach().contiguous() for n in network.shapes}
    x, y, table = job.x.detach().contiguous(), job.y.contiguous(), network.table()
    batch = min(job.batch_size, max(len(y), 1))
    library = compiler.library()
    size = library.fedkd_scratch(table.ctypes.data, len(table), batch)
    room = scratch.room(max(size, 0))
    wrong = library.fedkd_train(
        table.ctypes.data, len(table), _addresses(before), _addresses({n: out[n] for n in network.shapes}), x.data_ptr(),
        y.data_ptr(), len(y), order.ctypes.data, len(order), order.shape[1], batch, job.learning_rate, job.momentum,
        job.weight_decay, room, size,
    )  # fmt: skip
    if wrong:
        raise RuntimeError(f"the C step refuses a job that was checked (code {wrong}, {len(table)} layers, batch {batch})")
    _decay_others(job, network, order, out)
    return {n: out[n] for n in job.params}


def _check(job: Job, network: Network, order: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> None:
    """Every size that C takes for granted."""
    first, shape = network.rows[0].before, tuple(job.x.shape)
    if math.prod(shape[1:]) != math.prod(max(n, 1) for n in first) or (first[1] and shape[1:] != first):
        raise ValueError(f"x has shape {shape}; the model reads rows of {first}")
    if job.y.shape != shape[:1]:
        raise ValueError(f"{shape[0]} rows but labels of shape {tuple(job.y.shape)}")
    for name, wanted in network.shapes.items():
        if tuple(job.params[name].shape) != wanted:
            raise ValueError(f"parameter {name} has shape {tuple(job.params[name].shape)}, not {wanted}")
    if order.ndim != 2 or job.batch_size < 1:
        raise ValueError(f"order has shape {order.shape}, batches {job.batch_size} rows; need passes x rows, at least 1")
    if order.size and int(order.max()) >= len(job.y):
        raise IndexError(f"order names row {int(order.max())} of {len(job.y)}")
    if len(job.y) and not 0 <= int(job.y.min()) <= int(job.y.max()) < network.classes:
        raise IndexError(
            f"labels from {int(job.y.min())} to {int(job.y.max())}; the model has classes 0 to {network.classes - 1}"
        )


def _addresses(tensors: dict[str, Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors.values()))


def _decay_others(
    job: Job, network: Network, order: np.ndarray[tuple[int, ...], np.dtype[np.int64]], out: dict[str, Tensor]
) -> None:
    """What the loss does not read moves by weight decay alone, a step for each batch: in ``out``, in place."""
    others = {n: job.params[n] for n in job.trainable if n not in network.shapes}
    if not others or not job.weight_decay:
        return
    flat = FlatVector(others, torch.device("cpu"))
    steps = sum(-(-int(rows) // job.batch_size) for rows in (order >= 0).sum(1))
    for step in range(steps):
        flat.grads.zero_()
        descend(flat, replace(job), step == 0)
    out.update({n: flat.views[n].detach() for n in others})
