"""What a run may state: composition over all channels, from the ledgers; one un-noised channel prints no epsilon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedkd import epsilon, guarantees, plugins
from fedkd.epsilon import Event
from fedkd.verdict import banned_in
from server import round as rounds
from tests.small_runs import final_hash, lines, resume, run, small, summary
from tests.toy import refusal, toy_setting

ROOT = Path(__file__).resolve().parents[1]
SEEDED = "insecure_seeded_noise = true"


def keys(mechanism: str, args: str = SEEDED, **more: Any) -> dict[str, Any]:
    return {"mechanism_name": mechanism, "mechanism_args": args, "metrics": "home", **more}


def ledgers(output: Path) -> dict[str, list[dict[str, Any]]]:
    found = sorted((output / "state").rglob("ledger.jsonl"))
    return {p.parent.name: [json.loads(line) for line in p.read_text().splitlines()] for p in found}


def test_the_page_holds_the_table_and_every_mechanism_has_a_row() -> None:
    assert guarantees.markdown() in (ROOT / "docs" / "guarantees.md").read_text()
    assert set(plugins.available("mechanisms")) <= {r.mechanism for r in guarantees.TABLE}


@pytest.mark.parametrize(
    ("mechanism", "method", "args"),
    [
        ("none", "fedavg", ""),
        ("pool", "fedd2s", ""),
        ("permute", "fedd2s", ""),
        ("dpsgd", "fedavg", "noise_multiplier = 0.0"),
        ("user_clip_noise", "fedavg", "noise_multiplier = 0.0"),
        ("dpsgd", "fedd2s", 'pass_through = ["features", "ids", "labels", "soft_labels"]'),
        ("clip_noise", "fedd2s", 'pass_through = ["labels", "weights"]'),
    ],
)
def test_one_open_channel_states_nothing(mechanism: str, method: str, args: str) -> None:
    setting = toy_setting(method, mechanism_name=mechanism, mechanism_args=args, metrics="home")
    said, found = guarantees.privacy(setting, {0: []}, [])
    assert found is None and said.startswith("No guarantee: ") and "\n" not in said and "epsilon" not in said


def test_metrics_are_a_channel() -> None:
    setting = toy_setting("fedavg", mechanism_name="dpsgd")
    said, found = guarantees.privacy(setting, {0: []}, [])
    assert found is None
    assert said == 'No guarantee: scores of each client leave without accounted noise (metrics = "home" keeps them at home).'


def test_different_units_never_add_up() -> None:
    """DP-SGD on weights is add/remove, noised rows are replace: together they cover all, and state nothing."""
    args = 'dpsgd = {pass_through = ["features", "ids", "soft_labels"]}, clip_noise = {pass_through = ["weights"]}'
    method = 'upload_labels = "none", server_ce = false'
    setting = toy_setting("fedd2s", method, mechanisms_names="dpsgd,clip_noise", mechanisms_args=args, metrics="home")
    said, found = guarantees.privacy(setting, {0: []}, [])
    assert found is None and "do not add up" in said


@pytest.mark.parametrize("kind", ["features", "class_means"])
def test_a_mechanism_refuses_what_it_cannot_bound(kind: str) -> None:
    for name in ("dpsgd", "user_clip_noise"):
        said = refusal(lambda name=name: toy_setting("fedd2s", f'knowledge = "{kind}"', mechanism_name=name))
        assert f"{name} cannot bound what else is sent; valid: pass_through = " in said and kind in said


@pytest.mark.parametrize(("mechanism", "unit"), [("dpsgd", "example, add/remove"), ("user_clip_noise", "user, add/remove")])
def test_a_covered_run_states_epsilon_with_everything_beside_it(mechanism: str, unit: str, tmp_path: Path) -> None:
    folder = run(small(tmp_path, report=True, **keys(mechanism)))
    said = summary(folder)
    (statement,) = said["privacy"]["statements"]
    assert f"Unit: {unit}" in said["guarantee"] and guarantees.SEED_KNOWN in said["guarantee"]
    beside = {"delta", "adversary", "sensitivity", "sampling", "noise_multiplier", "clip", "releases_max", "accountant"}
    assert beside <= set(statement)
    own = {c: [epsilon.from_json(e) for x in v for e in x["events"]] for c, v in ledgers(tmp_path).items() if c != "server"}
    for client, events in own.items():
        assert statement["epsilon_by_client"][client] == pytest.approx(epsilon.pld(events, 1e-5), abs=1e-6)
    page = (folder / "report.html").read_text()
    assert said["guarantee"].split(" (PLD")[0].replace("<=", "&lt;=") in page and banned_in(page) == []


def test_no_message_holds_a_score_and_the_tables_do(tmp_path: Path) -> None:
    experiment = small(tmp_path, metrics="home")
    seen: list[set[str]] = []
    real = rounds.Round.receive

    def spy(self: rounds.Round, replies: Any) -> None:
        seen.extend(set(v) for r in replies for k, v in r.content.items() if k.startswith("metrics."))
        real(self, replies)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds.Round, "receive", spy)
        folder = run(experiment)
    assert seen and set().union(*seen) == {"num-examples"}
    assert all(row["accuracy"] is not None and row["num_train"] > 1 for row in lines(folder, "clients"))


def test_a_budget_stops_a_client_before_it_is_exceeded(tmp_path: Path) -> None:
    """Three rounds of z = 2 would cost more than two do: the budget lies between, so the third is not taken."""
    two, three = (epsilon.rdp([Event(2.0, times=n)], 1e-5) for n in (2, 3))
    args = f"noise_multiplier = 2.0, budget = {(two + three) / 2}, {SEEDED}"
    folder = run(small(tmp_path, **keys("user_clip_noise", args)))
    rows = lines(folder, "clients")
    assert [row.get("spent", False) for row in rows if row["client"] == 0] == [False, False, True]
    (statement,) = summary(folder)["privacy"]["statements"]
    assert statement["epsilon_rdp"] == pytest.approx(two) and statement["releases_max"] == 2
    assert {len(v) for c, v in ledgers(tmp_path).items() if c != "server"} == {2}


@pytest.mark.parametrize("mechanism", ["dpsgd", "user_clip_noise"])
def test_killed_and_resumed_spends_no_less_and_the_same_where_bytes_are(mechanism: str, tmp_path: Path) -> None:
    """Secret noise keyed by its inputs: a round sent twice from the same state is the same bytes, one charge each."""

    def experiment(where: str) -> Any:
        return small(tmp_path / where, **keys(mechanism, ""))

    whole = run(experiment("whole"))

    def stop(row: dict[str, Any]) -> None:
        raise OSError("the power went")

    from server import strategy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strategy, "write_commit", lambda *_: stop({}))  # after the sends, before the commit
        with pytest.raises(OSError, match="power"):
            run(experiment("cut"))
    folder = resume(experiment("cut"))
    spent = [summary(f)["privacy"]["statements"][0] for f in (whole, folder)]
    assert spent[1]["epsilon"] >= spent[0]["epsilon"]
    assert spent[1]["releases_max"] == spent[0]["releases_max"], "round 0 was re-sent byte for byte"
    assert all(e["attempt"] == 0 for entries in ledgers(tmp_path / "cut").values() for e in entries)


KILLED = """
import sys
from pathlib import Path
from tests.small_runs import run, small
keys = dict(method_name="fedd2s", method_args='knowledge = "heads"', metrics="home", mechanism_name=sys.argv[2])
run(small(Path(sys.argv[1]), **keys))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mechanism", "point"),
    [("user_clip_noise", "client-written"), ("user_clip_noise", "server-before-rename"), ("dpsgd", "client-written")],
)
def test_a_process_killed_between_send_and_commit_has_spent_no_less(mechanism: str, point: str, tmp_path: Path) -> None:
    """SIGKILL in round 1, secret noise, then resume: equal only where every ledger holds one attempt a round."""
    heads = {"method_name": "fedd2s", "method_args": 'knowledge = "heads"'}
    whole = summary(run(small(tmp_path / "whole", **keys(mechanism, "", **heads))))["privacy"]["statements"][0]
    command = [sys.executable, "-c", KILLED, str(tmp_path / "cut"), mechanism]
    environment = {**os.environ, "FEDKD_FAULT": f"{point}:1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    folder = resume(small(tmp_path / "cut", **keys(mechanism, "", **heads)))
    found = summary(folder)["privacy"]["statements"][0]
    assert found["epsilon"] >= whole["epsilon"] > 0
    again = any(e["attempt"] for entries in ledgers(tmp_path / "cut").values() for e in entries)
    assert (found["epsilon"] == whole["epsilon"]) != again


def test_one_open_channel_prints_no_epsilon_anywhere(tmp_path: Path) -> None:
    """The noise is there, but each client's scores travel: summary, report and lines of the run name no epsilon."""
    folder = run(small(tmp_path, report=True, mechanism_name="user_clip_noise", mechanism_args=SEEDED))
    said = summary(folder)
    assert said["privacy"] is None and said["guarantee"].startswith("No guarantee: ")
    for name in ("summary.json", "rounds.jsonl", "clients.jsonl", "report.html"):
        assert "epsilon" not in (folder / name).read_text().lower(), name


def test_a_kill_between_send_and_commit_with_a_changed_cohort_raises_the_count(tmp_path: Path) -> None:
    """The first sum of round 0 had three clients, the second two: two releases, and all who were in both pay for both."""
    experiment = small(tmp_path, on_failure="skip", min_replies=0.1, max_failures=9, **keys("user_clip_noise", ""))

    def stop(*_: Any) -> None:
        raise OSError("the power went")

    from server import strategy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strategy, "write_commit", stop)
        with pytest.raises(OSError, match="power"):
            run(experiment)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDKD_FAULT", "raise:0:2")
        folder = resume(experiment)
    (statement,) = summary(folder)["privacy"]["statements"]
    assert statement["releases_max"] == 4
    assert [e["attempt"] for e in ledgers(tmp_path)["server"]] == [0, 1, 0, 0]
    assert statement["epsilon"] == pytest.approx(epsilon.pld([Event(1.0, times=4)], 1e-5))


def test_other_inputs_of_the_same_round_are_another_charge(tmp_path: Path) -> None:
    from fedkd import outgoing
    from fedkd.vault import Vault
    from tests.toy import toy_clients

    setting, data, vault = toy_setting("fedavg", mechanism_name="dpsgd"), toy_clients()[0], Vault(tmp_path)
    for scale in (1.0, 1.0, 2.0):
        kinds = {"weights": {n: scale * v for n, v in setting.initial().items()}}
        outgoing.upload(setting, 0, data, {}, {}, kinds, vault)
    assert [e["attempt"] for e in vault.entries()] == [0, 1]


def test_metrics_at_home_weigh_every_client_the_same_so_another_model_comes_out(tmp_path: Path) -> None:
    assert final_hash(run(small(tmp_path / "a"))) != final_hash(run(small(tmp_path / "b", metrics="home")))
