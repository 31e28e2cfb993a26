"""The reference executor: one client after the other, data staged once, index batches, SGD on one flat vector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from fedkd.train import Job, sgd


def run(jobs: Iterable[Job]) -> Iterator[tuple[Job, dict[str, Tensor] | Exception]]:
    """Train each job and yield it with its trained parameters (detached, on the job's device), in the order given.

    A job that raises is yielded with its exception: one client's failure does not end its cohort.
    """
    for job in jobs:
        try:
            yield job, sgd(job)
        except Exception as error:
            yield job, error
