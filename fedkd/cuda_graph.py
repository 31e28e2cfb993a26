"""One CUDA graph per function and shapes: captured once, replayed with new values in the same places.

Small models leave a GPU waiting for the launches of its kernels; a graph launches whole epochs at once. Capture as in
PyTorch's notes on CUDA graphs: static inputs, a warm-up on a side stream (so that libraries have chosen their kernels and
work spaces), then the capture; outputs are copied out, because the next replay overwrites them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

Function = Callable[..., list[Tensor]]
"""Tensors of fixed shapes -> tensors, without any decision that depends on values."""

WARM_UP = 3
"""Calls before the capture."""
KEPT = 16
"""Graphs that are kept at a time; the one that rested longest goes first."""


class Captured:
    """A function as a graph over its own copies of the inputs."""

    def __init__(self, function: Function, inputs: Sequence[Tensor]) -> None:
        self.inputs = [value.clone() for value in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                function(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = function(*self.inputs)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The function's values for inputs of the captured shapes."""
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given)
        self.graph.replay()
        return [value.clone() for value in self.outputs]


class Graphs:
    """Functions by key; on the CPU, and where a capture fails, they are called as they are."""

    def __init__(self, capture: Callable[[Function, Sequence[Tensor]], Function] = Captured) -> None:
        self.capture = capture
        self.known: OrderedDict[Hashable, Function] = OrderedDict()

    def call(self, key: Hashable, function: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
        """``function(*inputs)``; ``key`` names the function and whatever in it is no input: equal keys, equal values."""
        if inputs[0].device.type != "cuda":
            return function(*inputs)
        return self.replay((key, tuple((v.shape, v.dtype) for v in inputs)), function, inputs)

    def replay(self, key: Hashable, function: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
        """As ``call``, on whatever device the inputs are."""
        if key not in self.known:
            try:
                self.known[key] = self.capture(function, inputs)
            except RuntimeError:  # an operation that no graph takes: the same values, one launch after the other
                self.known[key] = function
            if len(self.known) > KEPT:
                self.known.popitem(last=False)
        self.known.move_to_end(key)
        return self.known[key](*inputs)
