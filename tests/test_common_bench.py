"""One seed of the study of what is common, on made-up text: what each arm learns and what the audit reads."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from fedkd import common_results as results
from fedkd.common_arms import REFERENCES, TYPED, VARIANTS, Evidence
from fedkd.common_bench import CommonBench, calibration
from tests.test_common_text import SMALL


@pytest.fixture(scope="module")
def bench() -> CommonBench:
    return CommonBench(SMALL, 1, "template")


@pytest.fixture(scope="module")
def teacher(bench: CommonBench) -> Any:
    return cache(bench.train_teacher)


@pytest.fixture(scope="module")
def evidence(bench: CommonBench, teacher: Any) -> Evidence:
    return bench.evidence(teacher)


def test_arms_differ_at_private_positions_alone(bench: CommonBench, teacher: Any, evidence: Evidence) -> None:
    lines = bench.lines("fresh")
    rows = bench.rows(lines)
    kd = bench.lesson("kd", rows, teacher, evidence)
    assert kd.teacher is not None
    private = torch.isin(rows.tokens[:, 1:], bench.alphabet) & rows.real
    assert int(private.sum()) == 6 * 48, "six digits a line, and no other digit in this text"
    for arm in (*REFERENCES, *TYPED, *VARIANTS):
        lesson = bench.lesson(arm, rows, teacher, evidence)
        assert lesson.teacher is not None
        assert float(lesson.hard.max()) == 0, "no label is read"
        if arm in ("kd", "control"):
            continue
        assert torch.equal(lesson.teacher[~private], kd.teacher[~private])
        assert float(lesson.soft[private].max()) == (0 if arm == "redaction" else 1)
        if arm in TYPED or arm in VARIANTS:
            mass = lesson.teacher[private].softmax(-1)[:, bench.alphabet].sum(-1)
            assert torch.allclose(mass, torch.ones_like(mass), atol=1e-5), "all of it on the type"


def test_the_evidence_asks_the_right_positions(bench: CommonBench, teacher: Any, evidence: Evidence) -> None:
    planted = [line for line in bench.lines("fresh") if line.start >= 0]
    row = bench.rows([planted[3]])
    with torch.no_grad():
        logits = teacher("private")(row.tokens[:, :-1]).logits[0]
    first = planted[3].text.index(": ") + 2
    expected = torch.log_softmax(logits[first][bench.alphabet], dim=-1)
    assert torch.allclose(evidence.own[3, 0], expected, atol=1e-5)
    assert not bool(evidence.met.all(dim=0).any())
    assert bool(evidence.met.any(dim=0).all()), "everybody is in a fold"
    towns = [line.town for line in planted]
    one, other = towns.index(0), len(towns) - 1 - towns[::-1].index(0)
    assert torch.equal(evidence.noise[one], evidence.noise[other]), "one cell of the table has one draw"


def test_the_audit_of_a_uniform_model_is_chance(bench: CommonBench) -> None:
    found = bench.audit(Uniform(bench.fresh_model(SMALL.student, "student")).model)
    assert found["nll_common"] == pytest.approx(math.log(bench.tokens.vocabulary), abs=0.05)
    assert len(found["canaries"]) == 9
    for c in found["canaries"]:
        assert c["bits"] == 0 or c["tied"] > 0 or 0 <= c["bits"] <= 13.3
        assert abs(c["code_bits"]) < 0.2


class Uniform:
    """A model whose logits are all but equal."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1e-3)


def test_calibration_is_the_weighted_gap_of_its_bins() -> None:
    shown = np.array([[0.9, 0.5, 1.0], [0.92, 0.7, 3.0], [0.15, 0.15, 4.0]])
    error, bins = calibration(shown)
    high = [(0.9 + 3 * 0.92) / 4, (0.5 + 3 * 0.7) / 4]
    assert error == pytest.approx(0.5 * abs(high[0] - high[1]))
    assert bins[0] == pytest.approx([0.15, 0.15, 0.5])
    assert bins[1] == pytest.approx([*high, 0.5])


def planted(arm: str, seed: int, extra: float, nll: float) -> dict[str, Any]:
    noise = np.random.default_rng([seed, *arm.encode()]).normal(0, 0.05, 40)
    canaries = [
        {"id": i, "copies": (0, 1, 4, 64)[i % 4], "bits": 1.5 + (extra if i % 4 > 1 else 0) + noise[i], "code_bits": 0.0}
        for i in range(40)
    ]
    return {"seed": seed, "arm": arm, "canaries": canaries, "nll_common": nll + noise[0] / 5, "nll_rare": 2.3, "ece": 0.05,
            "perplexity": 14.0, "reliability": [[0.3, 0.3, 1.0]]}  # fmt: skip


def test_a_leaking_setting_is_not_eligible_and_the_best_of_a_family_goes_on() -> None:
    levels = {
        "control": (0.0, 1.5),
        "names": (2.0, 1.4),
        "consensus": (0.1, 1.9),
        "cross_fit": (0.2, 1.8),
        "counted-1": (0.0, 2.0),
    }
    found = results.choose([planted(a, s, x, nll) for s in results.CHOICE for a, (x, nll) in levels.items()])
    assert found["chosen"] == ["cross_fit", "counted-1"], "names has the lowest NLL and leaks two bits"
    assert {r["arm"] for r in found["settings"] if not r["eligible"]} == {"names"}


@pytest.mark.parametrize(("extra", "nll", "wins"), [(0.0, 1.8, True), (0.6, 1.8, False), (0.0, 2.15, False)])
def test_only_what_hides_and_knows_more_is_confirmed(extra: float, nll: float, wins: bool) -> None:
    levels = {"control": (0.0, 1.5), "typed_prior": (0.0, 2.13), "typed_place": (0.0, 2.1), "public": (0.0, 2.3)}
    levels["cross_fit"] = (extra, nll)
    students = [planted(a, s, x, n) for s in results.CONFIRMATION for a, (x, n) in levels.items()]
    found = results.confirm(students, ["cross_fit"])
    assert (found["beats"] == ["cross_fit"]) is wins
    assert found["recommended"] == ("cross_fit" if wins else "")
    assert len(found["tests"]) == 5
    shown = results.rows(students)
    assert {r["arm"] for r in shown} == set(levels)
    assert next(r for r in shown if r["arm"] == "cross_fit")["repeated"][0] == pytest.approx(extra, abs=0.05)
