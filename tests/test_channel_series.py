"""Rounds, clients and bands: what is drawn of an audit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedkd import evaluate, metrics
from fedkd.channel_attacks import scored
from fedkd.channel_candidates import Candidates
from fedkd.channel_series import client_rows, curve_band, other_client, series
from fedkd.verdict import MEASURED
from tests.test_channel_attacks import ROUNDS, N, world


def candidates(member: np.ndarray, client: np.ndarray) -> Candidates:
    return Candidates(np.arange(N), np.zeros((N, 1), np.float32), np.zeros(N, np.int64), client, member)


def test_a_series_has_a_point_and_a_control_per_round() -> None:
    values, member, client = world(2.0)
    attacks = scored(values, client)
    found = series(attacks, candidates(member, client), 0.95)
    assert [(f["channel"], f["attack"]) for f in found] == [(a.attack.channel, a.attack.name) for a in attacks]
    for record, one in zip(found, attacks, strict=True):
        assert [p["round"] for p in record["points"]] == list(range(ROUNDS))
        for at, point in enumerate(record["points"]):
            score = one.by_round[at]
            assert point["value"] == pytest.approx(metrics.auc(score[member], score[~member]))
            assert point["low"] < point["value"] < point["high"]
            assert (point["n_members"], point["n_non_members"]) == (member.sum(), (~member).sum())
        assert len(record["control"]) == (0 if one.control is None else ROUNDS)


def test_a_round_without_enough_candidates_has_no_point() -> None:
    values, member, client = world(1.0)
    kept = values["features up", "nearest_feature"]
    kept.own[1][:] = np.nan
    record = next(f for f in series(scored(values, client), candidates(member, client), 0.95))
    assert [p["round"] for p in record["points"]] == [0, 2]


def test_clients_are_described_in_their_order_without_a_verdict() -> None:
    values, member, client = world(2.0)
    one = scored(values, client)[0]
    rows = client_rows(one, candidates(member, client), evaluate.Config(view=one.attack.channel))
    assert [r.target_group for r in rows] == [f"client {c}" for c in range(4)]
    assert {r.status for r in rows} == {MEASURED}
    inside = client == 2
    assert rows[2].value == pytest.approx(metrics.auc(one.total[inside & member], one.total[inside & ~member]))
    assert rows[2].n_members == (inside & member).sum()


def test_the_band_is_clopper_pearson_at_each_vertex() -> None:
    band = curve_band({"fpr": [0.0, 0.5, 1.0], "tpr": [0.0, 0.25, 1.0]}, 8)
    assert band["tpr_low"][1] == pytest.approx(stats.beta.ppf(0.025, 2, 7))
    assert band["tpr_high"][1] == pytest.approx(stats.beta.ppf(0.975, 3, 6))
    assert (band["tpr_low"][0], band["tpr_high"][2]) == (0.0, 1.0)


def test_the_control_of_a_headline_is_chance_and_says_so() -> None:
    values, member, client = world(2.0)
    (control,) = other_client(scored(values, client)[0], candidates(member, client), 0.999)
    assert control["name"] == "another_client"
    low, high = control["detail"].split("[")[1].split("]")[0].split(", ")
    assert float(low) < 0.5 < float(high)
