"""Membership from client updates, per client and round."""

import numpy as np
import pytest
from scipy import stats

from fedkd import metrics
from fedkd.attacks import updates


def values(size: int = 200, clients: int = 8, rounds: int = 5, gap: float = 1.5, seed: int = 0):
    rng = np.random.default_rng(seed)
    owner = rng.integers(clients, size=size)
    cosine = rng.normal(size=(size, clients, rounds)) + rng.normal(0, 3, size=(size, 1, 1))
    cosine[np.arange(size), owner] += gap
    return cosine, owner


def test_loop_oracle_with_the_outlier_rule() -> None:
    """One example, one round: 20 clients near 0, one at 50 (dropped: above mean + 3 sd), ours at 1."""
    others = np.linspace(-1, 1, 20)
    row = np.concatenate([[1.0], others, [50.0]])[None, :, None]
    kept = others  # mean 2.38, sd 10.9 with the outlier: 50 lies above 35.2
    expected = (1.0 - kept.mean()) / kept.std(ddof=1)
    assert updates.score(updates.Config(combine="z"), update_cosine=row, client=[0]) == pytest.approx([expected])
    assert updates.score(updates.Config(), update_cosine=row, client=[0]) == pytest.approx([stats.norm.cdf(expected)])


def test_rounds_are_averaged_and_each_is_available() -> None:
    cosine, owner = values()
    every = updates.per_client(updates.Config(), update_cosine=cosine)
    assert every.shape == cosine.shape
    score = updates.score(updates.Config(), update_cosine=cosine, client=owner)
    assert score == pytest.approx(every[np.arange(200), owner].mean(axis=1))
    assert ((every >= 0) & (every <= 1)).all()


def test_loss_is_negated_so_that_members_score_higher() -> None:
    cosine, owner = values()
    by_cosine = updates.score(updates.Config(), update_cosine=cosine, client=owner)
    by_loss = updates.score(updates.Config(variant="loss"), client_loss=-cosine, client=owner)
    assert by_loss == pytest.approx(by_cosine)


@pytest.mark.parametrize("combine", ["cdf", "z"])
def test_owner_against_bystander(combine: str) -> None:
    cosine, owner = values()
    config = updates.Config(combine=combine)
    own = updates.score(config, update_cosine=cosine, client=owner)
    other = updates.score(config, update_cosine=cosine, client=(owner + 1) % 8)
    assert metrics.auc_delong(own, other).low > 0.9


def test_source_inference_against_one_over_clients() -> None:
    cosine, owner = values()
    scores = updates.per_client(updates.Config(combine="z"), update_cosine=cosine)
    found = updates.source_inference(scores, owner)
    assert found.leak_shown
    assert found.accuracy.low > found.chance == 0.125
    shuffles = [updates.source_inference(scores, np.random.default_rng(i).permutation(owner)) for i in range(100)]
    assert np.mean([s.accuracy.value for s in shuffles]) == pytest.approx(0.125, abs=0.01)
    assert sum(s.leak_shown for s in shuffles) <= 9  # 2.5 in 100 expected, P[Bin(100, 2.5 %) > 9] < 0.1 %


def test_identical_clients_are_a_tie_not_a_hit() -> None:
    """All clients equal: each is the best, so the owner is right with probability 1 / clients."""
    scores = updates.per_client(updates.Config(), update_cosine=np.ones((10, 4, 2)))
    assert (scores == 0.5).all()
    report = updates.source_inference(scores, np.zeros(10, int))
    assert report.accuracy.value == 0.25
    assert not report.leak_shown


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"update_cosine": None}, "needs update_cosine"),
        ({"update_cosine": np.zeros((2, 2, 1))}, "clients >= 3"),
        ({"update_cosine": np.full((2, 3, 1), np.nan)}, "finite"),
        ({"client": [0, 3]}, r"0\.\.2"),
        ({"client": [0]}, "2 examples"),
    ],
)
def test_refusals(change: dict, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        updates.score(updates.Config(), **{"update_cosine": np.zeros((2, 3, 1)), "client": [0, 1], **change})


def test_unknown_options_are_named() -> None:
    with pytest.raises(ValueError, match="valid: cosine, loss"):
        updates.score(updates.Config(variant="norm"), update_cosine=np.zeros((1, 3, 1)), client=[0])
    with pytest.raises(ValueError, match="valid: cdf, z"):
        updates.score(updates.Config(combine="sum"), update_cosine=np.zeros((1, 3, 1)), client=[0])
    with pytest.raises(ValueError, match="at least one example"):
        updates.source_inference(np.zeros((0, 3, 1)), [])
