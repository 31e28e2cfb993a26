"""Brackets where a run states an epsilon and nowhere else; ledgers held against messages, and tampering caught."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedkd.channel_dp import Conformance, bracket_records, bracket_rows, brackets
from fedkd.channel_messages import replay
from fedkd.finished import Finished
from tests.audited_runs import opened

NOISY = {"method_name": "fedavg", "metrics": "home", "mechanism_name": "dpsgd", "num_clients": 3, "num_server_rounds": 2,
         "mechanism_args": "clip = 1.0, noise_multiplier = 2.0", "model_args": "hidden = [16]", "local_epochs": 1}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return opened(tmp_path_factory.mktemp("dpsgd"), **NOISY)


def conformance(run: Finished) -> dict[str, dict[str, str]]:
    found = Conformance(run)
    for r in replay(run):
        found.read(r)
    return {r["what"]: r for r in found.records()}


def rewritten(file: Path, change) -> str:
    """Change the objects of a .jsonl; returns its text as it was."""
    before = file.read_text()
    lines = [json.loads(line) for line in before.splitlines() if line]
    change(lines)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return before


def test_noisy_steps_conform_and_a_wrong_charge_does_not(run: Finished) -> None:
    """All three clients in both rounds, with secrets from the operating system."""
    (record,) = conformance(run).values()
    assert record["status"] == "conforms"
    assert record["detail"] == "6 participations conform, 0 do not"
    ledger = run.store.folder / "1" / "ledger.jsonl"
    before = rewritten(ledger, lambda lines: lines[1]["events"][0].update(rate=0.01))
    (record,) = conformance(run).values()
    ledger.write_text(before)
    assert record["status"] == "violated"
    assert "round 2, client 1" in record["detail"]
    trace = run.store.folder / "2" / "trace.jsonl"
    before = rewritten(trace, lambda lines: lines.pop(0))
    (record,) = conformance(run).values()
    trace.write_text(before)
    assert "without a charge or a trace" in record["detail"]


def test_what_cannot_be_repeated_is_counted_and_not_called_conforming(run: Finished) -> None:
    secret = run.store.folder / "0" / "secret"
    content = secret.read_bytes()
    secret.unlink()
    (record,) = conformance(run).values()
    secret.write_bytes(content)
    assert record["detail"] == "4 participations conform, 0 do not, 2 cannot be repeated from what is on disk"
    assert not list(run.store.folder.glob("*/.secret*"))


def test_a_bracket_is_about_the_client_with_the_largest_claim(run: Finished) -> None:
    found, left = brackets(run, 200, 100, 0)
    assert left == []
    (bracket,) = found
    privacy = json.loads((run.folder / "summary.json").read_text())["privacy"]["statements"][0]
    assert bracket.claimed == pytest.approx(privacy["epsilon"], rel=1e-6)
    assert not bracket.violated
    assert brackets(run, 200, 100, 0)[0] == found, "the same for the same run and seed"
    (record,) = bracket_records(found)
    assert record["line"] == bracket.line
    lower, claimed = bracket_rows(found, "model")
    assert (lower.statistic, lower.value, lower.unit) == ("epsilon_lower", bracket.lower.epsilon, "example")
    assert (claimed.statistic, claimed.value, claimed.unit) == ("claimed_epsilon", bracket.claimed, "example")


def test_a_run_without_an_epsilon_has_no_bracket(tmp_path: Path) -> None:
    run = opened(tmp_path, num_server_rounds=1, num_clients=3)
    why = "the run states no epsilon, so there is none to bracket"
    assert brackets(run, 100, 50, 0) == ([], [{"attack": "lower bound on epsilon", "reason": why}])
    assert conformance(run) == {}


def test_noised_rows_have_their_entry_in_the_ledger(tmp_path: Path) -> None:
    args = 'average = false, schedule = "none", upload_labels = "none", server_ce = false'
    run = opened(tmp_path, num_clients=3, num_server_rounds=2, metrics="home", method_args=args, mechanism_name="clip_noise")
    record = conformance(run)["clip_noise: messages are in the ledger"]
    assert record["detail"] == "6 participations conform, 0 do not"
    _, left = brackets(run, 100, 50, 0)
    assert [r["attack"] for r in left] == ["lower bound on epsilon: clip_noise"]
    ledger = run.store.folder / "1" / "ledger.jsonl"
    rewritten(ledger, lambda lines: lines.pop(0))
    record = conformance(run)["clip_noise: messages are in the ledger"]
    assert record["status"] == "violated"
    assert "round 1, client 1: a message without an entry in the ledger" in record["detail"]


def test_differences_above_their_bound_are_said(tmp_path: Path) -> None:
    args = "clip = 0.5, noise_multiplier = 1.0, delta = 1e-3"
    run = opened(tmp_path, num_clients=3, num_server_rounds=2, method_name="fedavg", metrics="home",
                 mechanism_name="user_clip_noise", mechanism_args=args)  # fmt: skip
    found = conformance(run)
    assert {r["detail"] for r in found.values()} == {"6 participations conform, 0 do not"}
    first = next(iter(replay(run)))
    grown = {n: 3 * v for n, v in first.up[2].kinds["weights"].items()}
    first.up[2].kinds["weights"] = grown
    checked = Conformance(run)
    checked.read(first)
    bad = {r["what"]: r for r in checked.records()}
    assert bad["user_clip_noise: differences are clipped"]["status"] == "violated"
    assert bad["user_clip_noise: messages are in the ledger"]["status"] == "violated"
