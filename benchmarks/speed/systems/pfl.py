"""pfl-research: its FederatedAveraging on its SimulatedBackend, as in its CIFAR-10 example; no evaluation, no privacy.

The user sampler draws the shared cohort, and a ``Dataset`` that answers ``iter`` gives the shared order of samples.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.internal.ops import pytorch_ops
from pfl.internal.ops.selector import set_framework_module
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch.nn import functional as F

from benchmarks.speed import nets
from benchmarks.speed.inputs import Inputs, Weights, arguments, argv, keep, said, share

NEVER: Any = float("nan")
"""A frequency of which no iteration is a multiple: pfl evaluates iteration 0 with any whole number."""


class Ordered(Dataset):
    """A user's rows whose batches come in the shared order, epoch after epoch."""

    def __init__(self, inputs: Inputs, round: int, client: int, rows: tuple[torch.Tensor, torch.Tensor]) -> None:
        super().__init__(raw_data=rows, user_id=str(client))
        self.left = [torch.from_numpy(b) for b in inputs.batches(round, client)]
        self.epochs = int(inputs.meta["epochs"])

    def iter(self, batch_size: int | None) -> Iterator[list[torch.Tensor]]:
        """One epoch."""
        count = -(-len(self) // (batch_size or len(self)))
        epoch, self.left = self.left[:count], self.left[count:]
        for rows in epoch:
            yield [part[rows] for part in self.raw_data]


class Ended(TrainingProcessCallback):
    """Says when a central iteration has ended and keeps the first average."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.first = names, Weights()

    def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> tuple[bool, Metrics]:
        """Never stops."""
        if central_iteration == 0:
            self.first = nets.read(model.pytorch_model, self.names)
        said(central_iteration)
        return False, Metrics()


def run(inputs: Inputs, rounds: int) -> Weights:
    """The average of round 0."""
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    set_framework_module(pytorch_ops)
    meta = inputs.meta
    module = nets.build(meta["net"], meta["shape"], meta["classes"])
    nets.load(module, inputs.initial)
    module.loss = lambda x, y, eval=False: F.cross_entropy(module(x), y)  # type: ignore[assignment]
    module.metrics = lambda x, y, eval=False: {}  # type: ignore[assignment]
    model = PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0))
    model._local_optimizer_create = lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=meta["momentum"])
    staged: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    drawn = iter([(t, c) for t in range(rounds) for c in share(inputs.cohort(t))])

    def user(at: tuple[int, int]) -> Ordered:
        round, client = at
        if client not in staged:
            x, y = inputs.rows(client)
            staged[client] = torch.from_numpy(x), torch.from_numpy(y)
        return Ordered(inputs, round, client, staged[client])

    data = FederatedDataset(user, lambda: next(drawn))
    ended = Ended(list(inputs.initial))
    FederatedAveraging().run(
        backend=SimulatedBackend(data, data, postprocessors=[WeightByDatapoints()]),
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=rounds, evaluation_frequency=NEVER, train_cohort_size=len(share(inputs.cohort(0))),
            val_cohort_size=0,
        ),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=meta["epochs"], local_learning_rate=meta["learning_rate"], local_batch_size=meta["batch_size"],
        ),
        callbacks=[ended],
        send_metrics_to_platform=False,
    )  # fmt: skip
    return ended.first


if __name__ == "__main__":
    inputs, rounds, _, out = arguments(argv())
    keep(out, run(inputs, rounds), share(inputs.cohort(0)))
