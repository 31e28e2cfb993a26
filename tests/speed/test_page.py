"""Targets and tables from rows made by hand; the lock file; what the benchmark may not do to the wheel."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from benchmarks.speed import page, scale, targets
from benchmarks.speed.visits import Visit, summary

ROOT = Path(__file__).resolve().parents[2]


def row(seconds: float, label: str = "x", gap: float = 1e-7) -> dict[str, Any]:
    made = summary([Visit("x", [seconds] * 3, [1.0] * 3, 4.0, 10**9, 0.5, gap)], 100)
    return {"label": label, "gflops": 9.0, **made}


def result() -> dict[str, Any]:
    rows = {
        "inprocess-2": row(0.5, "fedkd, two"), "ray": row(0.6, "fedkd, ray"), "flower": row(0.8, "fedkd, flower"),
        "stock": row(2.0, "Flower"), "stock-quickstart": row(2.5, "Flower, quickstart"), "pfl-1": row(1.0, "pfl"),
        "pfl-2": row(0.55, "pfl, two"), "loop-2": row(0.4, "loop"), "echo-2": row(0.08, "echo"),
        "fedjax": row(0.1, "FedJAX", gap=1e-3),
    }  # fmt: skip
    point = scale.line(scale.Point(100_000), Visit("s", [1.0, 3.0, 2.0], [1.0, 1.0, 1.0], 19.0, 10**9), disk())
    w1 = {"title": "LeNet", "clients_a_round": 100, "population": 1000, "peak": {"one_core": 90.0, "all_cores": 181.0},
          "rows": rows, "target": {"accuracy": 0.8, "rounds": 4, "seen": [0.1, 0.5, 0.7, 0.9]}}  # fmt: skip
    host = {"date": "2026-01-01", "cores": 2, "cpu": "a cpu", "python": "3.11", "versions": {"torch": "2.14.1"}, "git": "abc"}
    heads = {"error": "", "share": 0.02, "share_max": 0.04, "round_seconds": 1.5}
    verdicts = targets.verdicts({"W1": rows}, [point], heads)
    return {"host": host, "workloads": {"W1": w1}, "scale": [point], "heads": heads, "targets": verdicts, "minutes": 1.0}


def disk() -> dict[str, Any]:
    return {k: {"files": 3, "folders": 1, "bytes": 10} for k in ("state", "run", "commits")}


def test_ratios_are_over_the_faster_stock_and_the_better_pfl() -> None:
    """200 clients/s over 50 (not 40) is 4; over 181.8 is 1.1; over 250 is 0.8; W3 was not measured."""
    said = {v["what"]: v for v in result()["targets"]}
    assert said["W1: inprocess-2 over stock Flower (small models, CPU)"]["value"] == pytest.approx(4.0)
    assert said["W1: inprocess-2 over stock Flower (small models, CPU)"]["holds"] is True
    assert said["W1: flower over stock Flower (small models, CPU)"]["holds"] is False
    assert said["W1: inprocess-2 over the better of pfl's one and two processes"]["value"] == pytest.approx(1.1)
    assert said["W1: inprocess-2 over the plain loop with two workers"]["holds"] is False
    assert said["W3: ray over stock Flower (small models, CPU)"]["holds"] is None
    assert said["echo client, 100 a round of 1,000, in process: seconds a round"]["holds"] is True
    assert said["10^5 clients, inprocess, 2 workers: start-up, seconds"]["value"] == 19.0
    assert said["W5: share of the server's head training in a round"]["holds"] is True


def test_the_tables_say_what_does_not_count_and_that_models_are_small() -> None:
    text = page.text(result())
    assert "small models, CPU" in text
    assert "does not count: the first average is 1e-03 from float64" in text
    line = next(one for one in text.splitlines() if one.startswith("| fedkd, two |"))
    assert [c.strip() for c in line.split("|")[2:5]] == ["200 (200 to 200)", "4", "9"]
    assert line.rstrip(" |").endswith("| 6"), "4 s of start-up and 4 rounds of half a second"
    assert "| 100,000 | 100 | 2 | no | 19 | 2 (1 to 3) |" in text
    assert "**no**" in text


def test_a_table_has_as_many_cells_as_its_head() -> None:
    for block in re.findall(r"(?:^\|.*\n)+", page.text(result()), re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1, block


def test_writing_replaces_the_measured_part_alone(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (tmp_path / "performance.md").write_text(f"before\n{page.BEGIN}\nwhat was measured before\n{page.END}\nafter\n")
    page.write(result(), results)
    text = (tmp_path / "performance.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "what was measured before" not in text
    assert "| fedkd, two |" in text
    assert "<svg" in (results / "figures" / "speed.svg").read_text()
    with pytest.raises(ValueError, match="no lines"):
        page.placed("nothing", "x")


def test_bounds_of_the_scale_points() -> None:
    good = scale.line(scale.Point(100_000), Visit("s", [1.0], [1.0], 19.0, 10**9), disk())
    slow = scale.line(scale.Point(100_000), Visit("s", [1.0], [1.0], 21.0, 10**9), disk())
    large = scale.line(scale.Point(100_000), Visit("s", [1.0], [1.0], 1.0, 3 * 2**30), disk())
    failed = scale.line(scale.Point(100_000), Visit("s", error="x"), {})
    assert scale.within([good])
    assert not any(scale.within(rows) for rows in ([good, slow], [large], [failed], []))


def test_the_lock_file_pins_every_package_and_the_peers() -> None:
    lines = (ROOT / "benchmarks" / "speed" / "requirements.lock").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"==[^,]+", str(p.specifier)) and p.url is None for p in pins)
    names = [p.name.lower() for p in pins]
    assert len(names) == len(set(names))
    assert {"flwr", "ray", "torch", "pfl", "fedjax", "jax", "numpy"} <= set(names)
    assert "fedkd" not in names


def test_the_published_result_is_whole() -> None:
    """What the page quotes is in the JSON, and every row that counts was compared or is an echo or side by side."""
    published = ROOT / "docs" / "results" / "speed.json"
    if not published.exists():
        pytest.skip("no published result yet: make bench")
    measured = json.loads(published.read_text())
    assert page.text(measured) in (ROOT / "docs" / "performance.md").read_text()
    for workload in measured["workloads"].values():
        for key, one in workload["rows"].items():
            if one["counts"] and "echo" not in key and key not in ("pfl-2",):
                assert one["gap"] <= 1e-5
                assert one["rounds"] >= 3
