"""Tables and verdicts of a swing study, from planted numbers whose answers are known."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from fedkd.report.swing import page, verdicts
from fedkd.swing_plan import Plan
from fedkd.swing_results import summarise, table
from fedkd.verdict import banned_in

COPIES = (0, 1, 16)
LEVELS = {"kd": (1.4, 6.0, 18.0), "control": (1.4, 1.4, 1.4), "swing": (1.4, 1.5, 1.5), "redaction": (1.4, 1.4, 4.4)}


def student(arm: str, seed: int, levels: tuple[float, ...], factor: int = 1, regime: str = "R2") -> dict[str, Any]:
    draw, own = np.random.default_rng([seed, 7]), np.random.default_rng([seed, *arm.encode()])
    noise = iter(draw.normal(0, 0.3, 24) + own.normal(0, 0.002, 24))
    canaries = [
        {"id": f"c{n}-{i}", "copies": n, "bits": level + float(next(noise)), "greedy": level > 15, "estimator": "exact"}
        for n, level in zip(COPIES, levels, strict=True)
        for i in range(8)
    ]
    return {
        "seed": seed, "regime": regime, "arm": arm, "factor": factor, "steps": 100 * factor, "canaries": canaries,
        "perplexity": 8.0 * (1.1 if arm == "control" else 1.0), "type_mass": 0.9, "type_nll": 2.4,
    }  # fmt: skip


def study(seeds: tuple[int, ...] = (0, 1, 2)) -> list[dict[str, Any]]:
    return [student(arm, seed, levels) for seed in seeds for arm, levels in LEVELS.items()]


def test_planted_exposures_come_back_with_their_intervals() -> None:
    found = {r["arm"]: r for r in summarise(study())["arms"]}
    kd, swing = found["kd"], found["swing"]
    assert kd["planted"] == 48
    assert kd["mean"][0] == pytest.approx(12.0, abs=0.3)
    assert kd["mean"][1] < kd["mean"][0] < kd["mean"][2]
    assert kd["by_copies"]["1"][0] == pytest.approx(6.0, abs=0.3)
    assert kd["extracted"]["count"] == 24
    assert kd["extracted"]["of"] == 48
    assert kd["extracted"]["low"] < 0.5 < kd["extracted"]["high"]
    assert kd["minus_control"]["all"] == pytest.approx([10.6] * 3, abs=2.0)
    assert kd["minus_control"]["all"][1] > 4
    assert swing["reduction"][0] == pytest.approx(1 - 1.5 / 12.0, abs=0.02)
    assert swing["floor_corrected"][0] == pytest.approx(1 - 0.1 / 10.6, abs=0.02)
    assert found["swing"]["perplexity_ratio"] == pytest.approx([1.0, 1.0, 1.0])
    assert "perplexity_ratio" not in found["control"], "its rows hold other text"
    assert len(kd["minus_control"]["by_seed"]) == 3
    assert "reduction" not in kd
    assert "minus_control" not in found["control"]


def test_the_margin_is_tested_per_number_of_copies() -> None:
    found = {r["arm"]: r for r in summarise(study())["arms"]}
    assert max(found["swing"]["minus_control"]["within"].values()) < 0.001, "0.1 bits above the control is within one bit"
    redaction = found["redaction"]["minus_control"]["within"]
    assert redaction["1"] < 0.001
    assert redaction["16"] > 0.9, "3 bits above it is not"


def test_q_canaries_are_paired_over_arms() -> None:
    """The same noise in every arm of a seed cancels: the interval of a difference is far narrower than that of a mean."""
    found = {r["arm"]: r for r in summarise(study())["arms"]}
    width = np.diff(found["swing"]["minus_control"]["by_copies"]["16"][1:])[0]
    alone = np.diff(found["swing"]["by_copies"]["16"][1:])[0]
    assert width < alone / 20
    floor = found["control"]["mean"][0]
    kd = found["kd"]["mean"][0]
    assert (kd - floor) / (kd - floor) == 1.0
    own = [student("control", 0, LEVELS["control"]), student("kd", 0, LEVELS["kd"]), student("typed", 0, LEVELS["control"])]
    typed = {r["arm"]: r for r in summarise(own)["arms"]}["typed"]
    assert typed["floor_corrected"][0] == pytest.approx(1.0, abs=1e-3), "an arm that equals the control is corrected to 100 %"


def test_one_seed_has_no_interval_over_seeds_and_no_leak_no_reduction() -> None:
    rows = {r["arm"]: r for r in summarise(study((0,)))["arms"]}
    assert math.isnan(rows["swing"]["perplexity_ratio"][1])
    flat = [student("kd", 0, LEVELS["control"]), student("control", 0, LEVELS["control"])]
    text = dict(verdicts({**summarise(flat)}))
    assert next(iter(text)).startswith("R2: no leak of plain distillation shown")
    with pytest.raises(ValueError, match="no result"):
        summarise([])


def test_the_page_says_what_leaked_and_stands_alone() -> None:
    students = [*study(), student("kd", 0, LEVELS["kd"], 3), student("kd", 0, LEVELS["kd"], regime="R1")]
    shown = [{"token": "i", "likelihood": 0.0, "temperature": 1.0, "noise": 0.0}] * 3
    shown += [{"token": "#", "likelihood": 0.9, "temperature": 18.1, "noise": 0.2}] * 6
    summary = {**summarise(students), "name": "x", "command": "python -m simulations run configs/x.toml", "token_map": shown}
    summary = json.loads(json.dumps(summary).replace("NaN", "null"))  # as it comes back from summary.json
    html = page(Plan("x"), summary)
    assert "leak shown through soft targets of plain distillation" in html
    assert html.index('class="verdict') < html.index("<h2>")
    assert "R2, 100 steps" in html
    assert "R2, 300 steps" in html
    assert html.count("18.1") == 1, "tokens treated alike are one row"
    assert ">######<" in html
    assert "http" not in html.replace("http-equiv", "")
    assert "mathdefault" not in html
    assert banned_in(html) == []
    assert html == page(Plan("x"), summary)
    assert "R1, 100 steps" in table(summary)
    assert "| KD | 1.4 |" in table(summary)
    assert "(seeds +10." in table(summary), "what another teacher changes stands beside the pooled interval"


def test_a_detector_that_flags_nothing_has_no_precision() -> None:
    students = [{**s, "recall": 0.0, "precision": None, "charges": 0} for s in study()]
    assert "recall 0.000, no token flagged on planted secrets" in page(Plan("x"), {**summarise(students), "command": "c"})
