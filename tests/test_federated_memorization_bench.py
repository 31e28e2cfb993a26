"""The arithmetic of the federated memorization tables, on made-up models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks import federated_memorization as bench


def made(arm: str, seed: int, hits: list[list[int]], shift: float = 0.0) -> dict[str, Any]:
    """Two clients, each with six passages of 0, 0, 1, 1, 4, 4 copies; every second one is public in the last arm."""
    flags = np.array(hits, np.bool_)
    return {
        "arm": arm, "seed": seed, "perplexity": 20.0 + seed, "accuracy": 0.5, "disagree": 0, "holder": [0] * 6 + [1] * 6,
        "copies": [0, 0, 1, 1, 4, 4] * 2, "public": [False, arm == list(bench.ARMS)[2]] * 6, "hits": flags.tolist(),
        "log_pz": np.where(flags, -1.0, -20.0 + shift).tolist(),
    }  # fmt: skip


ALONE = [[0, 0, 0, 0, 1, 1] + [0] * 6, [0] * 6 + [0, 0, 0, 0, 1, 1]]
INHERITED = [[0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1], [0] * 6 + [0, 0, 0, 0, 1, 1]]


def runs() -> list[dict[str, Any]]:
    arms = list(bench.ARMS)
    return [made(arm, seed, INHERITED if arm == arms[2] else ALONE, 0.0 if arm == arms[0] else np.log(100) * 1.0)
            for arm in arms for seed in (0, 1, 2)]  # fmt: skip


def test_only_what_the_holder_knows_and_the_other_alone_does_not_is_inherited() -> None:
    rows = bench.summarise(runs())["rows"]
    alone, apart, shared = rows
    for row in (alone, apart):
        assert row["public half"]["inherited, pooled"]["count"] == 0
        assert row["public half"]["inherited, pooled"]["of"] == 6, (
            "two clients, one public passage known by its holder, three seeds"
        )
    assert shared["public half"]["inherited, pooled"]["count"] == 3
    assert shared["public half"]["inherited"][0] == pytest.approx(0.5)
    assert shared["other half"]["inherited, pooled"]["count"] == 0
    assert alone["own"][0] == pytest.approx(1 / 2)
    assert alone["own, control"][0] == 0.0


def test_the_change_of_p_z_is_against_the_same_client_alone() -> None:
    alone, apart, _ = bench.summarise(runs())["rows"]
    assert alone["public half"]["gap"][0] == 0.0
    assert apart["other half"]["gap"][0] == pytest.approx(2.0)
    assert apart["other half"]["dose"][0] == pytest.approx(0.0), "as much with four copies as with none"
    assert apart["other half"]["gap by copies"] == pytest.approx({"0": 2.0, "1": 2.0, "4": 2.0})


def test_the_page_names_every_run_and_both_halves() -> None:
    page = bench.table(bench.summarise(runs()))
    for arm in bench.ARMS:
        assert page.count(f"| {arm} | public half |") == page.count(f"| {arm} | other half |") == 1
    assert "3/6 = 50.00" in page
