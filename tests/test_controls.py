"""Controls: planted leak, blind base line, label permutation, pooling over clients."""

import numpy as np
import pytest

from fedkd import controls, metrics


def coins(size: int, seed: int = 0) -> tuple[np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return rng.random(size) < 0.5, rng


def test_planted_leak_raises_half_of_the_members_above_everybody() -> None:
    member, rng = coins(400)
    score = rng.normal(size=400)
    planted = controls.plant_leak(member, score, rng)
    moved = planted != score
    assert moved[member].sum() == round(member.sum() / 2)
    assert not moved[~member].any()
    assert planted[moved].min() > score.max()
    assert metrics.auc(planted[member], planted[~member]) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("score", [np.zeros(20), np.full(20, 1e12), np.full(20, -3.0)])
def test_a_leak_can_be_planted_into_constant_scores(score: np.ndarray) -> None:
    member = np.arange(20) < 10
    planted = controls.plant_leak(member, score, np.random.default_rng(0))
    assert (planted > score).sum() == 5


def test_a_missed_leak_blocks_and_a_caught_one_does_not() -> None:
    assert controls.leaky_control(False, "x").blocks
    assert not controls.leaky_control(True, "x").blocks
    assert not controls.clean_control(True, "x", 0.95).blocks


def test_blind_base_line_names_a_broken_split() -> None:
    member, rng = coins(2000)
    assert controls.blind_baseline(member, rng.normal(size=2000)).status == "clean"
    broken = controls.blind_baseline(member, rng.normal(size=2000) + member)
    assert broken.status == "broken"
    assert "members differ without any model" in broken.detail
    assert controls.blind_baseline(member, None).status == "not run"


def test_text_base_line_sees_dates_and_not_coins() -> None:
    """Members dated 2023, others 2024, as in published membership sets; then the same texts with coin-flip labels."""
    member, rng = coins(300)
    words = ["alpha", "beta", "gamma", "delta"]
    dated = [f"{' '.join(rng.choice(words, 6))} in {2023 if m else 2024}" for m in member]
    broken = controls.blind_baseline(member, controls.text_baseline(dated, member, seed=0))
    assert broken.status == "broken"
    fair = rng.permutation(member)
    assert controls.blind_baseline(fair, controls.text_baseline(dated, fair, seed=0)).status == "clean"
    with pytest.raises(ValueError, match="10 members"):
        controls.text_baseline(dated[:12], np.arange(12) < 6, seed=0)


def test_label_permutation_describes() -> None:
    member, rng = coins(300)
    score = rng.normal(size=300) + member
    control = controls.label_permutation(member, score, rng, 500)
    assert control.value == pytest.approx(1 / 501)
    assert "500 shuffles" in control.detail


def test_pooled_z_scores_join_clients_of_different_scale() -> None:
    """Ten clients whose scores have means 0..90 and spreads 1..10: pooled raw scores hide a leak that z-scores show."""
    rng = np.random.default_rng(3)
    client = np.repeat(np.arange(10), 60)
    member = rng.random(600) < 0.5
    scale = 1.0 + client
    difficulty = 10.0 * client + scale * rng.normal(size=600)
    own = difficulty + scale * (rng.normal(size=600) + 1.5 * member)
    out = difficulty + scale * rng.normal(size=(6, 600))
    z = controls.pool_clients(own, out, client)
    assert metrics.auc_delong(z[member], z[~member]).low > 0.75
    assert metrics.auc(own[member], own[~member]) < 0.6
    assert z[~member].mean() == pytest.approx(0, abs=0.15)


def test_pooling_by_hand() -> None:
    """Client a: out values (0, 2) and (4, 4), variances 2 and 0, pooled 1; z = (3 - 1) / 1 and (4 - 4) / 1."""
    z = controls.pool_clients([3.0, 4.0, 9.0], [[0.0, 4.0, 0.0], [2.0, 4.0, 6.0]], ["a", "a", "b"])
    assert z == pytest.approx([2.0, 0.0, (9 - 3) / 18**0.5])


@pytest.mark.parametrize(
    ("own", "out", "client", "line"),
    [
        ([1.0], [[1.0]], ["a"], "two out models"),
        ([1.0], [[1.0, 2.0], [1.0, 2.0]], ["a"], "needs scores"),
        ([np.nan], [[1.0], [2.0]], ["a"], "finite"),
        ([1.0], [[1.0], [2.0]], ["a", "b"], "needs scores"),
    ],
)
def test_pooling_refusals(own, out, client, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        controls.pool_clients(own, out, client)


def test_each_client_has_auc_and_advantage_and_small_ones_say_so() -> None:
    """Client 0 leaks by 3 sd (AUC 0.983, best advantage 2 Phi(1.5) - 1 = 0.866), client 1 does not, client 2 is empty."""
    member, rng = coins(2001)
    client = np.minimum(np.arange(2001) // 1000, 2)
    member[2000] = True
    score = rng.normal(size=2001) + 3.0 * member * (client == 0)
    leaky, clean, small = controls.per_client(member, score, client, rng)
    assert leaky.auc.low < 0.983 < leaky.auc.high
    assert leaky.advantage.low < 0.866 < leaky.advantage.high
    assert clean.auc.low < 0.5 < clean.auc.high
    assert clean.advantage.low < 0.0 < clean.advantage.high
    assert (small.client, small.members, small.non_members, small.auc, small.advantage) == ("2", 1, 0, None, None)
