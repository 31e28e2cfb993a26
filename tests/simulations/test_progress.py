"""Following a run folder: plain lines without a terminal, a live row with one, torn lines never."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from simulations import progress
from simulations.progress import describe, watch


def row(round: int, **changes: Any) -> dict[str, Any]:
    plain = {"round": round, "accuracy_mean": 0.5, "accuracy_worst_decile": 0.25, "clients_trained": 4, "clients_failed": 0}
    return {**plain, **changes}


def write(folder: Path, *rows: dict[str, Any], tail: str = "") -> None:
    with (folder / "rounds.jsonl").open("a") as file:
        file.write("".join(json.dumps(r) + "\n" for r in rows) + tail)


def shown(folder: Path, rounds: int, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with watch(folder, rounds, "Label", console):
        pass
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.01)


def test_describe_counts_from_one_and_speaks_in_points() -> None:
    got = describe(row(4, level=2, clients_failed=1), rounds=10, elapsed=10.0)
    assert got == {
        "round": "5/10", "accuracy": "50.0", "worst decile": "25.0", "clients": "4 (1 failed)", "seconds left": "10",
        "layers shared": "2",
    }  # fmt: skip
    assert describe(row(0, accuracy_mean=None, accuracy_worst_decile=None), 1, 1.0)["accuracy"] == "-"


def test_without_a_terminal_there_are_some_ten_plain_lines(tmp_path: Path) -> None:
    write(tmp_path, *(row(t) for t in range(45)))
    text = shown(tmp_path, rounds=45)
    assert text.count("Label") == 12  # every fourth round, and the last
    assert "round 45/45" in text
    assert "\x1b[" not in text


def test_every_round_of_a_short_run_is_shown(tmp_path: Path) -> None:
    write(tmp_path, *(row(t) for t in range(3)))
    assert shown(tmp_path, rounds=3).count("Label") == 3


def test_a_torn_line_waits_until_it_is_whole(tmp_path: Path) -> None:
    write(tmp_path, row(0), tail='{"round": 1, "acc')
    assert shown(tmp_path, rounds=2).count("Label") == 1


def test_no_folder_yet_and_lines_that_come_later(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    console = Console(file=io.StringIO(), width=120)
    with watch(folder, 2, "Label", console):
        time.sleep(0.05)
        folder.mkdir()
        write(folder, row(0))
        write(folder, row(1))
    assert isinstance(console.file, io.StringIO)
    assert [line.split("round ")[1][:3] for line in console.file.getvalue().splitlines()] == ["1/2", "2/2"]


def test_a_resumed_run_truncates_its_lines_and_goes_on(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    write(tmp_path, row(0), row(1))
    with watch(tmp_path, 3, "Label", console):
        time.sleep(0.1)
        (tmp_path / "rounds.jsonl").write_text("")
        write(tmp_path, row(0))
        time.sleep(0.1)
        write(tmp_path, row(1, clients_trained=7), row(2))
    assert isinstance(console.file, io.StringIO)
    assert "clients 7" in console.file.getvalue()
    assert "round 3/3" in console.file.getvalue()


def test_in_a_terminal_one_row_is_drawn_and_removed(tmp_path: Path) -> None:
    write(tmp_path, row(0), row(1))
    text = shown(tmp_path, rounds=2, terminal=True)
    assert "2/2" in text
    assert "worst decile" in text


def test_the_block_ends_even_where_the_run_raises(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the run"), watch(tmp_path, 1, "L", Console(file=io.StringIO())):
        raise RuntimeError("the run")
