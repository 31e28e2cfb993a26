"""The audit demo: which rows, on which data, and one small pass through runs, audits, pages, gate and frontier."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedkd.bundle import check
from fedkd.data import fashion_mnist
from fedkd.gate import FAIL, Config, apply
from fedkd.run_audit import path_of, read
from simulations import audit_demo
from simulations.run import load


def test_the_rows_are_features_and_heads_with_and_without_mechanisms(tmp_path: Path) -> None:
    found = {n: load(audit_demo.CONFIGS / f"{n}.toml", audit_demo.SIZE, output=str(tmp_path)) for n in audit_demo.ROWS}
    kinds = {(("heads" if '"heads"' in e.method_args else "features"), e.mechanism_name) for e in found.values()}
    assert {("features", "none"), ("heads", "none"), ("features", "pool"), ("features", "permute")} <= kinds
    assert ("features", "clip_noise") in kinds and ("heads", "user_clip_noise") in kinds
    assert all(e.record == "messages" and e.audit_holdout == 0.5 and e.workers == 1 for e in found.values())


def test_digits_take_the_place_of_files_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fashion_mnist, "places", lambda config, root: [tmp_path])
    chosen, settings = audit_demo.data_settings()
    assert chosen.startswith("scikit-learn's digits (Fashion-MNIST is not on this machine")
    for name in audit_demo.ROWS:
        assert load(audit_demo.CONFIGS / f"{name}.toml", settings, output=str(tmp_path)).data_name == "digits"
    for name in fashion_mnist.SPEC.sha256:
        (tmp_path / name).write_bytes(b"x")
    assert audit_demo.data_settings() == ("Fashion-MNIST, 14 x 14", list(audit_demo.SIZE))


@pytest.mark.slow
def test_two_rows_end_with_pages_a_gate_and_the_frontier(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smaller = ("num-server-rounds=3", "num-clients=6", "audit.canaries=48", "local-epochs=1")
    small = [*audit_demo.SIZE, *audit_demo.DIGITS, *smaller]
    monkeypatch.setattr(audit_demo, "ROWS", ("audit-pool", "audit-heads"))
    monkeypatch.setattr(audit_demo, "data_settings", lambda: ("digits, small", small))
    assert audit_demo.run_demo(str(tmp_path)) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"report: {tmp_path / 'frontier.html'}" and printed[-2].startswith("total ")
    page = (tmp_path / "frontier.html").read_text()
    assert "Data: digits, small." in page and "FedD2S-avg, pooled, audited" in page
    for name in audit_demo.ROWS:
        (folder,) = (tmp_path / name).iterdir()
        assert 'href="audit/audit.html"' in (folder / "report.html").read_text()
        assert check(folder / "audit" / "bundle.zip").problems == ()
        content = json.loads((folder / "audit" / "audit.json").read_text())
        assert f"{content['utility']['guess']:.2f}" != "1.00"
        assert any(f"{name:<18} gate: " in line for line in printed)
    (leaky,) = (tmp_path / "audit-pool").iterdir()
    content = read(path_of(leaky)).content
    rule = "auc.low > 0.9 @ features up"  # raw rows of members travel: that is the leak
    assert apply(content, Config(), [rule]).exit_code == 1
    assert FAIL in {c.status for c in apply(content, Config(), [rule]).checks if c.rule == rule}
