"""A client's whole training in one call of C (``fedkd/native``), compiled on this machine at first use. For CPUs.

It takes the jobs whose loss is plain cross-entropy of a chain of convolutions (stride 1, no dilation, no groups), 2x2
max-pools, ReLU and linear layers, in float32, with all of the model trained. **Every other job** (distillation, other layers,
a mechanism's noisy steps) takes ``train.sgd``, exactly as in ``loop``. Results are those of ``loop`` up to float32 rounding;
their bits are a function of the job alone, but differ from ``loop``'s, and from one kind of CPU or compiler to another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from fedkd.errors import ConfigError
from fedkd.executors.loop import vector
from fedkd.native import compiler
from fedkd.native.network import Scratch, fitting, train
from fedkd.setting import Setting
from fedkd.train import Job, sgd


def check(setting: Setting) -> None:
    """Raises: ConfigError where clients do not train on the CPU, or nothing here compiles C."""
    if setting.device.type != "cpu":
        raise ConfigError(f"executor native: clients train on {setting.device.type}, it runs on cpu; {compiler.INSTEAD}")
    compiler.library()


def run(jobs: Iterable[Job]) -> Iterator[tuple[Job, dict[str, Tensor] | Exception]]:
    """Train each job and yield it with its trained parameters (detached, on the job's device), in the order given.

    A job that raises is yielded with its exception: one client's failure does not end its cohort.
    """
    scratch, flat = Scratch(), None
    for job in jobs:
        try:
            if network := fitting(job):
                yield job, train(job, network, scratch)
            else:
                flat = vector(job, flat)
                yield job, sgd(job, flat)
        except Exception as error:
            yield job, error
