"""State on disk: client versions and server commits, atomic, named by round, safetensors (never pickle).

A client's version is a new file ``<state-root>/<run>/<client>/<round>.safetensors``; the server's commit is one rename of
a folder ``checkpoints/<round>`` that holds the server state, the map client -> committed version and the byte offsets of
every ``.jsonl``. A crash at any point leaves either the old or the new commit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors.numpy import load as load_bytes
from safetensors.numpy import save as save_bytes

from fedkd import faults
from fedkd.errors import RunError, StateMissing
from fedkd.types import Array, Arrays

NEVER = -1
"""Version of a client that holds no state, and round of a client that never took part."""


def digest(arrays: Arrays) -> str:
    """sha256 over names (sorted), dtypes, shapes and little-endian bytes; "" for no state."""
    if not arrays:
        return ""
    h = hashlib.sha256()
    for name in sorted(arrays):
        value = np.asarray(arrays[name])
        little = value.astype(value.dtype.newbyteorder("<"), copy=False)
        h.update(f"{name}|{value.dtype.name}|{value.shape}|".encode())
        h.update(little.tobytes())
    return h.hexdigest()


def write_atomic(path: Path, content: bytes, *, fault: tuple[str, int, int] | None = None, sync_parent: bool = True) -> None:
    """Temporary file, fsync, rename, fsync of the folder (unless the caller does that).

    Raises: OSError (disk full, read-only folder).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            _put(file, content, half=fault is not None and faults.armed(*fault))
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if sync_parent:
        sync_folder(path.parent)


def _put(file: BinaryIO, content: bytes, half: bool) -> None:
    """Write and fsync; ``half``: a fault point is armed, so this process ends in the middle of it."""
    if half:
        file.write(content[: len(content) // 2])
        file.flush()
        faults.die()
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is no such file or it is damaged."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return value
    except (OSError, ValueError):
        return {}


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class ClientStore:
    """The versions of the clients of one run, below ``<state-root>/<run>/``."""

    def __init__(self, state_root: Path, run: str) -> None:
        self.folder = state_root / run

    def read(self, client: int, version: int) -> Arrays:
        """The state of a version; {} for ``NEVER``. Raises: StateMissing where the file is not there."""
        if version == NEVER:
            return {}
        path = self._path(client, version)
        try:
            return load_bytes(path.read_bytes())
        except FileNotFoundError:
            raise StateMissing(f"client {client} holds no version {version} in {path.parent}") from None

    def write(self, client: int, version: int, state: Arrays) -> str:
        """Write a version (nothing for an empty state) and return its digest. Raises: OSError."""
        if not state:
            return ""
        folder = self.folder / str(client)
        folder.mkdir(parents=True, exist_ok=True)
        content = save_bytes(_in_c_order(state))
        write_atomic(self._path(client, version), content, fault=("client-writing", version, client))
        faults.kill("client-written", version, client)
        return digest(state)

    def keep_metrics(self, client: int, round: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a client's last round beside its versions (metrics = "home"). Raises: OSError."""
        folder = self.folder / str(client)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "metrics.json", json.dumps({"round": round, "metrics": dict(metrics)}).encode())

    def metrics(self, client: int, round: int) -> dict[str, float]:
        """What ``keep_metrics`` wrote for this round; {} where it is not on this machine."""
        try:
            kept = json.loads((self.folder / str(client) / "metrics.json").read_text())
        except FileNotFoundError:
            return {}
        return dict(kept["metrics"]) if kept["round"] == round else {}

    def prune(self, client: int, committed: int) -> None:
        """Delete versions below the last two committed ones."""
        if committed == NEVER:
            return
        folder = self.folder / str(client)
        try:
            stems = [name.removesuffix(".safetensors") for name in os.listdir(folder)]
        except FileNotFoundError:
            return
        versions = sorted(int(stem) for stem in stems if stem.isdigit())
        kept = [v for v in versions if v <= committed][-2:]
        for version in versions:
            if kept and version < kept[0]:
                self._path(client, version).unlink(missing_ok=True)

    def _path(self, client: int, version: int) -> Path:
        return self.folder / str(client) / f"{version}.safetensors"


@dataclass
class Commit:
    """What the server holds after a round."""

    round: int
    """-1 before the first round"""
    state: Arrays
    versions: Array
    """[N] int32 committed version of each client (``NEVER`` = no state)"""
    last: Array
    """[N] int32 round in which each client last took part (``NEVER`` = never)"""
    digests: Array
    """[N, 32] uint8 sha256 of each client's committed state (zeros = no state)"""
    offsets: dict[str, int]
    """byte length of every ``.jsonl`` at this commit"""
    counters: dict[str, float]
    """running totals that a resumed run goes on with"""
    pending: dict[str, Any] | None = None
    """rows of this round that wait for their scores (score = "after_average")"""

    @staticmethod
    def empty(clients: int, state: Arrays) -> Commit:
        """The commit before round 0."""
        never = np.full(clients, NEVER, np.int32)
        return Commit(-1, state, never, never.copy(), np.zeros((clients, 32), np.uint8), {}, {})

    def final_sha256(self) -> str:
        """sha256 over the server's state and every client's committed state, ids ascending."""
        h = hashlib.sha256(digest(self.state).encode())
        for client in range(len(self.versions)):
            h.update(f"|{client}|".encode() + self.digests[client].tobytes())
        return h.hexdigest()


def write_commit(checkpoints: Path, commit: Commit) -> None:
    """Make a round's commit durable by one rename and keep the last two. Raises: OSError."""
    temporary = checkpoints / f".tmp-{commit.round}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    maps = {"versions": commit.versions, "last": commit.last, "digests": commit.digests}
    meta: dict[str, Any] = {"schema": 1, "round": commit.round, "offsets": commit.offsets, "counters": commit.counters}
    meta["pending"] = commit.pending
    contents = {
        "server.safetensors": save_bytes(_in_c_order(commit.state)),
        "clients.safetensors": save_bytes(maps),
        "commit.json": json.dumps(meta, sort_keys=True).encode(),
    }

    def write(name: str, content: bytes) -> None:
        write_atomic(temporary / name, content, sync_parent=False)

    with ThreadPoolExecutor(len(contents)) as pool:  # a disk synchronises three files in little more time than one
        list(pool.map(write, contents, contents.values()))
    sync_folder(temporary)  # once for all three: nobody reads them before the folder is renamed
    faults.kill("server-before-rename", commit.round)
    final = checkpoints / str(commit.round)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    sync_folder(checkpoints)
    faults.kill("server-after-rename", commit.round)
    for old in sorted(_rounds(checkpoints))[:-2]:
        shutil.rmtree(checkpoints / str(old), ignore_errors=True)


def read_commit(checkpoints: Path) -> Commit | None:
    """The last committed round, or None."""
    rounds = _rounds(checkpoints)
    if not rounds:
        return None
    folder = checkpoints / str(max(rounds))
    meta = json.loads((folder / "commit.json").read_text())
    maps = load_bytes((folder / "clients.safetensors").read_bytes())
    state = load_bytes((folder / "server.safetensors").read_bytes())
    maps_in_order = (maps["versions"], maps["last"], maps["digests"])
    return Commit(meta["round"], state, *maps_in_order, meta["offsets"], meta["counters"], meta["pending"])


def _in_c_order(arrays: Arrays) -> Arrays:
    """Arrays as safetensors wants them; a scalar keeps its shape ()."""
    return {n: np.asarray(v, order="C") for n, v in arrays.items()}


def _rounds(checkpoints: Path) -> list[int]:
    return [int(p.name) for p in checkpoints.iterdir() if p.name.isdigit()] if checkpoints.is_dir() else []


class Lines:
    """Append-only ``.jsonl`` files of a run folder, truncated to the committed offsets at resume.

    Raises: RunError where a file is shorter than its committed offset: lines that were committed are gone.
    """

    def __init__(self, folder: Path, names: tuple[str, ...], offsets: Mapping[str, int] | None = None) -> None:
        self.paths = {n: folder / f"{n}.jsonl" for n in names}
        for name, path in self.paths.items():
            path.touch()
            committed = (offsets or {}).get(name, 0)
            if path.stat().st_size < committed:
                raise RunError(f"{path} has lost committed lines: {path.stat().st_size} of {committed} bytes; use --overwrite")
            os.truncate(path, committed)

    def append(self, name: str, rows: list[dict[str, Any]], round: int) -> None:
        """Append one object a line and fsync. Raises: OSError."""
        if not rows:
            return
        text = "".join(json.dumps(row, sort_keys=False) + "\n" for row in rows).encode()
        with self.paths[name].open("ab") as file:
            _put(file, text, half=faults.armed("appending", round))

    def offsets(self) -> dict[str, int]:
        """Present byte lengths."""
        return {n: p.stat().st_size for n, p in self.paths.items()}
