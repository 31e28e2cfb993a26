"""LiRA against a loop oracle, and against the reference script's slip."""

import numpy as np
import pytest
from scipy import stats

from fedkd import metrics
from fedkd.attacks import lira


def world(shadows: int, size: int, sd_in: float, sd_out: float, seed: int = 0, gap: float = 2.0):
    """Example i has its own difficulty; in models score ``gap`` higher, with another spread than out models."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 3, size)
    inside = rng.permuted(np.arange(shadows)[:, None] * 2 < shadows * np.ones((1, size)), axis=0)
    noise = rng.normal(size=(shadows, size))
    shadow = difficulty + np.where(inside, gap + sd_in * noise, sd_out * noise)
    member = rng.random(size) < 0.5
    own = difficulty + np.where(member, gap + sd_in * rng.normal(size=size), sd_out * rng.normal(size=size))
    return own, shadow, inside, member


def oracle(own: np.ndarray, shadow: np.ndarray, inside: np.ndarray, own_variance: bool) -> np.ndarray:
    """log N(phi; median_in, sd_in) - log N(phi; median_out, sd_out), one example at a time.

    Pooled: sd^2 = sum of within-example squares / sum of (count - 1), for each side from its own scores.
    """
    sides = {}
    for name, mask in (("in", inside), ("out", ~inside)):
        values = [shadow[mask[:, i], i] for i in range(own.size)]
        pooled = np.sqrt(sum(((v - v.mean()) ** 2).sum() for v in values) / sum(max(len(v) - 1, 0) for v in values))
        spread = [v.std(ddof=1) if own_variance else pooled for v in values]
        sides[name] = ([np.median(v) for v in values], spread)
    return stats.norm.logpdf(own, *sides["in"]) - stats.norm.logpdf(own, *sides["out"])


@pytest.mark.parametrize(("shadows", "own_variance"), [(8, False), (63, False), (64, True)])
def test_online_is_the_loop(shadows: int, own_variance: bool) -> None:
    own, shadow, inside, _ = world(shadows, 40, 0.5, 1.5)
    got = lira.score(lira.Config(), phi=own, shadow_phi=shadow, shadow_in=inside)
    assert got == pytest.approx(oracle(own, shadow, inside, own_variance))


def test_each_side_has_its_own_spread() -> None:
    """The reference script's fixed-variance branch takes both spreads from the in scores; here sd 0.2 and 2.0 differ.

    With in = N(d, 0.2) and out = N(d, 2.0) the centres say nothing, only the spreads do: a member lies nearer to d with
    probability (2 / pi) atan(10) = 0.937, which the right attack approaches and the slip cannot use.
    """
    own, shadow, inside, member = world(32, 2000, 0.2, 2.0, gap=0.0)
    score = lira.score(lira.Config(), phi=own, shadow_phi=shadow, shadow_in=inside)
    centres = [np.array([np.median(shadow[mask[:, i], i]) for i in range(2000)]) for mask in (inside, ~inside)]
    slip = stats.norm.logpdf(own, centres[0], 0.2) - stats.norm.logpdf(own, centres[1], 0.2)
    assert metrics.auc(score[member], score[~member]) == pytest.approx(0.937, abs=0.03)
    assert metrics.auc(slip[member], slip[~member]) < 0.75


def test_offline_is_a_z_value_under_the_out_models() -> None:
    own, shadow, inside, _ = world(16, 30, 1.0, 1.0)
    score = lira.score(lira.Config(mode="offline"), phi=own, shadow_phi=shadow, shadow_in=inside)
    values = [shadow[~inside[:, i], i] for i in range(30)]
    pooled = np.sqrt(sum(((v - v.mean()) ** 2).sum() for v in values) / sum(len(v) - 1 for v in values))
    assert score == pytest.approx([(own[i] - np.median(values[i])) / pooled for i in range(30)])
    far = lira.score(lira.Config(mode="offline"), phi=own + 1e3, shadow_phi=shadow, shadow_in=inside)
    assert np.unique(far).size == 30  # a CDF would have saturated into ties


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_orientation_and_power(mode: str) -> None:
    own, shadow, inside, member = world(16, 1000, 1.0, 1.0)
    score = lira.score(lira.Config(mode=mode), phi=own, shadow_phi=shadow, shadow_in=inside)
    raw = metrics.auc(own[member], own[~member])
    assert metrics.auc_delong(score[member], score[~member]).low > raw + 0.1


@pytest.mark.parametrize("shadows", [1, 2, 3])
def test_any_number_of_shadows(shadows: int) -> None:
    """One shadow has no spread (sd := 1): offline ranks by the difference; online needs an example on both sides."""
    own, shadow, inside, _ = world(shadows, 20, 1.0, 1.0, seed=3)
    inside = np.zeros_like(inside) if shadows == 1 else inside
    score = lira.score(lira.Config(mode="offline"), phi=own, shadow_phi=shadow, shadow_in=np.zeros_like(inside))
    assert np.isfinite(score).all()
    if shadows == 1:
        assert score == pytest.approx(own - shadow[0])
        with pytest.raises(ValueError, match="both sides"):
            lira.score(lira.Config(), phi=own, shadow_phi=shadow, shadow_in=inside)
    else:
        assert np.isfinite(lira.score(lira.Config(), phi=own, shadow_phi=shadow, shadow_in=inside)).all()


def test_a_missing_side_borrows_the_median_gap() -> None:
    """Examples 0 and 1 have in - out gaps 2 and 4 (median 3); example 2 has out 1 only, so its in centre is 4."""
    shadow = np.array([[2.0, 5.0, 1.0], [0.0, 1.0, 1.0]])
    inside = np.array([[True, True, False], [False, False, False]])
    at_in = lira.score(lira.Config(), phi=[0.0, 0.0, 4.0], shadow_phi=shadow, shadow_in=inside)[2]
    at_out = lira.score(lira.Config(), phi=[0.0, 0.0, 1.0], shadow_phi=shadow, shadow_in=inside)[2]
    middle = lira.score(lira.Config(), phi=[0.0, 0.0, 2.5], shadow_phi=shadow, shadow_in=inside)[2]
    assert at_in > middle > at_out


def test_refusals() -> None:
    good = {"phi": np.zeros(2), "shadow_phi": np.zeros((3, 2)), "shadow_in": np.zeros((3, 2), bool)}
    for change, line in [
        ({"phi": np.array([np.inf, 0.0])}, "finite"),
        ({"shadow_phi": np.zeros((3, 1))}, "shadows are"),
        ({"shadow_in": np.ones((3, 2), bool)}, "no shadow that did not train"),
        ({"shadow_phi": np.zeros((0, 2)), "shadow_in": np.zeros((0, 2), bool)}, "at least one shadow"),
    ]:
        with pytest.raises(ValueError, match=line):
            lira.score(lira.Config(mode="offline"), **{**good, **change})
    with pytest.raises(ValueError, match="valid: online, offline"):
        lira.score(lira.Config(mode="both"), **good)
