"""The audit of a run: planted leaks are caught, shuffled membership is chance, and what is not there is not tested."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd import channel_audit
from fedkd.channel_attacks import Scored, scored
from fedkd.channel_audit import Config, audit, headline
from fedkd.channel_table import NO_MODEL
from fedkd.verdict import STATUSES, banned_in, row_from
from tests.audited_runs import recorded
from tests.test_channel_attacks import N, world
from tests.test_channel_series import candidates
from tests.toy import refusal

QUICK = Config(permutations=50, canaries=100, guesses=50)
PARTS = ("schema", "kind", "run", "config", "comparisons", "channels", "rows", "verdicts", "controls", "series", "curves",
         "exposure", "brackets", "inversion", "conformance", "utility", "not_run")  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return recorded(tmp_path_factory.mktemp("features"), audit_canaries=24)


@pytest.fixture(scope="module")
def features(place: tuple[Path, Path]) -> dict[str, Any]:
    return audit(*place, QUICK)


def rows(result: dict[str, Any], channel: str, statistic: str = "auc") -> dict[str, dict[str, Any]]:
    """Attack -> its row over all candidates."""
    return {r["attack"]: r for r in result["rows"]
            if (r["view"], r["statistic"], r["target_group"]) == (channel, statistic, "all")}  # fmt: skip


def said(result: dict[str, Any], channel: str) -> str:
    """The verdict on examples of a channel."""
    (text,) = [v["text"] for v in result["verdicts"] if v["threat_model"] == channel_audit.THREATS[channel]]
    return text


def test_uploaded_rows_betray_their_examples(features: dict[str, Any]) -> None:
    """A planted leak as gross as can be: a member's feature row itself is what was uploaded."""
    own = rows(features, "features up")["nearest_feature"]
    assert own["status"] == "leak shown"
    assert own["low"] > 0.9
    assert said(features, "features up").startswith("leak shown: ")
    control = next(c for c in features["controls"] if c["name"] == "another_client" and "features up" in c["detail"])
    low, high = (float(v) for v in control["detail"].split("[")[1].split("]")[0].split(", "))
    assert low < 0.5 < high


def test_the_result_is_complete_plain_and_well_worded(features: dict[str, Any], place: tuple[Path, Path]) -> None:
    assert set(features) == set(PARTS)
    assert features["kind"] == "run_audit"
    text = json.dumps({**features, "run": {**features["run"], "command": ""}}, allow_nan=False)
    assert not banned_in(text)
    assert str(place[0].parent) not in text, "no path of this machine but in the command"
    channels = {c["channel"] for c in features["channels"]}
    assert channels >= {"features up", "soft labels up", "labels up", "ids up", "weights up", "weights down", "personal models"}
    for record in features["rows"]:
        row = row_from(record)
        assert row.view in channels
        assert row.status in STATUSES
    assert features["comparisons"] == features["rows"][0]["attacks_tried"] * 4 + len(rows_of_other_kinds(features))
    heads = ("leak shown: ", "no leak shown at detectable size ", "not tested: ")
    assert all(v["text"].startswith(heads) for v in features["verdicts"])
    labels = [v for v in features["verdicts"] if "(labels up)" in v["threat_model"]]
    assert labels[0]["text"].startswith("leak shown: label_gain")
    assert {r["view"] for r in features["exposure"]} <= {"released", "returned", "own model", "other models"}


def rows_of_other_kinds(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [r for r in result["rows"] if r["statistic"] in ("label_gain", "linked_top1", "linked_rows_top1")]


def test_rates_are_given_only_where_there_are_enough_strangers(features: dict[str, Any]) -> None:
    for row in rows(features, "features up", "tpr_at_fpr_0.001").values():
        assert (row["status"], row["value"]) == ("not tested", None)
        assert "n/a (too few non-members)" in row["reason"]


def test_leaks_are_followed_over_the_rounds_in_which_a_channel_is_open(features: dict[str, Any]) -> None:
    table = {c["channel"]: c for c in features["channels"]}
    series = {(s["channel"], s["attack"]): s for s in features["series"]}
    first, last = table["features up"]["rounds"]
    points = series["features up", "nearest_feature"]["points"]
    assert [p["round"] for p in points] == list(range(first, last + 1))
    assert min(p["value"] for p in points) > 0.9
    assert [p["round"] for p in series["personal models", "loss"]["points"]] == [features["run"]["rounds"]]
    assert set(features["curves"]) == {f"{c} | {a}" for c, a in series if a != "linkage"}


def test_an_audit_repeats_bit_for_bit(features: dict[str, Any], place: tuple[Path, Path]) -> None:
    assert json.dumps(audit(*place, QUICK), sort_keys=True) == json.dumps(features, sort_keys=True)


def test_shuffled_membership_is_chance(place: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real = channel_audit.draw

    def shuffled(*arguments: Any) -> Any:
        found = real(*arguments)
        return replace(found, member=np.random.default_rng(1).permutation(found.member))

    monkeypatch.setattr(channel_audit, "draw", shuffled)
    result = audit(*place, QUICK)
    aucs = [r for r in result["rows"] if r["statistic"] == "auc" and r["target_group"] == "all"]
    assert len(aucs) >= 12
    assert {r["status"] for r in aucs} == {"no leak shown"}


@pytest.mark.slow
def test_heads_with_noise_on_the_mean_have_no_rows_of_examples(tmp_path: Path) -> None:
    noise = "clip = 0.5, noise_multiplier = 1.0, delta = 1e-3, insecure_seeded_noise = true"
    place = recorded(tmp_path, method_args='knowledge = "heads"', metrics="home", mechanism_name="user_clip_noise",
                     mechanism_args=noise)  # fmt: skip
    result = audit(*place, QUICK)
    assert not {c["channel"] for c in result["channels"]} & {"features up", "soft labels up", "labels up", "ids up"}
    rows = [r for r in result["rows"] if r["view"] in ("features up", "soft labels up")]
    assert {(r["attack"], r["status"], r["value"]) for r in rows} == {("inversion", "not tested", None)}, "said, not measured"
    reasons = {r["attack"]: r["reason"] for r in result["not_run"]}
    assert reasons["features up | nearest_feature"] == "no features travel up in this run"
    covered = {c["channel"]: c["covered"] for c in result["channels"]}
    assert {n for n, c in covered.items() if c} == {"heads down", "weights down"}
    assert {n for n, c in covered.items() if not c} == {"heads up", "weights up", "personal models"}
    assert said(result, "heads up")
    (bracket,) = result["brackets"]
    assert bracket["lower"]["epsilon"] <= bracket["claimed"]
    assert {r["status"] for r in result["conformance"]} == {"conforms"}


@pytest.mark.slow
def test_an_overfitted_model_betrays_its_examples_and_a_fresh_one_does_not(tmp_path: Path) -> None:
    """Local training for 80 epochs on some 50 examples each, against steps too small to move anything."""
    changes = {"method_name": "local", "num_clients": 3, "num_server_rounds": 2, "model_args": "hidden = [64]",
               "audit_canaries": 0, "max_samples": 400}  # fmt: skip
    trained = audit(*recorded(tmp_path / "a", local_epochs=40, **changes), QUICK)
    fresh = audit(*recorded(tmp_path / "b", local_epochs=1, learning_rate=1e-9, **changes), QUICK)
    assert rows(trained, "personal models")["loss"]["status"] == "leak shown"
    assert said(trained, "personal models").startswith("leak shown: ")
    assert {r["status"] for r in rows(fresh, "personal models").values()} == {"no leak shown"}
    assert [c["channel"] for c in trained["channels"]] == ["personal models"]


def test_soft_labels_without_blocks_are_not_tested_and_say_why(tmp_path: Path) -> None:
    place = recorded(tmp_path, num_clients=3, method_args='average = false, schedule = "none"')
    result = audit(*place, QUICK)
    assert said(result, "features up") == f"not tested: {NO_MODEL}"
    assert any("features up" in v["threat_model"] and "linked_top1" in v["text"] for v in result["verdicts"])


def test_runs_that_cannot_be_audited_are_refused(tmp_path: Path) -> None:
    place = recorded(tmp_path / "a", audit_holdout=0.0, num_server_rounds=1)
    assert "audit.holdout = 0.5" in refusal(lambda: audit(*place))
    place = recorded(tmp_path / "b", record="", num_server_rounds=1)
    assert 'record = "messages"' in refusal(lambda: audit(*place))


@pytest.mark.parametrize("changes", [{"candidates": 1}, {"references": 1}, {"level": 1.0}, {"exposure_length": 0}])
def test_options_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    assert next(iter(changes)) in refusal(lambda: Config(**changes))


def test_the_headline_is_chosen_on_the_calibration_half_alone() -> None:
    """The best attack of the evaluation half loses against the best of the calibration half."""
    from fedkd import rng
    from fedkd.metrics import halves

    values, member, client = world(0.0)
    one = scored(values, client)[0]
    half = halves(member, rng.experiment(0, "audit halves all")).calibration
    tuned = np.where(half, member, ~member).astype(float)
    other: Scored = replace(one, total=1.0 - tuned)
    best: Scored = replace(one, total=tuned)
    assert headline([other, best], candidates(member, client), 0) is best
    assert len(tuned) == N
