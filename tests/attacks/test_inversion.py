"""Scoring of reconstructions: SSIM against loops and published code, ranks by hand, and a decision that knows its controls."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fedkd.attacks.inversion import Config, Report, audit, ranks, ssim
from fedkd.inference import paired_bootstrap

FAST = Config(resamples=400)


def by_loops(a: np.ndarray, b: np.ndarray, window: int = 7) -> float:
    """Wang et al. 2004, eq. 13, with a uniform window inside the image and variances over n - 1, written out."""
    found = []
    for i in range(a.shape[0] - window + 1):
        for j in range(a.shape[1] - window + 1):
            x = a[i : i + window, j : j + window].ravel()
            y = b[i : i + window, j : j + window].ravel()
            cov = np.cov(x, y, ddof=1)
            top = (2 * x.mean() * y.mean() + 1e-4) * (2 * cov[0, 1] + 9e-4)
            found.append(top / ((x.mean() ** 2 + y.mean() ** 2 + 1e-4) * (cov[0, 0] + cov[1, 1] + 9e-4)))
    return float(np.mean(found))


def lattice() -> tuple[np.ndarray, np.ndarray]:
    i, j = np.mgrid[0:9, 0:10]
    return ((3 * i + 5 * j) % 11) / 10, ((3 * i + 5 * j + i * j) % 7) / 6


def test_ssim_equals_the_loops_and_scikit_image() -> None:
    """Three values of ``skimage.metrics.structural_similarity`` 0.26 (win_size = 7, data_range = 1), computed once."""
    a, b = lattice()
    published = {"b": 0.1413666800997743, "half": 0.641170447701759, "negative": -0.9907530345838507}
    others = {"b": b, "half": a / 2, "negative": 1 - a}
    for name, other in others.items():
        assert ssim(a[None], other[None])[0] == pytest.approx(published[name], abs=1e-12)
        assert by_loops(a, other) == pytest.approx(published[name], abs=1e-12)


@pytest.mark.parametrize("window", [3, 5, 7])
def test_ssim_of_many_images_and_channels(window: int) -> None:
    stream = np.random.default_rng(1)
    a, b = stream.random((4, 2, 8, 11)), stream.random((4, 2, 8, 11))
    expected = [np.mean([by_loops(a[n, c], b[n, c], window) for c in range(2)]) for n in range(4)]
    assert ssim(a, b, window) == pytest.approx(expected, abs=1e-12)
    assert ssim(a, b, window) == pytest.approx(ssim(b, a, window))
    assert ssim(a, a, window) == pytest.approx(1.0)


@pytest.mark.parametrize(("shape", "other", "window"), [((2, 6, 9), (2, 6, 9), 7), ((2, 9, 9), (2, 9, 8), 7),
                                                         ((2, 9, 9), (2, 9, 9), 4), ((9, 9), (9, 9), 7)])  # fmt: skip
def test_ssim_refuses_what_it_cannot_compare(shape: tuple[int, ...], other: tuple[int, ...], window: int) -> None:
    with pytest.raises(ValueError, match="SSIM needs"):
        ssim(np.zeros(shape), np.zeros(other), window)


def test_ranks_by_hand() -> None:
    """On a line: distances to 0.5 are 0.1 (the truth), others of class 0 at 0.05 and 0.3, of class 1 at 0: rank 2 of 3."""
    pool, classes = np.array([[0.45], [0.8], [0.5]]), np.array([0, 0, 1])
    found, size = ranks([[0.6]], [[0.5]], [0], pool, classes)
    assert (found.tolist(), size) == ([2], 3)
    found, size = ranks([[0.6], [0.9]], [[0.5], [0.9]], [0, 1], pool, classes)
    assert (found.tolist(), size) == ([2, 1], 2)


def test_a_tie_of_ranks_counts_as_a_leak() -> None:
    """Equal distances, mirrored or by an equal image, never push the true image back, at any scale of rounding."""
    stream = np.random.default_rng(2)
    true = stream.random((50, 196))
    rebuilt = stream.random((50, 196))
    mirrored = 2 * rebuilt - true
    for pool in (true, np.repeat(true, 3, axis=0), mirrored):
        for n in range(50):
            same = pool[n : n + 1] if pool is mirrored else pool[np.abs(pool - true[n]).sum(axis=1) == 0]
            found, _ = ranks(true[n : n + 1], rebuilt[n : n + 1], [0], same, np.zeros(len(same)))
            assert found.tolist() == [1]


def test_ranks_refuse_a_class_without_others() -> None:
    with pytest.raises(ValueError, match="no image of class 2"):
        ranks(np.zeros((1, 4)), np.zeros((1, 4)), [2], np.zeros((3, 4)), [0, 1, 1])


def world(n: int = 120, seed: int = 3) -> dict[str, Any]:
    """Images of two classes around a mean each; nothing is rebuilt yet: the reconstruction is the chance image."""
    stream = np.random.default_rng(seed)
    means = stream.random((2, 8, 8))
    labels, others = np.arange(n) % 2, np.arange(200) % 2
    draw = {"true": labels, "pool": others}
    images = {k: np.clip(means[y] + 0.2 * stream.normal(size=(len(y), 8, 8)), 0, 1) for k, y in draw.items()}
    return {**images, "rebuilt": means[labels], "chance": means[labels], "labels": labels, "pool_labels": others}


def test_a_perfect_reconstruction_is_a_leak() -> None:
    arrays = world()
    report = audit(FAST, **{**arrays, "rebuilt": arrays["true"], "shuffled": arrays["chance"]})
    assert report.ssim.value == pytest.approx(1.0)
    assert (report.rank.value, report.rank.high, report.top1.value, report.pool) == (1.0, 1.0, 1.0, 101)
    assert report.leak_shown and report.ssim_shown and report.top1_shown
    assert report.gain.value == pytest.approx(1.0 - report.chance.value)
    assert report.detectable < 1.0


def test_the_chance_image_is_no_leak_and_its_rank_is_in_the_middle() -> None:
    report = audit(FAST, **world(1000))
    assert (report.gain.value, report.gain.low, report.gain.high) == (0.0, 0.0, 0.0)
    assert not report.leak_shown
    assert report.ssim.value < report.detectable
    assert 40 <= report.rank.low <= 51 <= report.rank.high <= 62
    assert report.top1.low <= 1 / report.pool <= report.top1.high
    assert report.shuffled is None


def test_the_rank_shows_what_ssim_does_not() -> None:
    """A reconstruction with a shifted contrast is unlike the truth, yet nearer to it than to the others of its class."""
    arrays = world()
    report = audit(FAST, **{**arrays, "rebuilt": 0.15 * arrays["true"] + 0.85 * arrays["chance"].mean()})
    assert report.top1_shown and report.leak_shown and not report.ssim_shown


def test_a_control_as_good_as_the_attack_takes_the_verdict_back() -> None:
    arrays = world()
    half = 0.5 * (arrays["true"] + arrays["chance"])
    assert audit(FAST, **{**arrays, "rebuilt": half}).ssim_shown
    report = audit(FAST, **{**arrays, "rebuilt": half, "shuffled": half})
    assert not report.ssim_shown
    assert report.shuffled is not None and report.shuffled.value == report.ssim.value


def test_rows_of_one_client_are_drawn_together() -> None:
    """Ten clients, twelve equal rows each: the interval must be that of ten units, sqrt(12) times wider than of 120."""
    arrays = world(10)
    repeated = {k: np.repeat(v, 12, axis=0) if k in ("true", "rebuilt", "chance", "labels") else v for k, v in arrays.items()}
    alone = audit(Config(), **repeated)
    together = audit(Config(), **repeated, clients=np.repeat(np.arange(10), 12))
    assert together.ssim.units == 10
    ratio = (together.ssim.high - together.ssim.low) / (alone.ssim.high - alone.ssim.low)
    assert ratio == pytest.approx(math.sqrt(12), rel=0.15)


def test_more_comparisons_ask_for_more() -> None:
    arrays = world()
    few, many = (audit(Config(comparisons=n), **arrays) for n in (1, 20))
    assert many.detectable > few.detectable and many.detectable_top1 > few.detectable_top1
    assert (many.ssim, many.gain) == (few.ssim, few.gain), "printed intervals stay at their level"


def test_intervals_are_those_of_the_paired_bootstrap() -> None:
    """Recomputed one statistic at a time with the shared resampler, clusters and all."""
    arrays = world(60)
    rebuilt, clients = 0.3 * arrays["true"] + 0.7 * arrays["chance"], np.arange(60) // 6
    report = audit(FAST, **{**arrays, "rebuilt": rebuilt}, clients=clients)
    own, chance = ssim(arrays["true"], rebuilt), ssim(arrays["true"], arrays["chance"])
    place, _ = ranks(arrays["true"], rebuilt, arrays["labels"], arrays["pool"], arrays["pool_labels"])
    means = [(report.ssim, own), (report.chance, chance), (report.gain, own - chance)]
    for found, values, by in (*((r, v, np.mean) for r, v in means), (report.rank, place, np.median)):
        expected = paired_bootstrap(
            lambda index, values=values, by=by: float(by(values[index])), 60, np.random.default_rng(0), clients, 0.95, 400
        )
        assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
        assert found.units == expected.units == 10


@pytest.mark.slow
def test_the_detectable_size_is_found_in_four_of_five_cases() -> None:
    """Blend in the truth until the mean SSIM equals the size stated there: found in 80 % of 200 worlds (+- 9 points)."""

    def found(seed: int, share: float) -> Report:
        arrays = world(60, seed)
        return audit(FAST, **{**arrays, "rebuilt": share * arrays["true"] + (1 - share) * arrays["chance"]})

    shares = np.linspace(0.05, 0.3, 6)
    reports = [[found(seed, share) for seed in range(10)] for share in shares]
    above = [float(np.mean([r.ssim.value - r.detectable for r in row])) for row in reports]
    assert above[0] < 0 < above[-1]
    share = float(np.interp(0.0, above, shares))
    assert 0.71 <= np.mean([found(1000 + seed, share).ssim_shown for seed in range(200)]) <= 0.89


@pytest.mark.parametrize("name", ["true", "rebuilt", "chance", "pool"])
@pytest.mark.parametrize("value", [np.nan, -0.01, 1.01])
def test_values_that_are_no_images_are_refused(name: str, value: float) -> None:
    arrays = world(20)
    arrays[name] = arrays[name].copy()
    arrays[name][0, 0, 0] = value
    with pytest.raises(ValueError, match=name):
        audit(FAST, **arrays)


def test_one_row_is_refused() -> None:
    arrays = {k: v[:1] if k in ("true", "rebuilt", "chance", "labels") else v for k, v in world().items()}
    with pytest.raises(ValueError, match="two independent units"):
        audit(FAST, **arrays)
    with pytest.raises(ValueError, match="comparisons"):
        audit(Config(comparisons=0), **world(20))
