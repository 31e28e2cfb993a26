"""Rows that are no ROC: the family of decisions, labels, links, exposure, and reconstructions that may be absent."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fedkd import channel_extras
from fedkd.channel_extras import (
    Family,
    exposure_rows,
    label_rows,
    link_rows,
    link_series,
    mean_of_exponentials,
    reconstructions,
)
from fedkd.channel_links import Link, RowLink
from fedkd.errors import ConfigError
from fedkd.verdict import LEAK, MEASURED, NO_LEAK, Row
from tests.toy import toy_setting

FAMILY = Family(0.95, 10, 0, 4)
CLASSES = 10


def evidence(mass: dict[str, np.ndarray], labels: list[np.ndarray], **more: Any) -> Any:
    """What ``Evidence`` holds of clients with these labels and this evidence [clients, C] per channel."""
    clients = [SimpleNamespace(train=SimpleNamespace(y=y)) for y in labels]
    run = SimpleNamespace(data=SimpleNamespace(num_clients=len(labels), client=lambda c: clients[c]))
    held = {channel: dict(enumerate(m)) for channel, m in mass.items()}
    setting = toy_setting("fedd2s", "")
    fields = {"mass": held, "run": run, "links": [], "row_links": [], "setting": setting, **more}
    return SimpleNamespace(**{**fields, "setting": SimpleNamespace(classes=CLASSES, mechanisms=setting.mechanisms,
                                                                   mechanism=setting.mechanism)})  # fmt: skip


def world(seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    stream = np.random.default_rng(seed)
    labels = [stream.choice(CLASSES, 60, p=stream.dirichlet(np.full(CLASSES, 0.3))) for _ in range(15)]
    return labels, np.stack([np.bincount(y, minlength=CLASSES) for y in labels])


def test_each_decision_gets_its_share_of_the_error() -> None:
    assert FAMILY.strict == pytest.approx(0.995)
    assert FAMILY.deviations == pytest.approx(stats.norm.ppf(0.9975))


def test_labels_are_disclosed_by_their_counts_and_not_by_noise() -> None:
    labels, counts = world(0)
    noise = np.random.default_rng(1).dirichlet(np.ones(CLASSES), size=15)
    found = label_rows(evidence({"labels up": counts.astype(float), "weights up": noise}, labels), FAMILY)
    gain = {r.view: r for r in found.rows if r.statistic == "label_gain"}
    assert gain["labels up"].status == LEAK
    truth = counts / 60
    others = (counts.sum(0) - counts) / (counts.sum(0) - counts).sum(1, keepdims=True)
    assert gain["labels up"].value == pytest.approx(0.5 * np.abs(truth - others).sum(1).mean())
    assert gain["weights up"].status == NO_LEAK
    assert gain["weights up"].detectable > 0
    assert [v["text"][:4] for v in found.verdicts] == ["leak", "no l"]
    assert {c["name"] for c in found.controls} == {"swapped_messages"}


def test_links_are_decided_on_the_last_two_rounds() -> None:
    stream = np.random.default_rng(2)
    links = [Link("weights up", 1, stream.normal(size=(12, 12))), Link("weights up", 2, 1.0 - np.eye(12))]
    rows = [RowLink(1, c, 1.0, 50) for c in range(12)] + [RowLink(2, c, 40.0 + c % 3, 50) for c in range(12)]
    found = link_rows(evidence({}, [], links=links, row_links=rows), FAMILY)
    client, row = found.rows
    assert (client.statistic, client.value, client.status) == ("linked_top1", 1.0, LEAK)
    assert "rounds 2 and 3 of the run" in client.reason
    assert (row.statistic, row.status) == ("linked_rows_top1", LEAK)
    assert row.value == pytest.approx(41 / 50)
    assert "linked by name" in row.reason
    by_round = link_series(SimpleNamespace(links=links))[0]
    assert [p["round"] for p in by_round["points"]] == [1, 2]
    assert by_round["chance"] == pytest.approx(1 / 12)


def test_rows_that_cannot_be_linked_are_no_leak() -> None:
    stream = np.random.default_rng(3)
    rows = [RowLink(1, c, float(stream.poisson(1.0)), 50) for c in range(20)]
    (row,) = link_rows(evidence({}, [], row_links=rows), FAMILY).rows
    assert row.status == NO_LEAK
    assert 1 / 50 < row.detectable < 0.1


def test_exposure_is_judged_by_holm_over_the_views() -> None:
    def record(view: str, p: float) -> dict[str, Any]:
        return {"view": view, "strings": 9, "mean_bits": 5.0, "low": 4.0, "high": 6.0, "p": p, "labels_sent": None}

    found = exposure_rows([record("released", 0.01), record("own model", 0.03), record("other models", 0.9)], "model")
    p = {r.view + r.target_group: r for r in found.rows if r.statistic == "exposure_p_r1"}
    assert p["soft labels uplabel canaries"].value == pytest.approx(0.03)
    assert p["personal modelslabel canaries"].value == pytest.approx(0.06)
    assert {r.status for r in p.values()} == {MEASURED}
    mean = [r for r in found.rows if r.statistic == "exposure_mean_bits"]
    assert [r.status for r in mean] == [LEAK, NO_LEAK, NO_LEAK]
    assert (mean[0].low, mean[0].high) == (4.0, 6.0)
    below = exposure_rows([{**record("released", 0.01), "low": 1.4}], "model").rows[0]
    assert below.status == NO_LEAK, "the sentence and the interval that it prints agree"


def test_exposures_without_a_leak_are_exponential_and_the_size_is_found_with_four_fifths() -> None:
    """3,000 null worlds of 9 strings: the interval's lower end is above 1/ln 2 in 2.5 %; at the size stated in 80 %."""
    stream, n = np.random.default_rng(0), 9
    null = stream.exponential(1 / np.log(2), size=(3000, n)).mean(axis=1)
    above = [mean_of_exponentials(m, n)[0] > 1 / np.log(2) for m in null]
    assert np.mean(above) == pytest.approx(0.025, abs=0.012)
    one = {"view": "released", "strings": n, "mean_bits": 1.0, "low": 0.5, "high": 2.0, "p": 0.5, "labels_sent": None}
    size = exposure_rows([one], "model").rows[0].detectable
    shifted = null * size * np.log(2)
    assert np.mean([mean_of_exponentials(m, n)[0] > 1.4427 for m in shifted]) == pytest.approx(0.8, abs=0.03)


def test_reconstructions_are_left_out_where_they_are_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row("t", "inversion", "m", "cut 1", "record", "features up", "gain", 0.1, 0.0, 0.2, 0.95, 9, 0, "none", 0.2, 1,
              NO_LEAK, "")  # fmt: skip
    run = SimpleNamespace(folder=tmp_path)
    answer = ([{"cut": 1}], [row], {"cut1_true": 1})
    module = SimpleNamespace(Config=lambda **options: options, audit_features=lambda *a: answer)
    monkeypatch.setitem(sys.modules, "fedkd.reconstruct", module)
    monkeypatch.setattr(channel_extras.importlib.util, "find_spec", lambda name: object())
    found, pairs = reconstructions(run, tmp_path, 0, 5)
    assert (found.records, found.rows, pairs) == ([{"cut": 1}], [row], {"cut1_true": 1})
    assert found.verdicts[0]["text"] == "no leak shown at detectable size gain 0.2"

    def refuses(*arguments: Any) -> Any:
        raise ConfigError("no pictures")

    module.audit_features = refuses
    assert reconstructions(run, tmp_path, 0, 5)[0].not_run == [{"attack": "feature inversion", "reason": "no pictures"}]
    monkeypatch.setattr(channel_extras.importlib.util, "find_spec", lambda name: None)
    assert "not in this version" in reconstructions(run, tmp_path, 0, 5)[0].not_run[0]["reason"]
