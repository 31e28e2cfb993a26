"""What a sender keeps beside its versioned state: the secret of its noise, and the ledger of what it has released.

Neither is ever sent, committed or rolled back (specs: guarantees, rules 1 and 2). The secret comes from the operating system,
so that a server that knows the experiment's seed cannot subtract the noise; the ledger is a write-ahead log, so that a
release that was sent in a round that never committed stays charged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedkd.errors import RunError
from fedkd.store import sync_folder

SECRET_BYTES = 32


class Vault:
    """``secret`` (mode 0600), ``ledger.jsonl`` and ``trace.jsonl`` in one sender's folder; each is created at first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._charged: set[tuple[str, str]] | None = None

    def secret(self) -> int:
        """A 256-bit number that stays the same for this sender. Raises: RunError for a damaged file; OSError."""
        path = self.folder / "secret"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.folder / f".secret.{os.getpid()}.tmp"
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(os.urandom(SECRET_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # another process was first: its secret is the one in use
                os.link(temporary, path)
            temporary.unlink()
            sync_folder(self.folder)
        content = path.read_bytes()
        if len(content) != SECRET_BYTES:
            raise RunError(f"{path} holds {len(content)} bytes instead of {SECRET_BYTES}: noise from it could be predicted")
        return int.from_bytes(content, "little")

    def is_new(self, channel: str, released: bytes) -> bool:
        """Whether these bytes have not been charged on this channel."""
        if self._charged is None:
            self._charged = {(e["channel"], e["sha256"]) for e in self.entries()}
        return (channel, hashlib.sha256(released).hexdigest()) not in self._charged

    def charge(self, channel: str, round: int, charges: int, released: bytes, more: Mapping[str, Any] | None = None) -> bool:
        """Append one entry for a new release and fsync, before its bytes leave; True where it was new.

        A release of the same bytes on the same channel (a retry, a replay) is one charge. ``attempt`` counts the releases
        of one round on one channel: above 0 a round was sent more than once, with other bytes.

        Args:
            channel: "up", "down.<client>", or "mean" for what the server releases of a sum.
            charges: rows, steps or releases that this release pays for.
            released: the bytes released.
            more: what an accountant needs: "mechanism", "events" and, on the server, "clients".

        Raises: OSError.
        """
        if not self.is_new(channel, released):
            return False
        name = hashlib.sha256(released).hexdigest()
        attempt = sum(e["channel"] == channel and e["round"] == round for e in self.entries())
        entry = {"channel": channel, "round": round, "attempt": attempt, "charges": charges, "sha256": name, **(more or {})}
        self._append("ledger.jsonl", entry)
        assert self._charged is not None
        self._charged.add((channel, name))
        return True

    def keep_trace(self, round: int, steps: Sequence[Mapping[str, Any]]) -> None:
        """Append what training measured of itself in a round; it stays here (``fedkd.conformance``). Raises: OSError."""
        self._append("trace.jsonl", {"round": round, "steps": [dict(s) for s in steps]})

    def traces(self) -> list[dict[str, Any]]:
        """What ``keep_trace`` wrote, oldest first."""
        return self._lines("trace.jsonl")

    def entries(self) -> list[dict[str, Any]]:
        """Entries so far, oldest first; a line torn by a crash is left out, since its bytes never left."""
        return self._lines("ledger.jsonl")

    def _append(self, name: str, value: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        with path.open("a", encoding="utf-8") as file:
            file.write(("\n" if torn else "") + json.dumps(value) + "\n")
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.folder)

    def _lines(self, name: str) -> list[dict[str, Any]]:
        try:
            lines = (self.folder / name).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        found: list[dict[str, Any]] = []
        for line in lines:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found
