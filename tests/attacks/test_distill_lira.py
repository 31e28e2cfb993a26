"""LiRA through a distillation pipeline: the example and its proxy queries."""

import numpy as np
import pytest

from fedkd.attacks import distill_lira, lira


def _world(seed: int, leak: float, through: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """400 examples, each with 4 own transfer examples whose answers move by ``through`` where the example was inside."""
    rng = np.random.default_rng(seed)
    member, inside = rng.random(400) < 0.5, rng.random((16, 400)) < 0.5
    proxies = np.arange(1600).reshape(400, 4)
    every = {
        "phi": rng.normal(size=400) + leak * member,
        "shadow_phi": rng.normal(size=(16, 400)) + leak * inside,
        "shadow_in": inside,
        "transfer_phi": rng.normal(size=1600) + through * np.repeat(member, 4),
        "shadow_transfer_phi": rng.normal(size=(16, 1600)) + through * np.repeat(inside, 4, axis=1),
        "proxies": proxies,
    }
    return every, member


def _auc(score: np.ndarray, member: np.ndarray) -> float:
    return float((score[member][:, None] > score[~member][None, :]).mean())


def test_without_queries_it_is_online_lira() -> None:
    every, _ = _world(0, 1.0, 1.0)
    plain = {k: every[k] for k in ("phi", "shadow_phi", "shadow_in")}
    got = distill_lira.score(distill_lira.Config(queries=0), **plain)
    assert np.array_equal(got, lira.score(lira.Config(), **plain))


def test_proxies_find_what_the_example_itself_does_not_show() -> None:
    """A student that never answers differently on the example leaks only through its neighbours."""
    every, member = _world(1, 0.0, 1.0)
    alone = distill_lira.score(distill_lira.Config(queries=0), **every)
    through = distill_lira.score(distill_lira.Config(queries=4), **every)
    assert abs(_auc(alone, member) - 0.5) < 0.1
    assert _auc(through, member) > 0.75


def test_nearest_equals_brute_force() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(50, 3)), rng.normal(size=(30, 3))
    distance = ((a[:, None] - b[None]) ** 2).sum(axis=2)
    assert np.array_equal(distill_lira.nearest(a, b, 5), np.argsort(distance, axis=1)[:, :5])


def test_bad_input_is_refused() -> None:
    every, _ = _world(3, 1.0, 1.0)
    with pytest.raises(ValueError, match="or set queries = 0"):
        distill_lira.score(distill_lira.Config(), **{k: every[k] for k in ("phi", "shadow_phi", "shadow_in")})
    with pytest.raises(ValueError, match=r"proxies must be \[400, at least 8\]"):
        distill_lira.score(distill_lira.Config(queries=8), **every)
    with pytest.raises(ValueError, match="Z >= 9"):
        distill_lira.nearest(np.zeros((3, 2)), np.zeros((8, 2)), 9)
