"""Scores of attacks: a planted leak ranks high, absent clients stay out, controls use another client's message."""

from __future__ import annotations

import numpy as np
import pytest

from fedkd import metrics
from fedkd.channel_attacks import ATTACKS, logprob, scored
from fedkd.channel_signals import FEATURES, WEIGHTS, WEIGHTS_DOWN, Values

N, OTHERS, ROUNDS = 400, 4, 3


def world(leak: float, seed: int = 0) -> tuple[dict[tuple[str, str], Values], np.ndarray, np.ndarray]:
    """Signals of members shifted by ``leak`` under their own client; every example has a difficulty that all models share."""
    stream = np.random.default_rng(seed)
    member, client = stream.random(N) < 0.5, stream.integers(4, size=N)
    difficulty = 2 * stream.normal(size=N)
    values = {}
    for key in {(a.channel, a.signal) for a in ATTACKS}:
        kept = Values()
        for t in range(ROUNDS):
            kept.rounds.append(t)
            kept.own.append(difficulty + stream.normal(size=N) + leak * member)
            size = 0 if key[0].endswith("down") else OTHERS
            kept.others.append(difficulty + stream.normal(size=(size, N)))
        values[key] = kept
    return values, member, client


def test_every_attack_sees_a_planted_leak_and_its_control_does_not() -> None:
    values, member, client = world(2.5)
    found = scored(values, client)
    assert [s.attack for s in found] == list(ATTACKS)
    for one in found:
        assert metrics.auc_delong(one.total[member], one.total[~member]).low > 0.6, one.attack
        if one.control is not None:
            for score in one.control:
                assert 0.4 < metrics.auc(score[member], score[~member]) < 0.6, one.attack
    assert {s.attack.channel for s in found if s.control is None} == {WEIGHTS_DOWN, "heads down"}


def test_without_a_leak_every_attack_is_at_chance() -> None:
    values, member, client = world(0.0)
    for one in scored(values, client):
        estimate = metrics.auc_delong(one.total[member], one.total[~member], 0.999)
        assert estimate.low <= 0.5 <= estimate.high, one.attack


def test_comparing_with_other_clients_takes_out_what_an_example_is_like() -> None:
    values, member, client = world(1.5)
    by_name = {s.attack.name: s for s in scored(values, client) if s.attack.channel == WEIGHTS}
    auc = {name: metrics.auc(s.total[member], s.total[~member]) for name, s in by_name.items()}
    assert auc["co-op lira"] > auc["loss"] + 0.1


def test_clients_that_sent_nothing_stay_out_and_rounds_are_averaged() -> None:
    values, _, client = world(0.0)
    kept = values[FEATURES, "nearest_feature"]
    kept.own[0][client == 1] = np.nan
    for t in range(ROUNDS):
        kept.own[t][client == 2] = np.nan
    one = next(s for s in scored(values, client) if s.attack.name == "nearest_feature")
    assert np.isnan(one.total[client == 2]).all()
    np.testing.assert_allclose(one.total[client == 1], np.mean([kept.own[t][client == 1] for t in (1, 2)], axis=0))


def test_of_a_cumulative_attack_the_last_round_of_a_client_counts() -> None:
    values, _, client = world(0.0)
    kept = values[FEATURES, "followed_row"]
    kept.own[2][client == 3] = np.nan
    one = next(s for s in scored(values, client) if s.attack.name == "followed_row")
    np.testing.assert_array_equal(one.total[client == 3], kept.own[1][client == 3])
    np.testing.assert_array_equal(one.total[client != 3], kept.own[2][client != 3])


def test_an_attack_that_needs_more_other_clients_is_left_out() -> None:
    values, _, client = world(0.0)
    for kept in values.values():
        kept.others = [o[:1] for o in kept.others]
    left = {s.attack.name for s in scored(values, client)}
    assert left == {"nearest_feature", "followed_row", "nearest_soft_label", "loss", "calibrated_loss"}


def test_logprob_is_that_of_the_margin() -> None:
    p = np.array([1e-9, 0.2, 0.5, 0.999])
    assert logprob(np.log(p / (1 - p))) == pytest.approx(np.log(p))
