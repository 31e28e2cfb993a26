"""Coverage of every interval in fedkd: enumerated for exact ones, simulated for DeLong and the bootstraps.

    python benchmarks/coverage.py docs/results/coverage.json

Exact intervals of a rate: the coverage at (n, p) is the summed binomial probability of the outcomes whose interval
holds p; its infimum lies at an interval's end, so the ends themselves (just inside and just outside) are in the grid
beside 999 even steps. Simulated intervals: 2,000 samples per case; the binomial standard error of 95 % is 0.5 points.
A case whose coverage falls below 93 % is a *boundary case* and says so in the file. Seeded: the same file on every run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from fedkd import metrics
from fedkd.intervals import Floats

LEVEL, FLOOR, REPEATS = 0.95, 0.93, 2000
TRIALS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
AUC_CASES = [(n, m, auc) for n, m in ((20, 20), (50, 50), (20, 200), (200, 200)) for auc in (0.5, 0.7, 0.9, 0.99)]


def enumerated(interval: Callable[[int, int, float], tuple[float, float]], trials: int) -> dict[str, float]:
    """Smallest and mean coverage over p of one interval at ``trials``."""
    ends = np.array([interval(hits, trials, LEVEL) for hits in range(trials + 1)])
    edges = np.concatenate([ends.ravel() - 1e-9, ends.ravel() + 1e-9])
    rates = np.concatenate([np.linspace(0.001, 0.999, 999), edges[(edges > 0.0) & (edges < 1.0)]])
    outcomes = np.arange(trials + 1)
    covered = np.array(
        [stats.binom.pmf(outcomes, trials, rate)[(ends[:, 0] <= rate) & (rate <= ends[:, 1])].sum() for rate in rates]
    )
    return {"minimum": round(float(covered.min()), 4), "mean": round(float(covered[:999].mean()), 4)}


def ratio_coverage(trials: int, rates: tuple[float, float]) -> float:
    """Coverage of `rate_ratio` given at least one hit on either side, enumerated over both counts."""
    first, second = (stats.binom.pmf(np.arange(trials + 1), trials, rate) for rate in rates)
    truth, held, total = rates[0] / rates[1], 0.0, 0.0
    for a in range(trials + 1):
        for b in range(trials + 1):
            if a + b == 0:
                continue
            weight = first[a] * second[b]
            _, low, high = metrics.rate_ratio(a, trials, b, trials, LEVEL)
            total += weight
            held += weight * (low <= truth <= high)
    return round(float(held / total), 4)


def simulated(draw: Callable[[np.random.Generator], tuple[float, float]], truth: float, seed: int) -> float:
    """Share of REPEATS intervals that hold ``truth``."""
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(REPEATS):
        low, high = draw(rng)
        held += low <= truth <= high
    return held / REPEATS


def auc_draw(method: str, members: int, others: int, auc: float) -> Callable[[np.random.Generator], tuple[float, float]]:
    """One binormal sample with the given AUC = Phi(shift / sqrt 2) and its interval."""
    shift = float(stats.norm.ppf(auc)) * 2**0.5

    def draw(rng: np.random.Generator) -> tuple[float, float]:
        positives, negatives = rng.normal(shift, 1.0, members), rng.normal(size=others)
        if method == "delong":
            estimate = metrics.auc_delong(positives, negatives, LEVEL)
        else:
            estimate = metrics.auc_bca(positives, negatives, rng, LEVEL, resamples=400)
        return estimate.low, estimate.high

    return draw


def tied_draw(rng: np.random.Generator) -> tuple[float, float]:
    """Three-valued scores, members (0.2, 0.3, 0.5), non-members (0.5, 0.3, 0.2): AUC by hand 0.695."""
    positives, negatives = rng.choice(3, 50, p=[0.2, 0.3, 0.5]), rng.choice(3, 50, p=[0.5, 0.3, 0.2])
    estimate = metrics.auc_delong(positives, negatives, LEVEL)
    return estimate.low, estimate.high


def paired_draw(size: int) -> Callable[[np.random.Generator], tuple[float, float]]:
    """Difference of two models' means over the same ``size`` skewed examples; the truth is 0.5."""

    def draw(rng: np.random.Generator) -> tuple[float, float]:
        shared = rng.exponential(size=size)
        gap: Floats = (shared + rng.exponential(size=size)) - (shared + 0.5 * rng.exponential(size=size))
        result = metrics.paired_bootstrap(lambda i: float(gap[i].mean()), size, rng, level=LEVEL, resamples=400)
        return result.low, result.high

    return draw


def row(interval: str, case: str, coverage: float) -> dict[str, Any]:
    """One simulated case."""
    return {"interval": interval, "case": case, "coverage": coverage, "boundary": coverage < FLOOR}


def table() -> dict[str, Any]:
    """The whole file's content."""
    exact = [{"interval": "clopper_pearson", "trials": n, **enumerated(metrics.clopper_pearson, n)} for n in TRIALS]
    beside = [{"interval": "mid_p", "trials": n, **enumerated(metrics.mid_p, n)} for n in TRIALS if n <= 100]
    ratios = [
        {"interval": "rate_ratio", "trials": 40, "rates": list(rates), "coverage": ratio_coverage(40, rates)}
        for rates in ((0.05, 0.05), (0.1, 0.3), (0.5, 0.5), (0.9, 0.2), (0.02, 0.5))
    ]
    rows = []
    for seed, (members, others, auc) in enumerate(AUC_CASES):
        for method in ("delong",) if members == 200 and auc != 0.7 else ("delong", "bca"):
            coverage = simulated(auc_draw(method, members, others, auc), auc, seed)
            rows.append(row(method, f"{members} members, {others} non-members, AUC {auc}", coverage))
    tied = 0.5 * (0.5 + 0.3 + 0.1) + 0.3 * (0.5 + 0.15) + 0.2 * 0.25
    rows.append(row("delong", "50 + 50, three score values", simulated(tied_draw, tied, 100)))
    for size in (20, 50, 200):
        rows.append(row("paired_bootstrap", f"{size} skewed examples", simulated(paired_draw(size), 0.5, size)))
    return {
        "schema": 1, "level": LEVEL, "floor": FLOOR, "repeats": REPEATS,
        "exact": exact, "exact_ratio": ratios, "beside_exact": beside, "simulated": rows,
    }  # fmt: skip


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/results/coverage.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(table(), indent=1) + "\n", encoding="utf-8")
    print(target)
