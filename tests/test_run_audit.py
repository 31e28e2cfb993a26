"""Reading ``audit.json``: sizes and schema first, and verdict lines only where rows say them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from fedkd import run_audit
from fedkd.errors import ConfigError
from tests.report.audit_example import DOWN, SERVER, UP, example


def parsed(content: dict[str, Any]) -> run_audit.RunAudit:
    return run_audit.parse(json.dumps(content).encode())


def test_a_sound_file_is_read_with_its_hash(tmp_path: Path) -> None:
    path = run_audit.path_of(tmp_path)
    path.parent.mkdir()
    path.write_text(json.dumps(example()))
    audit = run_audit.read(path)
    assert audit.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(audit.rows) == len(example()["rows"]) and audit.run["label"] == "FedD2S-avg, none"
    assert run_audit.unsupported(audit) == []


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "not a readable JSON file"),
        (b"\xff", "not a readable JSON file"),
        (b"[" * 200_000, "not a readable JSON file"),
        (b"[]", "is not of type 'object'"),
        (b'{"schema": 1}', "is a required property"),
    ],
)
def test_what_is_no_audit_is_refused_in_one_line(raw: bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        run_audit.parse(raw)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_large_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_audit, "MAX_BYTES", 10)
    (tmp_path / "audit.json").write_bytes(b"0" * 11)
    with pytest.raises(ConfigError, match="11 bytes; at most 10 are read"):
        run_audit.read(tmp_path / "audit.json")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), 2),
        (("run", "rounds"), 0),
        (("channels", 0, "direction"), "sideways"),
        (("rows", 0, "level"), 1.0),
        (("verdicts", 0, "text"), "leak shown"),
        (("series", 0, "points", 0, "round"), -1),
        (("inversion", 0, "pool"), 1.5),
        (("brackets", 0, "lower", "delta"), None),
        (("not_run", 0, "reason"), ""),
    ],
)
def test_the_first_wrong_place_is_named(path: tuple[Any, ...], value: Any) -> None:
    content: Any = example()
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ConfigError, match="/".join(map(str, path))):
        parsed(content)


def test_joint_sentences_and_channels_in_brackets_follow_from_rows() -> None:
    """Three sizes of one group in one sentence; a threat model that ends in its channel speaks about that channel alone."""
    content = example(0.0)
    own = [r for r in content["rows"] if r["view"] == UP and r["target_group"] == "all" and r["status"] == "no leak shown"]
    sizes = "; ".join(f"{r['statistic']} {r['detectable']:.4g}" for r in own)
    line = next(v for v in content["verdicts"] if v["threat_model"] == SERVER and v["target_group"] == "all")
    assert len(own) > 1
    line["text"] = f"no leak shown at detectable size {sizes}"
    assert run_audit.unsupported(parsed(content)) == []
    line["threat_model"] = f"{SERVER} ({UP})"
    assert run_audit.unsupported(parsed(content)) == []
    line["threat_model"] = f"{SERVER} ({DOWN})"
    assert "does not follow" in run_audit.unsupported(parsed(content))[0]
    line["threat_model"] = SERVER
    line["text"] = line["text"].replace("; ", "; ", 1) + "; auc 0.5001"
    assert "does not follow" in run_audit.unsupported(parsed(content))[0]


def test_a_line_that_claims_nothing_needs_no_row() -> None:
    content = example()
    content["verdicts"].append({"threat_model": "who reads ids", "target_group": "all", "text": "not tested: ids say nothing"})
    assert run_audit.unsupported(parsed(content)) == []
    content["verdicts"][-1]["text"] = "no leak shown at detectable size auc 0.6"
    assert len(run_audit.unsupported(parsed(content))) == 1


def test_a_leak_needs_an_interval_that_shows_it() -> None:
    content = example()
    row = next(r for r in content["rows"] if r["statistic"] == "auc" and r["target_group"] == "client 0")
    assert row["status"] == "leak shown"
    row |= {"value": 0.55, "low": 0.45, "high": 0.65}
    assert any("a leak is stated that the interval does not show" in line for line in run_audit.unsupported(parsed(content)))


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("leak shown: a 1 [1, 1]", "leak shown"),
        ("no leak shown at detectable size x", "no leak shown"),
        ("not tested: x", "not tested"),
    ],
)
def test_a_text_states_its_status(text: str, status: str) -> None:
    assert run_audit.status_of(text) == status
