"""The figures of a finished run: mean over the last three scored rounds; a client that is absent keeps its score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedkd.config import Experiment
from server.summary import client_scores, read_lines, summarize


def row(round: int, client: int, accuracy: float | None, **more: Any) -> dict[str, Any]:
    return {"round": round, "client": client, "accuracy": accuracy, "seconds": 0.1, **more}


def test_the_score_is_the_mean_over_the_last_three_scored_rounds() -> None:
    rows = [row(t, 0, a) for t, a in enumerate([0.0, 0.2, 0.4, 0.6])]
    assert client_scores(rows) == {0: pytest.approx((0.2 + 0.4 + 0.6) / 3)}
    assert client_scores(rows[:1]) == {0: 0.0}
    assert client_scores([]) == {}


def test_an_absent_client_keeps_its_last_score() -> None:
    rows = [row(0, 0, 0.9), row(0, 1, 0.1), row(1, 1, 0.2), row(2, 1, 0.3), row(3, 1, 0.4)]
    # client 0 was scored in round 0 only: 0.9 in each of the last three rounds
    assert client_scores(rows) == {0: pytest.approx(0.9), 1: pytest.approx(0.3)}


def test_a_client_that_comes_late_counts_with_what_it_has() -> None:
    rows = [row(0, 0, 0.5), row(1, 0, 0.5), row(2, 0, 0.5), row(2, 1, 0.8)]
    assert client_scores(rows) == {0: pytest.approx(0.5), 1: pytest.approx(0.8)}


def test_rounds_without_a_score_do_not_count() -> None:
    rows = [row(0, 0, 0.3), row(1, 0, 0.6), row(2, 0, 0.9), row(3, 0, None), row(4, 0, None)]
    assert client_scores(rows) == {0: pytest.approx(0.6)}


def test_the_order_of_rows_does_not_matter() -> None:
    rows = [row(t, c, (t + 1) / (c + 9)) for t in range(5) for c in range(3)]
    assert client_scores(rows[::-1]) == client_scores(rows)


def test_read_lines_of_a_missing_file_is_empty(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "none.jsonl") == []
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    assert read_lines(tmp_path / "a.jsonl") == [{"a": 1}, {"a": 2}]


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_summarize_adds_up_bytes_and_seconds(tmp_path: Path) -> None:
    write(
        tmp_path,
        "rounds",
        [{"bytes_up": 10, "bytes_down": 4, "seconds": 1.0}, {"bytes_up": 20, "bytes_down": 8, "seconds": 2.5}],
    )
    part = {"val_accuracy": 0.5}
    absent = {**row(1, 1, 0.4, **part), "seconds": 0.0}  # was scored, did not train
    write(tmp_path, "clients", [row(0, 0, 1.0, **part), row(0, 1, 0.2, **part), row(1, 0, 0.8, **part), absent])
    got = summarize(Experiment(name="n", label="L"), tmp_path, "ab", 2, 9.0, 1, ["block1", "classifier"])
    assert (got["bytes_up"], got["bytes_down"], got["seconds"]) == (30, 12, 3.5)
    assert got["bytes_up_client_round"] == 30 / 3
    assert got["accuracy_mean"] == pytest.approx((0.9 + 0.3) / 2)
    assert got["accuracy_std"] == pytest.approx(0.3)
    assert got["accuracy_worst_decile"] == pytest.approx(0.3)
    assert got["accuracy_clients"] == {"0": pytest.approx(0.9), "1": pytest.approx(0.3)}
    assert got["accuracy_val_mean"] == pytest.approx(0.5)
    assert (got["failures"], got["resumed_at"], got["label"], got["final_state_sha256"]) == (2, 1, "L", "ab")


def test_a_run_without_any_score_says_none(tmp_path: Path) -> None:
    got = summarize(Experiment(), tmp_path, "", 0, 1.0, 0, [])
    assert [got[k] for k in ("accuracy_mean", "accuracy_std", "accuracy_worst_decile", "accuracy_val_mean")] == [None] * 4
    assert got["bytes_up_client_round"] == 0.0
