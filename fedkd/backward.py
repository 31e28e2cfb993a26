"""Gradients of cross-entropy without autograd's tape, for models of frequent layers on a CPU.

For nets this small, recording a tape and walking it back costs as much as the arithmetic. Here the same kernels run in the
same order, called by name, and a layer's gradient is written where the optimizer reads it. So the gradients have the bits of
``torch.autograd.grad`` (a test over every model), and ``fedkd.train`` takes the tape wherever ``chain_of`` has no answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fedkd.layers import LayeredModel, Params

_aten = torch.ops.aten
_convolution_backward = _aten.convolution_backward.default
_threshold_backward = _aten.threshold_backward.default
_pool_backward = _aten.max_pool2d_with_indices_backward.default
_nll_forward, _nll_backward = _aten.nll_loss_forward.default, _aten.nll_loss_backward.default
_log_softmax_backward = _aten._log_softmax_backward_data.default

Supervised = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


@dataclass(frozen=True)
class CrossEntropy:
    """The batch loss "cross-entropy of the whole model on labels", as a value: equal where model and loss are the same."""

    model: LayeredModel
    supervised: Supervised
    """the loss ``ce``: (logits [B, C], None, labels [B]) -> [B]"""

    def __call__(self, params: Params, x: Tensor, y: Tensor, targets: Mapping[str, Tensor]) -> Tensor:  # [B]
        """Per-sample cross-entropy in nats."""
        return self.supervised(self.model.forward(params, x, train=True)[1], None, y)


class Layer(ABC):
    """One layer: its output with what its gradient needs, and from the output's gradient that of the input."""

    names: tuple[str, ...] = ()
    """its parameters, as the model names them"""

    @abstractmethod
    def forward(self, params: Params, x: Tensor) -> tuple[Tensor, Any]:
        """(output, whatever ``backward`` is to be given)."""

    @abstractmethod
    def backward(self, params: Params, g: Tensor, saved: Any, slots: Mapping[str, Tensor], ask: bool) -> Tensor:
        """Write the parameters' gradients into ``slots``; return the input's where ``ask``, else anything."""


class Linear(Layer):
    """x W^T + b."""

    def __init__(self, prefix: str) -> None:
        self.names = (f"{prefix}.weight", f"{prefix}.bias")

    def forward(self, params: Params, x: Tensor) -> tuple[Tensor, Any]:
        """[B, in] -> [B, out]."""
        return torch.addmm(params[self.names[1]], x, params[self.names[0]].t()), x

    def backward(self, params: Params, g: Tensor, saved: Any, slots: Mapping[str, Tensor], ask: bool) -> Tensor:
        """[B, out] -> [B, in]."""
        weight, bias = self.names
        torch.mm(g.t(), saved, out=slots[weight])
        torch.sum(g, 0, out=slots[bias])
        return torch.mm(g, params[weight]) if ask else g


class Convolution(Layer):
    """A convolution with a bias and zeros around the image."""

    def __init__(self, layer: nn.Conv2d, prefix: str) -> None:
        self.names = (f"{prefix}.weight", f"{prefix}.bias")
        self.stride, self.dilation = layer.stride, layer.dilation
        self.padding: Any = layer.padding
        self.groups, self.sizes = layer.groups, [layer.out_channels]

    def forward(self, params: Params, x: Tensor) -> tuple[Tensor, Any]:
        """[B, in, H, W] -> [B, out, H', W']."""
        weight, bias = self.names
        return torch.conv2d(x, params[weight], params[bias], self.stride, self.padding, self.dilation, self.groups), x

    def backward(self, params: Params, g: Tensor, saved: Any, slots: Mapping[str, Tensor], ask: bool) -> Tensor:
        """[B, out, H', W'] -> [B, in, H, W]."""
        weight, bias = self.names
        of_x, of_weight, of_bias = _convolution_backward(
            g, saved, params[weight], self.sizes, self.stride, self.padding, self.dilation, False, (0, 0), self.groups,
            (ask, True, True),
        )  # fmt: skip
        slots[weight].copy_(of_weight)
        slots[bias].copy_(of_bias)
        return of_x if ask else g


class Relu(Layer):
    """max(x, 0), in place where nobody else holds the input."""

    def __init__(self, own: bool) -> None:
        self.apply = torch.relu_ if own else torch.relu

    def forward(self, params: Params, x: Tensor) -> tuple[Tensor, Any]:
        """Any shape."""
        out = self.apply(x)
        return out, out

    def backward(self, params: Params, g: Tensor, saved: Any, slots: Mapping[str, Tensor], ask: bool) -> Tensor:
        """Any shape."""
        out: Tensor = _threshold_backward(g, saved, 0)
        return out


class Flatten(Layer):
    """[B, ...] -> [B, d]."""

    def forward(self, params: Params, x: Tensor) -> tuple[Tensor, Any]:
        """A view where x is contiguous."""
        return x.flatten(1), x.shape

    def backward(self, params: Params, g: Tensor, saved: Any, slots: Mapping[str, Tensor], ask: bool) -> Tensor:
        """The shape of before."""
        return g.reshape(saved)


class Pool(Layer):
    """The largest of each 2x2 window; an odd rest of rows or columns belongs to none.

    torch's kernel looks at one number after the other. Here whole rows are compared, first within a row, then between rows,
    each time with the later one only where it is larger: so the place of a maximum is the first one in reading order, as
    torch's, and its own gradient kernel can be given these places.
    """

    def forward(self, params: Params, x: Tensor) -> tuple[Tensor, Any]:
        """[B, C, H, W] -> [B, C, H // 2, W // 2]."""
        height, width = x.shape[2] // 2, x.shape[3] // 2
        used = x[:, :, : 2 * height, : 2 * width]
        left, right = used[..., 0::2], used[..., 1::2]
        in_row, later = torch.maximum(left, right), right > left
        top, bottom = in_row[:, :, 0::2], in_row[:, :, 1::2]
        out, below = torch.maximum(top, bottom), bottom > top
        above = later[:, :, 0::2]
        aside = torch.bitwise_xor(above, torch.bitwise_and(below, torch.bitwise_xor(above, later[:, :, 1::2])))
        places = _corners(height, width, x.shape[3]) + below * x.shape[3]
        return out, (x, places.add_(aside))

    def backward(self, params: Params, g: Tensor, saved: Any, slots: Mapping[str, Tensor], ask: bool) -> Tensor:
        """[B, C, H // 2, W // 2] -> [B, C, H, W]."""
        x, places = saved
        out: Tensor = _pool_backward(g, x, (2, 2), (2, 2), (0, 0), (1, 1), False, places)
        return out


@lru_cache(maxsize=16)
def _corners(height: int, width: int, columns: int) -> Tensor:  # [height, width] int64
    """Where the windows begin, as positions in an image with so many columns."""
    return 2 * columns * torch.arange(height)[:, None] + 2 * torch.arange(width)


@dataclass(frozen=True)
class Chain:
    """A model's layers, each of which knows its gradient."""

    layers: tuple[Layer, ...]

    @torch.no_grad()
    def cross_entropy(self, params: Params, x: Tensor, y: Tensor, slots: Mapping[str, Tensor]) -> None:
        """Write the gradient of the batch's mean cross-entropy into ``slots``, by parameter.

        Args:
            params: [shape of each] float32.
            x: [B, ...] float32.
            y: [B] int64.
        """
        kept: list[Any] = []
        for layer in self.layers:
            x, saved = layer.forward(params, x)
            kept.append(saved)
        log_q = torch.log_softmax(x, 1)
        terms, weight = _nll_forward(log_q, y, None, 0, -100)
        g = _nll_backward(torch.full_like(terms, 1 / len(y)), log_q, y, None, 0, -100, weight)
        g = _log_softmax_backward(g, log_q, 1, log_q.dtype)
        for position in range(len(self.layers) - 1, -1, -1):
            g = self.layers[position].backward(params, g, kept[position], slots, position > 0)


def chain_of(model: LayeredModel) -> Chain | None:
    """The model's layers, where all are of the kinds above; None for any other model."""
    if model not in _chains:
        _chains[model] = _chain(model)
    return _chains[model]


_chains: WeakKeyDictionary[LayeredModel, Chain | None] = WeakKeyDictionary()


def _chain(model: LayeredModel) -> Chain | None:
    layers: list[Layer] = []
    x = torch.zeros((1, *model.shape))
    for prefix, module in model.layers():
        layer = _layer(module, prefix, x, bool(layers) and isinstance(layers[-1], Linear | Convolution))
        if layer is None:
            return None
        layers.append(layer)
        with torch.no_grad():
            x = module(x)
    return Chain(tuple(layers))


def _layer(module: nn.Module, prefix: str, x: Tensor, own: bool) -> Layer | None:
    """The layer for an input like ``x``; ``own``: nobody else reads that input afterwards."""
    if type(module) is nn.Linear and module.bias is not None and x.dim() == 2:
        return Linear(prefix)
    if type(module) is nn.Conv2d and module.bias is not None and module.padding_mode == "zeros" and x.dim() == 4:
        return None if isinstance(module.padding, str) else Convolution(module, prefix)
    if type(module) is nn.ReLU:
        return Relu(own)
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return Flatten()
    if type(module) is nn.MaxPool2d and x.dim() == 4 and not module.return_indices and not module.ceil_mode:
        two, one = all(v in (2, (2, 2)) for v in (module.kernel_size, module.stride)), module.dilation in (1, (1, 1))
        return Pool() if two and one and module.padding in (0, (0, 0)) else None
    return None
