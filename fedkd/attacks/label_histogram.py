"""What do a client's messages say about its labels? Class evidence turned into a label histogram.

Label-distribution inference as in Shi et al. 2025, arXiv 2502.08001 (KL to the truth); label recovery from
the classifier's update as in Yin et al. 2021, arXiv 2104.07586, section 3.2. Threat model: an
honest-but-curious server reads, for each client, one number of evidence per class: summed soft labels, row
counts of a class-wise record, or the negative gradient of the classifier's bias. Reference: the population's
histogram, which the server knows without any message.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedkd.inference import Resampled, paired_bootstrap
from fedkd.intervals import Floats, clopper_pearson
from fedkd.metrics import Estimate


@dataclass(frozen=True)
class Config:
    """Options of the label attack."""

    smoothing: float = 1e-3
    """Share of the uniform histogram mixed in before the divergence, in (0, 1): keeps it finite (*decided
    here*)."""
    resamples: int = 2000
    """Bootstrap resamples over clients."""
    seed: int = 0
    """Seed of the bootstrap."""


@dataclass(frozen=True)
class Report:
    """Distance of the estimated histograms from the true ones, against two estimates that use no message."""

    kl: float
    """Mean KL(true || estimate) over clients, nats, after smoothing."""
    total_variation: float
    """Mean total variation distance between truth and estimate, 0..1."""
    blind_total_variation: float
    """The same for the population histogram of the other clients."""
    gain: Resampled
    """Blind minus attack total variation, mean over clients, bootstrap over clients; above 0 = the messages
    tell."""
    swapped_total_variation: float
    """The same for another client's message (control): no better than blind unless clients are alike."""
    top_class: Estimate
    """Share of clients whose most frequent class is named, Clopper-Pearson."""
    leak_shown: bool
    """True where the lower end of ``gain`` lies above 0."""


def histogram(class_mass: npt.ArrayLike) -> Floats:
    """Evidence [clients, C] to histograms [clients, C] that sum to 1; a client without evidence gets the
    uniform one.

    Raises: ValueError for a wrong shape, negative evidence or values that are not finite.
    """
    mass = np.asarray(class_mass, dtype=np.float64)
    if mass.ndim != 2 or mass.shape[1] < 2:
        raise ValueError(f"evidence must be [clients, classes >= 2], got shape {mass.shape}")
    if not np.isfinite(mass).all() or (mass < 0).any():
        raise ValueError("evidence must be finite and not negative (clip gradients at 0)")
    total = mass.sum(axis=1, keepdims=True)
    return np.where(total > 0, mass / np.where(total > 0, total, 1.0), 1.0 / mass.shape[1])


def score(config: Config, *, class_mass: npt.ArrayLike) -> Floats:
    """One score per (client, class) pair, [clients * C] row by row: the estimated share; higher = class more
    likely held.

    Raises: ValueError as `histogram`.
    """
    return histogram(class_mass).reshape(-1)


def audit(
    config: Config,
    *,
    class_mass: npt.ArrayLike,  # [clients, C] evidence read off the messages
    label_counts: npt.ArrayLike,  # [clients, C] true number of examples per class
) -> Report:
    """Compare the estimated with the true histograms.

    Raises: ValueError as `histogram`, for unequal shapes, a client without labels, or fewer than two clients.
    """
    estimate = histogram(class_mass)
    counts = np.asarray(label_counts, dtype=np.float64)
    if counts.shape != estimate.shape or counts.shape[0] < 2:
        raise ValueError(f"needs true counts for at least two clients, got {counts.shape} for {estimate.shape}")
    if not (counts.sum(axis=1) > 0).all():
        raise ValueError("every audited client needs at least one label")
    truth = histogram(counts)
    others = histogram(counts.sum(axis=0, keepdims=True) - counts)
    distance, blind = _variation(truth, estimate), _variation(truth, others)
    swapped = _variation(truth, np.roll(estimate, 1, axis=0))
    gains = blind - distance
    gain = paired_bootstrap(
        lambda index: float(gains[index].mean()),
        gains.size,
        np.random.default_rng(config.seed),
        resamples=config.resamples,
    )
    named = truth[np.arange(len(truth)), estimate.argmax(axis=1)] == truth.max(axis=1)
    hits = int(named.sum())
    top = Estimate(hits / named.size, *clopper_pearson(hits, named.size), 0.95)
    return Report(
        _kl(truth, estimate, config.smoothing), float(distance.mean()), float(blind.mean()), gain,
        float(swapped.mean()), top, gain.low > 0.0,
    )  # fmt: skip


def _variation(first: Floats, second: Floats) -> Floats:
    return np.asarray(0.5 * np.abs(first - second).sum(axis=1), dtype=np.float64)


def _kl(truth: Floats, estimate: Floats, smoothing: float) -> float:
    if not 0.0 < smoothing < 1.0:
        raise ValueError("smoothing must lie strictly between 0 and 1")
    p, q = ((1.0 - smoothing) * h + smoothing / h.shape[1] for h in (truth, estimate))
    return float((p * np.log(p / q)).sum(axis=1).mean())
