"""The reference executor: one client after the other, data staged once, index batches, SGD on one flat vector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from fedkd.train import FlatVector, Job, sgd


def run(jobs: Iterable[Job]) -> Iterator[tuple[Job, dict[str, Tensor] | Exception]]:
    """Train each job and yield it with its trained parameters (detached, on the job's device), in the order given.

    A job that raises is yielded with its exception: one client's failure does not end its cohort.
    """
    flat: FlatVector | None = None
    for job in jobs:
        try:
            flat = vector(job, flat)
            yield job, sgd(job, flat)
        except Exception as error:
            yield job, error


def vector(job: Job, flat: FlatVector | None) -> FlatVector | None:
    """The last job's vector where it fits this one, else a new one; noisy steps need none."""
    if job.noisy is not None:
        return flat
    trainable = {n: job.params[n] for n in job.trainable}
    return flat if flat is not None and flat.fits(trainable) else FlatVector(trainable, job.x.device)
