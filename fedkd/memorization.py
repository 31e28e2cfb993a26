"""What a student remembers of its teacher's data: sets, dose and response, the crossing of p_z, and the predictor.

Borkar et al. 2026, arXiv 2601.15394 (sets, predictor, entropy picture; figures known to us at second hand only); Firth 1993 and
Heinze and Schemper 2002 (logistic regression that exists under separation). Arithmetic on arrays, no models; specs:
memorization, sections 3, 5, 6 and 7.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedkd.intervals import Bools, Floats, Ints, clopper_pearson
from fedkd.metrics import auc

REGIONS = ("TBS", "TB", "TS", "BS", "T", "B", "S", "none")
"""Every in/out pattern over teacher, baseline and student."""
FEATURES = ("teacher_ppl", "baseline_ppl", "kld", "zlib_entropy")
"""Of the predictor, in this order."""
NEGATIVES = 3
"""negatives drawn per positive"""
TEST = 0.3
"""share of the examples that a trial is tested on"""


# ----- sets --------------------------------------------------------------------------------------------------------------
def regions(in_t: Bools, in_b: Bools, in_s: Bools) -> dict[str, Bools]:  # [N] each
    """The eight disjoint masks over (teacher, baseline, student); together every example.

    Raises: ValueError for arrays of different shapes.
    """
    flags = _flags(in_t, in_b, in_s)
    found = {}
    for name in REGIONS:
        inside = [letter in name for letter in "TBS"] if name != "none" else [False] * 3
        found[name] = np.logical_and.reduce([f if i else ~f for f, i in zip(flags, inside, strict=True)])
    return found


def patterns(flags: Mapping[str, Bools]) -> dict[str, int]:
    """How many examples are in exactly these sets: "T+S" -> count, for every pattern that occurs; "" is in none."""
    names, columns = list(flags), _flags(*flags.values())
    found: dict[str, int] = {}
    for row in zip(*(c.tolist() for c in columns), strict=True):
        key = "+".join(n for n, inside in zip(names, row, strict=True) if inside)
        found[key] = found.get(key, 0) + 1
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True)
class Share:
    """A count out of a set; ``value`` and the interval are None where the set is empty (printed "n/a", never 0)."""

    count: int
    of: int
    value: float | None
    low: float | None
    high: float | None


def share(count: int, of: int) -> Share:
    """With a Clopper-Pearson interval."""
    return Share(count, of, count / of, *clopper_pearson(count, of)) if of else Share(count, of, None, None, None)


def inheritance(in_t: Bools, in_b: Bools, in_s: Bools) -> Share:  # [N] each
    """Of what the teacher memorizes and the baseline does not, what the student has: it could come only from the teacher."""
    t, b, s = _flags(in_t, in_b, in_s)
    only = t & ~b
    return share(int((only & s).sum()), int(only.sum()))


def easy_share(in_t: Bools, in_b: Bools, in_s: Bools) -> Share:  # [N] each
    """Of what the student memorizes, what teacher and baseline memorize as well."""
    t, b, s = _flags(in_t, in_b, in_s)
    return share(int((s & t & b).sum()), int(s.sum()))


def _flags(*flags: Bools) -> list[Bools]:
    found = [np.asarray(f, dtype=np.bool_) for f in flags]
    if len({f.shape for f in found}) != 1 or found[0].ndim != 1:
        raise ValueError(f"sets are flags of one length, got shapes {', '.join(str(f.shape) for f in found)}")
    return found


# ----- dose and response -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Dose:
    """Memorization as a logistic function of log2 copies."""

    r50: float
    """copies at which half is memorized; infinite where nothing is, 0 where everything is, NaN where it does not rise"""
    slope: float
    """per doubling of the copies"""
    inside: bool
    """True where r50 lies within the copies that were planted; else it is extrapolated"""


def dose_response(copies: Ints, hits: Bools) -> Dose:  # [N], [N]
    """Firth's penalised fit of hits on log2 copies: finite where counts are separated (memorization is nearly a step).

    Raises: ValueError for no examples or copies below 1.
    """
    counts = np.asarray(copies)
    if counts.size == 0 or counts.min() < 1:
        raise ValueError("a dose needs examples with at least one copy")
    dose, place = np.unique(counts, return_inverse=True)
    trials = np.bincount(place).astype(np.float64)
    found = np.bincount(place, weights=np.asarray(hits, dtype=np.float64))
    if found.sum() == 0:
        return Dose(math.inf, math.nan, False)
    if (found == trials).all():
        return Dose(0.0, math.nan, False)
    if dose.size < 2:
        return Dose(math.nan, math.nan, False)
    intercept, slope = _firth(np.log2(dose.astype(np.float64)), trials, found.astype(np.float64))
    if slope <= 0:
        return Dose(math.nan, slope, False)
    r50 = 2.0 ** min(60.0, max(-60.0, -intercept / slope))
    return Dose(r50, slope, bool(dose[0] <= r50 <= dose[-1]))


def _firth(x: Floats, trials: Floats, hits: Floats) -> tuple[float, float]:
    """(intercept, slope) of the logistic regression with Jeffreys' penalty, by Newton steps of bounded length."""
    design = np.stack([np.ones_like(x), x - x.mean()], axis=1)
    beta = np.zeros(2)
    for _ in range(200):
        p = 1.0 / (1.0 + np.exp(-np.clip(design @ beta, -30.0, 30.0)))
        weight = trials * p * (1.0 - p)
        inverse = np.linalg.inv(design.T @ (design * weight[:, None]) + 1e-12 * np.eye(2))
        leverage = weight * np.einsum("ij,jk,ik->i", design, inverse, design)
        step = inverse @ (design.T @ (hits - trials * p + leverage * (0.5 - p)))
        size = float(np.abs(step).max())
        beta = beta + step * min(1.0, 2.0 / size if size > 0 else 1.0)
        if size < 1e-8:
            break
    return float(beta[0] - beta[1] * x.mean()), float(beta[1])


def crossing(copies: Ints, log_student: Floats, log_baseline: Floats) -> float | None:  # [N] each
    """Copies above which the student is the more extractable one by the median log p_z, None where there are none.

    Per number of copies the median difference student - baseline; the last change from below 0 to above it, interpolated in
    log2 copies. None as well where the student leads at every count: nothing is crossed.
    """
    dose, gap = gaps(copies, log_student, log_baseline)
    below = np.flatnonzero(gap <= 0)
    if len(below) == 0 or below[-1] == len(dose) - 1:
        return None
    i = int(below[-1])
    part = float(-gap[i] / (gap[i + 1] - gap[i]))
    x = np.log2(dose.astype(np.float64))
    return float(2.0 ** (x[i] + part * (x[i + 1] - x[i])))


def gaps(copies: Ints, log_student: Floats, log_baseline: Floats) -> tuple[Ints, Floats]:
    """(copies [K], median of student - baseline log p_z [K])."""
    dose = np.unique(copies)
    gap = np.asarray(log_student, dtype=np.float64) - np.asarray(log_baseline, dtype=np.float64)
    return dose, np.array([np.median(gap[np.asarray(copies) == n]) for n in dose])


def matched_epoch(losses: npt.ArrayLike, wanted: float) -> int:
    """The epoch (0-based) of a baseline whose held-out loss is nearest to ``wanted``; the later one of two as near.

    Raises: ValueError for no epoch.
    """
    distance = np.abs(np.asarray(losses, dtype=np.float64) - wanted)
    if distance.size == 0:
        raise ValueError("a baseline without epochs has no loss to match")
    return int(distance.size - 1 - np.argmin(distance[::-1]))


# ----- entropy picture ---------------------------------------------------------------------------------------------------
def entropy_points(flags: Bools, log_pz: Floats, entropy: Floats, most: int = 300) -> dict[str, Any]:  # [N] each
    """Sequence log-probability and mean entropy of the examples chosen: points (at most ``most``) and medians."""
    chosen = np.flatnonzero(flags)
    if len(chosen) == 0:
        return {"count": 0, "points": [], "log_pz": None, "entropy": None}
    points = [[round(float(log_pz[i]), 3), round(float(entropy[i]), 4)] for i in chosen[:most]]
    return {"count": len(chosen), "points": points, "log_pz": float(np.median(log_pz[chosen])),
            "entropy": float(np.median(entropy[chosen]))}  # fmt: skip


# ----- predictor ---------------------------------------------------------------------------------------------------------
def precision_at_base_rate(recall: float, fpr: float, base_rate: float) -> float | None:
    """Share of true ones among those called, for a given share of positives; None where nothing is called."""
    called = recall * base_rate + fpr * (1.0 - base_rate)
    return recall * base_rate / called if called > 0 else None


def false_positive_rate(precision: float, recall: float, negatives: float = NEGATIVES) -> float:
    """The rate that a precision at one positive to ``negatives`` negatives stands for."""
    return recall * (1.0 - precision) / (precision * negatives)


@dataclass(frozen=True)
class Fit:
    """A logistic regression on standardised features; score = log odds, higher = more likely memorized."""

    mean: Floats
    scale: Floats
    coefficients: Floats
    intercept: float

    def score(self, features: Floats) -> Floats:  # [N, F] -> [N]
        """Log odds."""
        return np.asarray((features - self.mean) / self.scale @ self.coefficients + self.intercept, dtype=np.float64)


def fit_predictor(features: Floats, labels: Bools) -> Fit:  # [N, F], [N]
    """L2 of unit strength on the summed loss, intercept free; features are standardised on what is given.

    Raises: ValueError where one class is missing.
    """
    from sklearn.linear_model import LogisticRegression

    if labels.all() or not labels.any():
        raise ValueError("a predictor needs memorized and not memorized examples")
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    model = LogisticRegression(C=1.0, max_iter=1000).fit((features - mean) / scale, labels)
    return Fit(mean, scale, np.asarray(model.coef_[0], dtype=np.float64), float(model.intercept_[0]))


def trial(
    features: Floats,  # [N, F]
    labels: Bools,  # [N] what is predicted
    copies: Ints,  # [N]
    rng: np.random.Generator,
    learned: Bools | None = None,  # [N] labels of a cheaper run; None = the same (oracle)
) -> dict[str, float] | None:
    """One split: fit on 70 % with negatives 1:3, test on the rest. None where a class is missing in either part.

    ``auc`` and ``precision`` are on every test example, so at the true base rate; ``precision_1_3`` on test negatives drawn 1:3
    as published. The cut-off is chosen for recall: the least score of a positive of the training part.
    """
    teach = labels if learned is None else learned
    test = np.zeros(len(labels), np.bool_)
    test[rng.permutation(len(labels))[: round(TEST * len(labels))]] = True
    positive, negative = np.flatnonzero(teach & ~test), np.flatnonzero(~teach & ~test)
    if not (len(positive) and len(negative) and labels[test].any() and not labels[test].all()):
        return None
    used = np.concatenate([positive, rng.permutation(negative)[: NEGATIVES * len(positive)]])
    fit = fit_predictor(features[used], teach[used])
    cut, score = float(fit.score(features[positive]).min()), fit.score(features)
    hits, misses = test & labels, np.flatnonzero(test & ~labels)
    drawn = rng.permutation(misses)[: NEGATIVES * int(hits.sum())]
    called = int((score[hits] >= cut).sum())
    alarms, few = int((score[misses] >= cut).sum()), int((score[drawn] >= cut).sum())
    return {
        "auc": auc(score[hits], score[misses]),
        "recall": called / int(hits.sum()),
        "precision": called / (called + alarms) if called + alarms else math.nan,
        "precision_1_3": called / (called + few) if called + few else math.nan,
        **{f"auc_{name}": auc(value[hits], value[misses]) for name, value in trivial(features, copies).items()},
        **{f"coefficient_{name}": float(c) for name, c in zip(FEATURES, fit.coefficients, strict=False)},
    }


def crossfit(features: Floats, learned: Bools, rng: np.random.Generator, folds: int = 5) -> Floats:  # -> [N] log odds
    """Each example's score from a fit on the other folds' labels, negatives 1:3.

    Raises: ValueError where a fold leaves one class only.
    """
    fold, score = rng.permutation(len(learned)) % folds, np.empty(len(learned))
    for f in range(folds):
        positive, negative = np.flatnonzero(learned & (fold != f)), np.flatnonzero(~learned & (fold != f))
        used = np.concatenate([positive, rng.permutation(negative)[: NEGATIVES * len(positive)]])
        score[fold == f] = fit_predictor(features[used], learned[used]).score(features[fold == f])
    return score


def prefilter(features: Floats, learned: Bools, rng: np.random.Generator) -> Bools:  # [N, F], [N] -> [N]
    """The examples called by a predictor that a cheaper run's labels trained; the cut-off keeps every one of its positives.

    Raises: ValueError where the cheaper run memorized nothing, or everything.
    """
    positive = np.flatnonzero(learned)
    used = np.concatenate([positive, rng.permutation(np.flatnonzero(~learned))[: NEGATIVES * len(positive)]])
    score = fit_predictor(features[used], learned[used]).score(features)
    return np.asarray(score >= score[positive].min())


def trivial(features: Floats, copies: Ints) -> dict[str, Floats]:
    """Scores that need no fit, higher = more likely memorized: what any predictor has to beat."""
    return {
        "copies": np.asarray(copies, dtype=np.float64),
        "baseline_ppl": -features[:, 1],
        "zlib_entropy": -features[:, 3],
    }


def within(groups: Sequence[Any], score: Floats, labels: Bools) -> float | None:
    """AUC within groups (copies, stratum), weighted by positive-negative pairs; None where no group has both classes."""
    total = pairs = 0.0
    keys = np.array([str(g) for g in groups])
    for key in np.unique(keys):
        own = keys == key
        a, b = score[own & labels], score[own & ~labels]
        if len(a) and len(b):
            total, pairs = total + auc(a, b) * len(a) * len(b), pairs + len(a) * len(b)
    return total / pairs if pairs else None


def precision_recall(score: Floats, labels: Bools) -> tuple[list[float], list[float]]:
    """(recall, precision) at every cut-off from the highest, ties together; at the base rate of ``labels``.

    Raises: ValueError without a positive.
    """
    if not labels.any():
        raise ValueError("a precision-recall curve needs a positive")
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(labels[order])
    last = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    return (hits[last] / labels.sum()).tolist(), (hits[last] / (last + 1)).tolist()
