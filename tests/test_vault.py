"""A sender's secret and ledger: made once, never predictable, never rolled back."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedkd.errors import RunError
from fedkd.vault import Vault


def test_a_secret_is_made_once_and_is_the_senders_own(tmp_path: Path) -> None:
    one, two = Vault(tmp_path / "a"), Vault(tmp_path / "b")
    assert not (tmp_path / "a").exists(), "nothing is written before it is needed"
    assert one.secret() == one.secret() == Vault(tmp_path / "a").secret()
    assert one.secret() != two.secret()
    assert one.secret() > 2**200
    assert (tmp_path / "a" / "secret").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["secret"]


@pytest.mark.parametrize("content", [b"", b"\0" * 31])
def test_a_damaged_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(RunError, match="noise from it could be predicted"):
        Vault(tmp_path).secret()


def test_each_new_release_is_one_entry_and_the_same_bytes_are_none(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "0")
    assert vault.charge("up", 0, 5, b"rows")
    assert not vault.charge("up", 1, 5, b"rows"), "re-sent"
    assert vault.charge("down.0", 1, 5, b"rows"), "another channel"
    assert vault.charge("up", 2, 3, b"others")
    assert not Vault(tmp_path / "0").charge("up", 7, 5, b"rows"), "after a restart"
    assert [(e["channel"], e["round"], e["charges"]) for e in vault.entries()] == [("up", 0, 5), ("down.0", 1, 5), ("up", 2, 3)]
    assert b"rows" not in (tmp_path / "0" / "ledger.jsonl").read_bytes()


def test_a_line_torn_by_a_crash_spoils_no_other(tmp_path: Path) -> None:
    Vault(tmp_path).charge("up", 0, 5, b"a")
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"channel": "up", "rou')
    again = Vault(tmp_path)
    assert again.charge("up", 1, 5, b"b")
    assert [e["round"] for e in again.entries()] == [0, 1]
