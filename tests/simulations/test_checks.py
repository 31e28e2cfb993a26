"""The checks behind ``make check-determinism`` and ``make check-resume`` pass in process, and can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations import checks

SMALL = """\
name = "small"
num-server-rounds = 4
num-clients = 6
fraction-train = 0.5
max-samples = 240
min-client-samples = 10
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.mark.slow
def test_determinism_agrees_over_workers_and_nodes(config: Path) -> None:
    assert checks.determinism(config, flower=False, ray=False) == 0


def test_determinism_fails_where_a_grid_gives_other_bits(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the hash of two workers differs from that of one."""
    monkeypatch.setattr(checks, "_hash", lambda c, s, o, grid, workers, nodes: f"{grid}-{workers}-{[x for x in s if '=' in x]}")
    assert checks.determinism(config, flower=False, ray=False) == 1


def test_without_a_compiler_the_native_executor_is_left_out_by_name(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(checks, "_hash", lambda c, s, o, grid, workers, nodes: f"{s}")
    assert checks.determinism(config, flower=False, ray=False) == 0
    assert "native    left out: executor native: CC names 'no-such-compiler'" in capsys.readouterr().out


def test_with_a_compiler_a_native_run_that_fails_fails_the_check(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_no_compiler", str)
    monkeypatch.setattr(checks, "_hash", lambda c, s, o, *rest: "" if "executor.name=native" in s else f"{s}")
    assert checks.determinism(config, flower=False, ray=False) == 1


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_every_fault_point_resumes_to_the_undisturbed_run(config: Path) -> None:
    assert checks.resume_after_faults(config, kills=1, flower_kills=0, ray_kills=0, seed=3) == 0


def test_rows_without_a_newline_are_not_rounds_yet(tmp_path: Path) -> None:
    """A torn append is no round; seconds and wire bytes are set aside."""
    whole = '{"round": 0, "seconds": 1.5, "server_seconds": 0.1, "wire_bytes_up": 3, "bytes_up": 2}\n'
    (tmp_path / "rounds.jsonl").write_text(whole + '{"round": 1, "sec')
    assert checks._rows(tmp_path) == [{"round": 0, "bytes_up": 2}]
