"""Can images be rebuilt from what was sent? Reconstructions in, similarity, rank and a decision out.

Inverse networks on features of split models: He, Zhang and Lee 2019 (ACSAC), and Xu et al. 2024, arXiv
2405.04115; SSIM: Wang, Bovik, Sheikh and Simoncelli 2004 (IEEE TIP 13(4)). Specs: audit, sections 7 (B16)
and 8. Threat model: whoever reads the channel and holds a decoder (``fedkd.reconstruct`` trains it); this
file is arithmetic on images. **Chance** is the class-mean image of the known label, **shuffled** the image
of a decoder that was trained on shuffled pairs; the **rank** places the true image among others of its
class by squared distance to the reconstruction, where a tie counts as a leak.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from fedkd.inference import Resampled, detectable_rate, paired_bootstrap
from fedkd.intervals import Floats, Ints, clopper_pearson
from fedkd.metrics import Estimate

RULES = 2
"""Decisions per audit, SSIM and top-1 rank: they share the error probability."""
_TIE = 1e-9
"""Squared distances closer than this share of the images' energy are a tie: rounding is no evidence."""


@dataclass(frozen=True)
class Config:
    """Options of the scoring."""

    window: int = 7
    """Side of the uniform SSIM window in pixels, odd, at least 3 (7 is scikit-image's default)."""
    level: float = 0.95
    """Level of the printed intervals, in (0, 1); the decision corrects it for the number of comparisons."""
    comparisons: int = 1
    """Audits whose decisions share the error probability, at least 1."""
    resamples: int = 2000
    """Bootstrap resamples, over clients where they are given."""
    seed: int = 0
    """Seed of the bootstrap."""


@dataclass(frozen=True)
class Report:
    """What the reconstructions are worth against images that use no message."""

    n: int
    """Reconstructions scored."""
    ssim: Resampled
    """Mean SSIM of reconstruction and true image, -1..1."""
    chance: Resampled
    """The same for the class-mean image."""
    gain: Resampled
    """SSIM minus chance SSIM of the same image, mean."""
    shuffled: Resampled | None
    """SSIM of the decoder that was trained on shuffled pairs; None where there is none."""
    rank: Resampled
    """Median rank of the true image, 1 = nearest to the reconstruction."""
    pool: int
    """Images that a rank is taken among, the true one included; the smallest over classes."""
    top1: Estimate
    """Share of images with rank 1, Clopper-Pearson (rows of one client count as independent)."""
    detectable: float
    """Mean SSIM that the SSIM rule finds with probability 80 % beside these controls, by normal approximation."""
    detectable_top1: float
    """Top-1 rate that its rule finds with probability 80 %."""
    leak_shown: bool
    """True where SSIM's lower end lies above the upper ends of chance and shuffled, or top-1's above 1 / pool."""
    ssim_shown: bool
    """Whether SSIM shows it."""
    top1_shown: bool
    """Whether the rank shows it."""


def ssim(first: npt.ArrayLike, second: npt.ArrayLike, window: int = 7) -> Floats:  # [n, ..., H, W] twice -> [n]
    """Structural similarity of images in 0..1: uniform window, sample covariance, mean over places (and channels).

    Raises: ValueError for different shapes, images smaller than the window, or an even window.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim < 3 or min(a.shape[-2:]) < window or window < 3 or window % 2 == 0:
        raise ValueError(f"SSIM needs equal shapes [n, ..., H, W] of {window} pixels or more, got {a.shape} and {b.shape}")

    def mean(x: Floats) -> Floats:
        found: Floats = np.lib.stride_tricks.sliding_window_view(x, (window, window), axis=(-2, -1)).mean(axis=(-2, -1))
        return found

    unbiased = window**2 / (window**2 - 1)
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = unbiased * (mean(a * a) - mean_a**2), unbiased * (mean(b * b) - mean_b**2)
    both = unbiased * (mean(a * b) - mean_a * mean_b)
    c1, c2 = 0.01**2, 0.03**2
    places = (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    out: Floats = places.reshape(len(a), -1).mean(axis=1)
    return out


def ranks(
    true: npt.ArrayLike,  # [n, ...]
    rebuilt: npt.ArrayLike,  # [n, ...]
    labels: npt.ArrayLike,  # [n]
    pool: npt.ArrayLike,  # [M, ...] other images, none of the audited ones
    pool_labels: npt.ArrayLike,  # [M]
) -> tuple[Ints, int]:  # [n] ranks from 1, images that the smallest class ranks among
    """Place of the true image among the pool's images of its class by distance to the reconstruction.

    Raises: ValueError where a class of ``labels`` has no image in the pool.
    """
    t, r, others = (np.asarray(v, dtype=np.float64).reshape(len(np.asarray(v)), -1) for v in (true, rebuilt, pool))
    y, classes = np.asarray(labels), np.asarray(pool_labels)
    found, sizes = np.zeros(len(t), dtype=np.int64), list[int]()
    for c in np.unique(y):
        rows, near = y == c, others[classes == c]
        if not len(near):
            raise ValueError(f"the pool holds no image of class {c}")
        own = ((r[rows] - t[rows]) ** 2).sum(axis=1)
        energy = (r[rows] ** 2).sum(axis=1)
        away = energy[:, None] + (near**2).sum(axis=1) - 2 * r[rows] @ near.T
        closer = away < (own - _TIE * (1.0 + energy + own))[:, None]
        found[rows] = 1 + closer.sum(axis=1)
        sizes.append(1 + len(near))
    return found, min(sizes)


def audit(
    config: Config,
    *,
    true: npt.ArrayLike,  # [n, ..., H, W] in 0..1
    rebuilt: npt.ArrayLike,  # [n, ..., H, W] in 0..1
    chance: npt.ArrayLike,  # [n, ..., H, W] the class-mean image of the label
    labels: npt.ArrayLike,  # [n]
    pool: npt.ArrayLike,  # [M, ..., H, W]
    pool_labels: npt.ArrayLike,  # [M]
    shuffled: npt.ArrayLike | None = None,  # [n, ..., H, W] control
    clients: npt.ArrayLike | None = None,  # [n] whose rows they are: the bootstrap draws clients
) -> Report:
    """Score reconstructions against chance, control and the pool.

    Raises: ValueError for values that are not finite or outside 0..1, unequal shapes, as ``ssim`` and ``ranks``, or fewer
    than two independent units.
    """
    images = {"true": true, "rebuilt": rebuilt, "chance": chance, "pool": pool}
    arrays = {n: np.asarray(v, dtype=np.float64) for n, v in images.items()}
    for name, value in arrays.items():
        if not np.isfinite(value).all() or (value.size and (value.min() < 0.0 or value.max() > 1.0)):
            raise ValueError(f"{name} must hold finite values in 0..1")
    if config.comparisons < 1:
        raise ValueError("comparisons must be at least 1")
    own, by_chance = (ssim(arrays["true"], arrays[n], config.window) for n in ("rebuilt", "chance"))
    control = None if shuffled is None else ssim(arrays["true"], np.asarray(shuffled, dtype=np.float64), config.window)
    place, size = ranks(arrays["true"], arrays["rebuilt"], labels, arrays["pool"], pool_labels)
    strict = 1.0 - (1.0 - config.level) / (RULES * config.comparisons)
    named = {"ssim": own, "chance": by_chance, "gain": own - by_chance, "shuffled": by_chance if control is None else control}
    of = _resample(config, named, place, clients)
    found, sure = of(config.level), of(strict)
    bar = max(sure["chance"].high, sure["shuffled"].high)
    hits = int((place == 1).sum())
    top = Estimate(hits / len(place), *clopper_pearson(hits, len(place), config.level), config.level)
    by_ssim, by_rank = sure["ssim"].low > bar, clopper_pearson(hits, len(place), strict)[0] > 1.0 / size
    spread = (found["gain"].high - found["gain"].low) / (2 * float(stats.norm.ppf(0.5 + config.level / 2)))
    needed = bar + sure["ssim"].value - sure["ssim"].low + float(stats.norm.ppf(0.8)) * spread
    return Report(
        len(place), found["ssim"], found["chance"], found["gain"], None if control is None else found["shuffled"],
        found["rank"], size, top, needed, detectable_rate(len(place), 1.0 / size, level=strict)[1], by_ssim or by_rank,
        by_ssim, by_rank,
    )  # fmt: skip


def _resample(
    config: Config, means: dict[str, Floats], place: Ints, clients: npt.ArrayLike | None
) -> Callable[[float], dict[str, Resampled]]:
    """Bootstrap of all means and of the median rank on the same draws: level -> name -> interval."""
    values, drawn = np.stack(list(means.values())), list[Floats]()

    def statistic(index: Ints) -> float:
        drawn.append(np.append(values[:, index].mean(axis=1), np.median(place[index])))
        return float(drawn[-1][0])

    stream = np.random.default_rng(config.seed)
    first = paired_bootstrap(statistic, len(place), stream, clients, config.level, config.resamples)
    draws = np.array(drawn[: config.resamples])
    statistic(np.arange(len(place)))  # the data themselves, last

    def at(level: float) -> dict[str, Resampled]:
        low, high = np.quantile(draws, [(1.0 - level) / 2.0, (1.0 + level) / 2.0], axis=0)
        cells = zip((*means, "rank"), drawn[-1], low, high, strict=True)
        return {n: Resampled(float(v), float(a), float(b), level, first.units) for n, v, a, b in cells}

    return at
