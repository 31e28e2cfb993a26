"""Jobs that several methods share: local training on labels, and fine-tuning of a copy at scoring."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fedkd import rng
from fedkd.backward import CrossEntropy
from fedkd.setting import Setting
from fedkd.train import BatchLoss, Job, stage, starting
from fedkd.types import Arrays, ClientData


def batch_order(setting: Setting, round: int, client: int, rows: int, epochs: int) -> npt.NDArray[np.int64]:
    """[epochs, rows] a permutation per epoch, from its own stream: equal for all methods of a seed."""
    if not epochs:
        return np.empty((0, rows), dtype=np.int64)
    stream = rng.experiment(setting.seed, "batch order", round, client)
    return np.stack([stream.permutation(rows) for _ in range(epochs)])


def cross_entropy(setting: Setting) -> BatchLoss:
    """Per-sample cross-entropy of the whole model on labels."""
    return CrossEntropy(setting.model, setting.supervised)


def local_job(
    setting: Setting,
    round: int,
    data: ClientData,
    params: Arrays,
    *,
    loss: BatchLoss | None = None,
    extra_trainable: tuple[str, ...] = (),
    targets: dict[str, Tensor] | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
) -> Job:
    """One round of local training with the experiment's optimizer, by default on cross-entropy alone."""
    e = setting.experiment
    x, y = stage(data.train, setting.device)
    epochs = e.local_epochs if epochs is None else epochs
    return Job(
        client=data.client,
        params=starting(params, setting.device),
        trainable=(*setting.model.parameter_names, *extra_trainable),
        x=x,
        y=y,
        loss=loss or cross_entropy(setting),
        order=batch_order(setting, round, data.client, len(y), epochs),
        learning_rate=setting.learning_rate(round) if learning_rate is None else learning_rate,
        momentum=e.momentum,
        weight_decay=e.weight_decay,
        batch_size=e.batch_size,
        targets=targets or {},
    )


def as_arrays(params: Mapping[str, Tensor], names: tuple[str, ...] | list[str]) -> Arrays:
    """The named tensors of an outcome as NumPy arrays. On CPU they share its memory: an outcome is nobody else's."""
    return {n: params[n].numpy(force=True) for n in names}
