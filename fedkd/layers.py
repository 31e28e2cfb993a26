"""A model as ordered blocks: block names and shapes, a pure forward pass that also returns a cut, pooled linear heads.

A client model is L blocks and a classifier, ``f = c o g^L o ... o g^1``; ``z^l`` is the output of block l. The classifier
counts as block L+1 for averaging, never for knowledge (FedD2S, arXiv 2402.10846; head form decided here).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedkd import rng
from fedkd.errors import ConfigError
from fedkd.types import Arrays

Params = Mapping[str, Tensor]


Step = Callable[[Params, Tensor], Tensor]
"""One layer as a function of all parameters and its input."""


def _plain(layer: nn.Module, prefix: str) -> Step | None:
    """The frequent layers as calls of their functions: a module call costs as much as a small layer's arithmetic."""
    weight, bias = f"{prefix}.weight", f"{prefix}.bias"
    if type(layer) is nn.Linear and layer.bias is not None:
        return lambda p, x: F.linear(x, p[weight], p[bias])
    if type(layer) is nn.Conv2d and layer.bias is not None and layer.padding_mode == "zeros":
        stride, padding, dilation, groups = layer.stride, layer.padding, layer.dilation, layer.groups
        if not isinstance(padding, str):
            return lambda p, x: F.conv2d(x, p[weight], p[bias], stride, padding, dilation, groups)
    if type(layer) is nn.MaxPool2d and not layer.return_indices:
        window = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)
        return lambda p, x: torch.max_pool2d(x, *window)
    if type(layer) is nn.ReLU and not layer.inplace:
        return lambda p, x: torch.relu(x)
    if type(layer) is nn.Flatten:
        start, end = layer.start_dim, layer.end_dim
        return lambda p, x: x.flatten(start, end)
    return None


def _as_module(layer: nn.Module, prefix: str) -> Step:
    """Any layer. Its parameters are put where it looks for them: ``torch.func.functional_call`` does the same at ten times
    the cost for nets this small."""
    slots: list[tuple[MutableMapping[str, Any], str, str]] = [
        (store, short, f"{prefix}.{path}.{short}" if path else f"{prefix}.{short}")
        for path, inner in layer.named_modules()
        for store in (inner._parameters, inner._buffers)
        for short, value in store.items()
        if value is not None
    ]

    def step(params: Params, x: Tensor) -> Tensor:
        for owner, short, name in slots:
            owner[short] = params[name]
        out: Tensor = layer(x)
        return out

    return step


def _leaves(layer: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    if type(layer) is nn.Sequential:
        return [leaf for name, child in layer.named_children() for leaf in _leaves(child, f"{prefix}.{name}")]
    return [(prefix, layer)]


class LayeredModel:
    """A model plug-in's ``nn.Sequential`` (children block1..blockL, classifier) seen as ordered blocks.

    The module holds no state of its own that matters: every call gets its parameters.
    """

    def __init__(self, module: nn.Sequential, shape: tuple[int, ...], classes: int) -> None:
        names = [name for name, _ in module.named_children()]
        expected = [f"block{i}" for i in range(1, len(names))] + ["classifier"]
        if names != expected or len(names) < 2:
            raise ConfigError(f"model children are {names}; expected block1..blockL and classifier")
        self.shape, self.classes = shape, classes
        self.blocks = len(names) - 1
        self._fresh = module
        self._module = copy.deepcopy(module)
        self._blocks = [
            [_plain(layer, prefix) or _as_module(layer, prefix) for prefix, layer in _leaves(child, name)]
            for name, child in self._module.named_children()
        ]
        self.names_of_block = [[f"{child}.{n}" for n in module.get_submodule(child).state_dict()] for child in names]
        self.parameter_names = tuple(n for n, _ in module.named_parameters())
        self.names = tuple(n for block in self.names_of_block for n in block)
        self.has_batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())
        self.cut_shapes = self._dry_run()

    def layers(self) -> list[tuple[str, nn.Module]]:
        """(prefix of its parameters' names, module) of each layer, shallow to deep; nested Sequentials are opened."""
        return [leaf for name, child in self._fresh.named_children() for leaf in _leaves(child, name)]

    def names_upto(self, level: int) -> list[str]:
        """Parameter and buffer names of blocks 1..level (level L+1 = all)."""
        return [n for block in self.names_of_block[:level] for n in block]

    def forward(
        self, params: Params, x: Tensor, cuts: tuple[int, ...] = (), train: bool = False
    ) -> tuple[dict[int, Tensor], Tensor]:
        """({cut: z}, logits [B, C]) with the given parameters; ``params`` may hold more names than needed."""
        if self._module.training != train:
            self._module.train(train)
        z: dict[int, Tensor] = {}
        for position, steps in enumerate(self._blocks, start=1):
            for step in steps:
                x = step(params, x)
            if position in cuts:
                z[position] = x
        return z, x

    def initial(self, key: int) -> Arrays:
        """Fresh parameters and buffers drawn under ``key`` with each layer's own initialisation."""
        with rng.torch_scope(key):
            for module in self._fresh.modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()
        return {n: t.detach().cpu().clone().numpy() for n, t in self._fresh.state_dict().items()}

    def _dry_run(self) -> list[tuple[int, ...]]:
        self._fresh.eval()
        x = torch.zeros((1, *self.shape))
        shapes: list[tuple[int, ...]] = []
        with torch.no_grad():
            for block in self._fresh:
                x = block(x)
                shapes.append(tuple(x.shape[1:]))
        if shapes.pop() != (self.classes,):
            raise ConfigError(f"the classifier of the model does not end in {self.classes} classes")
        return shapes


def pool(z: Tensor, size: int) -> Tensor:  # [B, ...] -> [B, d]
    """Parameter-free adaptive average pool of feature maps to at most size x size, then flatten (size 0: no pool).

    It runs on the client before upload: the same function as on the server, in a smaller message.
    """
    if z.dim() == 4 and size and (z.shape[2] > size or z.shape[3] > size):
        z = F.adaptive_avg_pool2d(z, (min(size, z.shape[2]), min(size, z.shape[3])))
    return z.flatten(1)


def pooled_width(cut_shape: tuple[int, ...], size: int) -> int:
    """d_l: how many numbers per sample are left after ``pool``."""
    width = 1
    for axis, n in enumerate(cut_shape):
        width *= min(size, n) if size and axis > 0 and len(cut_shape) == 3 else n
    return width


def head_initial(width: int, classes: int, key: int) -> Arrays:
    """A linear head's first weight [C, d] and bias [C], as ``nn.Linear`` draws them; read-only, every client asks for them."""
    return dict(_head_initial(width, classes, key))


@lru_cache(maxsize=16)
def _head_initial(width: int, classes: int, key: int) -> Arrays:
    with rng.torch_scope(key):
        linear = nn.Linear(width, classes)
    drawn = {"weight": linear.weight.detach().numpy(), "bias": linear.bias.detach().numpy()}
    for value in drawn.values():
        value.flags.writeable = False
    return drawn
