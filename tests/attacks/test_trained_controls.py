"""Trained controls: models really fitted (NumPy), 20 seeds each; a leak that was trained in is caught, a clean one is not.

Each attack reads a model that did train on the members (known-leaky) and one that did not (known-clean). Leaky: caught in
all 20 seeds. Clean: false alarms at the stated rate (2.5 % for one-sided rules, 5 % for tests), P[Bin(20, 5 %) > 4] < 0.3 %.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable

import numpy as np

from fedkd import canary, metrics
from fedkd.attacks import exposure, label_histogram, lira, loss

SEEDS = range(20)


def count(shown: Callable[[int, bool], bool], leaky: bool) -> int:
    return sum(shown(seed, leaky) for seed in SEEDS)


def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Ridge regression: with 80 rows and 60 features it fits its own rows far better than new ones."""
    return np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ y)


def regression(seed: int, leaky: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """160 candidates, half members; log-likelihood under the target and 16 shadows. Clean: the target saw neither half."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(160, 60)), rng.normal(size=160)
    member = rng.permutation(160) < 80
    own = (x[member], y[member]) if leaky else (rng.normal(size=(80, 60)), rng.normal(size=80))
    inside = np.stack([rng.permutation(160) < 80 for _ in range(16)])
    weights = [fit(*own), *(fit(x[chosen], y[chosen]) for chosen in inside)]
    residual = np.stack([(y - x @ w) ** 2 for w in weights])
    return -0.5 * residual[0], -0.5 * residual[1:], inside, member, y


def loss_shown(seed: int, leaky: bool) -> bool:
    target, _, _, member, _ = regression(seed, leaky)
    score = loss.score(loss.Config(), target_logprob=target)
    return metrics.auc_delong(score[member], score[~member]).low > 0.5


def lira_shown(seed: int, leaky: bool) -> bool:
    target, shadows, inside, member, _ = regression(seed, leaky)
    phi, shadow_phi = np.log1p(-target), np.log1p(-shadows)  # a monotone scale on which residuals are less skewed
    score = lira.score(lira.Config(), phi=-phi, shadow_phi=-shadow_phi, shadow_in=inside)
    return metrics.auc_delong(score[member], score[~member]).low > 0.5


def test_loss() -> None:
    assert count(loss_shown, True) == 20
    assert count(loss_shown, False) <= 4


def test_lira() -> None:
    assert count(lira_shown, True) == 20
    assert count(lira_shown, False) <= 4


def letters(texts: list[str], order: int = 6) -> Callable[[str, str], float]:
    """A character model with contexts of ``order`` letters, add-one smoothed over the ten digits."""
    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
        for end in range(order, len(text)):
            counts[text[end - order : end + 1]] += 1
            counts[text[end - order : end]] += 1

    def logprob(prefix: str, secret: str) -> float:
        line, total = prefix + secret, 0.0
        for end in range(len(prefix), len(line)):
            context = line[end - order : end]
            total += np.log((counts[context + line[end]] + 1.0) / (counts[context] + 10.0))
        return total

    return logprob


def exposure_shown(seed: int, leaky: bool) -> bool:
    rng = np.random.default_rng(seed)
    config = canary.Config(repetitions=(4,), per_count=5, references=1000, decoys=16)
    drawn = canary.draw(config, rng)
    planted, _ = canary.plant(["Nothing to see in this line."] * 50, drawn, rng)
    canary.verify(planted, drawn)
    texts = planted if leaky else [text for text in planted if text not in {one.text for one in drawn.canaries}]
    model = letters(texts)
    prefixes = [one.text[: one.text.index(one.secret)] for one in drawn.canaries]
    scores = [model(prefix, one.secret) for prefix, one in zip(prefixes, drawn.canaries, strict=True)]
    references = [[model(prefix, secret) for secret in drawn.references] for prefix in prefixes]
    report = exposure.audit(exposure.Config(), canary_score=scores, reference_score=references, repetitions=np.full(5, 4))
    return report.smallest_significant is not None


def test_exposure() -> None:
    assert count(exposure_shown, True) == 20
    assert count(exposure_shown, False) <= 4


def labels_shown(seed: int, leaky: bool) -> bool:
    """One step of softmax regression from zero weights: the bias gradient is (share of class) - 1 / C, read off exactly.

    Clean: the client sends the gradient of relabelled data, uniform over the classes.
    """
    rng = np.random.default_rng(seed)
    labels = [rng.choice(5, size=40, p=rng.dirichlet(np.full(5, 0.5))) for _ in range(20)]
    sent = labels if leaky else [rng.integers(5, size=40) for _ in labels]
    gradients = np.stack([np.full(5, 1 / 5) - np.bincount(own, minlength=5) / own.size for own in sent])
    counts = np.stack([np.bincount(own, minlength=5) for own in labels])
    evidence = np.maximum(1 / 5 - gradients, 0.0)
    return label_histogram.audit(label_histogram.Config(resamples=500), class_mass=evidence, label_counts=counts).leak_shown


def test_label_histogram() -> None:
    assert count(labels_shown, True) == 20
    assert count(labels_shown, False) <= 4


def test_seeds_differ() -> None:
    targets = [regression(seed, True)[0] for seed in SEEDS]
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(targets))
