"""A population costs its sampled clients, not itself: time and memory of large populations in process."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.speed import scale


def point(clients: int, timed: int) -> dict[str, object]:
    return scale.measure(scale.Point(clients), sys.executable, timed)


@pytest.mark.timeout(240)
def test_ten_thousand_clients() -> None:
    """Bounds that a loaded machine keeps: two timed rounds of 100 clients, 40 s to start, 2 GiB over three processes."""
    row = point(10_000, 2)
    assert row["error"] == "", json.dumps(row)
    assert isinstance(row["pss_bytes"], int)
    assert isinstance(row["start_up_seconds"], float)
    assert row["pss_bytes"] < scale.MEMORY
    assert row["start_up_seconds"] < 2 * scale.START_UP
    disk = row["disk"]
    assert isinstance(disk, dict)
    assert disk["commits"]["files"] == 6, "the last two commits"
    assert disk["state"]["files"] < 20, "no file per client of the population"


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_hundred_thousand_clients_with_and_without_state() -> None:
    """Files on disk are those of clients that took part, however large the population."""
    without = scale.measure(scale.Point(100_000), sys.executable, 2)
    with_state = scale.measure(scale.Point(100_000, state=True), sys.executable, 2)
    assert without["error"] == with_state["error"] == ""
    assert max(without["pss_bytes"], with_state["pss_bytes"]) < scale.MEMORY
    assert max(without["start_up_seconds"], with_state["start_up_seconds"]) < 3 * scale.START_UP
    assert without["disk"]["state"]["files"] < 20
    rounds = 4
    assert 100 <= with_state["disk"]["state"]["folders"] <= 100 * rounds + 10
    assert with_state["disk"]["state"]["files"] <= 100 * rounds + 20
