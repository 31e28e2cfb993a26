"""Local training as in the tutorials: a new module, a DataLoader and an optimizer for each client and round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from benchmarks.speed import nets
from benchmarks.speed.inputs import Inputs


class Given(Sampler[int]):
    """Samples in the order that all systems share; ``shuffle=True`` would draw another one."""

    def __init__(self, orders: list[list[int]]) -> None:
        self.orders, self.epoch = orders, 0

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        return iter(self.orders[self.epoch - 1])

    def __len__(self) -> int:
        return len(self.orders[0])


def quickstart(inputs: Inputs, round: int, client: int, state: Mapping[str, torch.Tensor]) -> tuple[nn.Module, int]:
    """(trained module, K_n) of one client."""
    meta = inputs.meta
    module = nets.build(meta["net"], meta["shape"], meta["classes"])
    module.load_state_dict(state)
    x, y = (torch.from_numpy(part) for part in inputs.rows(client))
    sampler = Given(inputs.order(round, client).tolist())
    loader = DataLoader(TensorDataset(x, y), batch_size=meta["batch_size"], sampler=sampler)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(module.parameters(), lr=meta["learning_rate"], momentum=meta["momentum"])
    module.train()
    for _ in range(meta["epochs"]):
        for images, labels in loader:
            optimizer.zero_grad()
            criterion(module(images), labels).backward()
            optimizer.step()
    return module, len(y)
