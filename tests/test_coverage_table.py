"""The committed coverage table: no exact interval below its level, and parts of it computed anew."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from fedkd import metrics

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    return json.loads((ROOT / "docs" / "results" / "coverage.json").read_text())


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("coverage_script", ROOT / "benchmarks" / "coverage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_exact_intervals_never_fall_below_their_level(table: dict[str, Any]) -> None:
    assert {row["trials"] for row in table["exact"]} >= {1, 2, 10, 100, 1000}
    assert min(row["minimum"] for row in table["exact"]) >= table["level"] == 0.95
    assert min(row["coverage"] for row in table["exact_ratio"]) >= 0.95


def test_mid_p_stands_beside_because_it_does_fall_below(table: dict[str, Any]) -> None:
    assert min(row["minimum"] for row in table["beside_exact"]) < 0.95


def test_simulated_intervals_reach_93_percent_or_are_listed_as_boundary(table: dict[str, Any]) -> None:
    """Boundary cases are few and known: an AUC near 1, and means of few skewed examples."""
    rows = table["simulated"]
    assert table["repeats"] == 2000
    assert {row["interval"] for row in rows} == {"delong", "bca", "paired_bootstrap"}
    for row in rows:
        assert row["boundary"] == (row["coverage"] < 0.93)
        if row["boundary"]:
            assert "AUC 0.99" in row["case"] or row["case"].startswith(("20 members", "20 skewed", "50 skewed"))


@pytest.mark.parametrize("trials", [1, 5, 20])
def test_entries_are_reproduced(table: dict[str, Any], script: Any, trials: int) -> None:
    entry = next(row for row in table["exact"] if row["trials"] == trials)
    again = script.enumerated(metrics.clopper_pearson, trials)
    assert (entry["minimum"], entry["mean"]) == (again["minimum"], again["mean"])


@pytest.mark.slow
def test_a_simulated_case_is_reproduced(table: dict[str, Any], script: Any) -> None:
    entry = next(row for row in table["simulated"] if row["case"] == "50 + 50, three score values")
    tied = 0.5 * (0.5 + 0.3 + 0.1) + 0.3 * (0.5 + 0.15) + 0.2 * 0.25
    assert script.simulated(script.tied_draw, tied, 100) == entry["coverage"]
