"""State on disk: atomic files, digests, versions, commits, and truncation at resume."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import RunError, StateMissing
from fedkd.store import NEVER, ClientStore, Commit, Lines, digest, read_commit, read_json, write_atomic, write_commit


def state(value: float = 0.0) -> dict[str, np.ndarray[Any, Any]]:
    return {
        "w": np.full((2, 3), value, np.float32),
        "last": np.array(4, np.int64),
        "ids": np.arange(3, dtype=np.int32),
    }


# ----- digests ---------------------------------------------------------------
def test_digest_is_sha256_over_name_dtype_shape_and_bytes() -> None:
    # printf 'a|int32|(2,)|\x01\x00\x00\x00\x02\x00\x00\x00' | sha256sum
    assert digest({"a": np.array([1, 2], np.int32)}) == "8ac7784a1c893aae6ed6688a64c4cf787ba2a88b4e2fcb09c3807947a8bc518b"
    assert digest({}) == ""


@given(bit=st.integers(0, 6 * 32 - 1))
def test_one_flipped_bit_changes_the_digest(bit: int) -> None:
    plain, flipped = state(1.5), state(1.5)
    raw = flipped["w"].view(np.uint8).reshape(-1)
    raw[bit // 8] ^= np.uint8(1 << (bit % 8))
    assert digest(plain) != digest(flipped)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {**s, "w": s["w"].astype(np.float64)},
        lambda s: {**s, "w": s["w"].reshape(3, 2)},
        lambda s: {**s, "w": s["w"].reshape(-1)},
        lambda s: {**s, "last": s["last"].reshape(1)},
        lambda s: {**{n: v for n, v in s.items() if n != "w"}, "v": s["w"]},
        lambda s: {n: v for n, v in s.items() if n != "w"},
        lambda s: {**s, "w": s["w"].view(np.int32)},
        lambda s: {**s, "w": -s["w"]},  # -0.0 is not 0.0
    ],
)
def test_dtype_shape_name_and_sign_matter(change: Callable[[Any], Any]) -> None:
    assert digest(change(state())) != digest(state())


def test_order_layout_and_byte_order_do_not_matter() -> None:
    s = state(2.0)
    s["w"] = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert digest(dict(reversed(s.items()))) == digest(s)
    assert digest({**s, "w": np.asfortranarray(s["w"])}) == digest(s)
    assert digest({**s, "w": s["w"].astype(">f4")}) == digest(s)


# ----- atomic files ---------------------------------------------------------------
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_the_file_and_then_its_folder_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(handle: int) -> None:
        seen.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        real_sync(handle)

    def replace(self: Path, target: Path) -> Path:
        seen.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    write_atomic(tmp_path / "a", b"x")
    assert seen == ["file", "rename", "folder"]


# ----- client versions ---------------------------------------------------------------
@pytest.mark.parametrize(("content", "read"), [(b'{"a": 1}', {"a": 1}), (b'{"a": ', {}), (b"\xff", {}), (None, {})])
def test_a_missing_or_damaged_json_file_reads_as_nothing(tmp_path: Path, content: bytes | None, read: dict[str, int]) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") == read


def test_versions_round_trip_bit_for_bit_with_their_shapes(tmp_path: Path) -> None:
    store = ClientStore(tmp_path, "run")
    said = store.write(3, 0, {**state(0.1), "t": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))})
    got = store.read(3, 0)
    assert said == digest(got)
    assert got["last"].shape == ()
    assert int(got["last"]) == 4
    np.testing.assert_array_equal(got["t"], [[0, 1, 2], [3, 4, 5]])


def test_never_is_empty_and_an_empty_state_leaves_no_file(tmp_path: Path) -> None:
    store = ClientStore(tmp_path, "run")
    assert store.read(0, NEVER) == {}
    assert store.write(0, 0, {}) == ""
    assert not (tmp_path / "run").exists()


def test_a_missing_version_never_starts_from_zero(tmp_path: Path) -> None:
    store = ClientStore(tmp_path, "run")
    store.write(0, 1, state())
    for client, version in ((0, 0), (0, 2), (1, 1)):
        with pytest.raises(StateMissing, match=f"client {client} holds no version {version}"):
            store.read(client, version)
    with pytest.raises(StateMissing):
        ClientStore(tmp_path, "another run").read(0, 1)


def test_a_new_version_leaves_the_older_one_as_it_was(tmp_path: Path) -> None:
    store = ClientStore(tmp_path, "run")
    store.write(0, 0, state(1.0))
    before = (tmp_path / "run" / "0" / "0.safetensors").read_bytes()
    store.write(0, 1, state(2.0))
    assert (tmp_path / "run" / "0" / "0.safetensors").read_bytes() == before


def test_prune_keeps_the_last_two_committed_and_what_is_newer(tmp_path: Path) -> None:
    store = ClientStore(tmp_path, "run")
    for version in (0, 1, 4, 7, 9):
        store.write(0, version, state(version))
    store.prune(0, NEVER)
    store.prune(1, 3)  # a client without a folder
    assert len(list((tmp_path / "run" / "0").iterdir())) == 5
    store.prune(0, 7)  # 9 waits for its commit
    assert sorted(int(p.stem) for p in (tmp_path / "run" / "0").iterdir()) == [4, 7, 9]
    assert digest(store.read(0, 7)) == digest(state(7))


# ----- commits ---------------------------------------------------------------
def commit_of(round: int, value: float = 1.0) -> Commit:
    never = np.full(3, NEVER, np.int32)
    digests = np.zeros((3, 32), np.uint8)
    digests[1] = round
    return Commit(round, state(value), never, never + 1, digests, {"rounds": 10 * round}, {"failures": 2.0}, {"round": None})


def test_a_commit_reads_back_as_it_was_written(tmp_path: Path) -> None:
    written = commit_of(5)
    write_commit(tmp_path, written)
    got = read_commit(tmp_path)
    assert got is not None
    assert (got.round, got.offsets, got.counters, got.pending) == (5, {"rounds": 50}, {"failures": 2.0}, {"round": None})
    assert got.state["last"].shape == ()
    assert got.final_sha256() == written.final_sha256()
    np.testing.assert_array_equal(got.last, written.last)


def test_commits_keep_the_last_two_rounds_in_number_order(tmp_path: Path) -> None:
    assert read_commit(tmp_path / "nothing") is None
    for round in (8, 9, 10):
        write_commit(tmp_path, commit_of(round))
    assert sorted(os.listdir(tmp_path)) == ["10", "9"]
    got = read_commit(tmp_path)
    assert got is not None
    assert got.round == 10


def test_a_crash_before_the_rename_leaves_the_commit_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_commit(tmp_path, commit_of(0, 1.0))
    real = Path.rename

    def crash(self: Path, target: Path) -> Path:
        raise OSError(errno.EIO, "crash")

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(OSError, match="crash"):
        write_commit(tmp_path, commit_of(1, 2.0))
    got = read_commit(tmp_path)
    assert got is not None
    assert (got.round, float(got.state["w"][0, 0])) == (0, 1.0)
    monkeypatch.setattr(Path, "rename", real)
    write_commit(tmp_path, commit_of(1, 3.0))  # what the crash left is replaced, not added to
    again = read_commit(tmp_path)
    assert again is not None
    assert float(again.state["w"][0, 0]) == 3.0
    assert sorted(os.listdir(tmp_path)) == ["0", "1"]


def test_the_final_hash_sees_one_bit_of_one_client_and_the_order_of_clients() -> None:
    plain = commit_of(1)
    flipped, swapped = commit_of(1), commit_of(1)
    flipped.digests[2, 31] ^= 1
    swapped.digests[[0, 1]] = swapped.digests[[1, 0]]
    server = commit_of(1, 1.0000001)
    hashes = {c.final_sha256() for c in (plain, flipped, swapped, server)}
    assert len(hashes) == 4
    counters = commit_of(1)
    counters.counters["failures"] = 9.0
    assert counters.final_sha256() == plain.final_sha256()


# ----- lines ---------------------------------------------------------------
def test_lines_are_truncated_to_the_committed_offsets(tmp_path: Path) -> None:
    lines = Lines(tmp_path, ("rounds", "clients"))
    lines.append("rounds", [{"round": 0}], 0)
    lines.append("clients", [], 0)
    offsets = lines.offsets()
    assert offsets == {"rounds": len('{"round": 0}\n'), "clients": 0}
    lines.append("rounds", [{"round": 1}, {"round": 2}], 1)
    lines.append("clients", [{"client": 0}], 1)
    with (tmp_path / "clients.jsonl").open("ab") as file:
        file.write(b'{"half a li')
    Lines(tmp_path, ("rounds", "clients"), offsets)
    assert (tmp_path / "rounds.jsonl").read_text() == '{"round": 0}\n'
    assert (tmp_path / "clients.jsonl").read_text() == ""


def test_lost_lines_are_said_and_never_filled_with_zeros(tmp_path: Path) -> None:
    lines = Lines(tmp_path, ("rounds",))
    lines.append("rounds", [{"round": 0}], 0)
    offsets = lines.offsets()
    (tmp_path / "rounds.jsonl").write_text("")
    with pytest.raises(RunError, match="lost committed lines: 0 of 13 bytes"):
        Lines(tmp_path, ("rounds",), offsets)
    assert (tmp_path / "rounds.jsonl").read_bytes() == b""
