"""Evidence bundle of an audited run: one archive with a hash per file, and the check of an archive that others send.

Entries are stored, not compressed, in the order of their names, with one fixed date: the same files give the same bytes on
every machine, so that a check can compare every byte, and nothing in it can unpack to more than it weighs. It holds what
the audit rests on and no client's data: no transcript, no state, no image. Hashes show that nothing changed, not who wrote
it: the manifest's hash must come to the reader by another way.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkd import gate, run_audit
from fedkd.errors import ConfigError

SCHEMA = 1
"""Version of ``schemas/bundle.json``."""
MANIFEST = "manifest.json"
OF_RUN = ("summary.json", "config.toml", "environment.json", "partition.json", "rounds.jsonl", "clients.jsonl")
"""Files of the run that go in where they exist."""
REQUIRED = ("audit.json", "audit.html", "gate.json", "model_card.md", "summary.json", "config.toml")
MAX_FILES, MAX_FILE, MAX_TOTAL = 32, 128 * 2**20, 256 * 2**20
"""An archive beyond these is refused unread."""
HASH_MARK = "fedkd-audit-sha256"
"""Page and model card name the audit that they show behind this word."""
_DATE = (1980, 1, 1, 0, 0, 0)
_MODE = (stat.S_IFREG | 0o644) << 16


@dataclass(frozen=True)
class Checked:
    """What a check of an archive found."""

    files: Mapping[str, str]
    """name -> sha256 of what was read"""
    problems: tuple[str, ...]
    """each names the file; empty = the archive is what it says"""
    manifest_sha256: str
    """to be compared with the one that the sender gave by another way"""


def write(run: Path, page: str, card: str, junit: str, outcome: Mapping[str, Any]) -> Path:
    """``<run>/audit/bundle.zip``.

    Args:
        page: the audit's page without images of clients' data.
        card: the model card.
        junit: the gate's outcome for continuous integration.
        outcome: the gate's outcome, as `fedkd.gate.to_json` gives it.

    Raises: OSError where the folder cannot be written; ConfigError for a run without an audit.
    """
    audit = run_audit.path_of(run)
    run_audit.read(audit)
    files = {name: (run / name).read_bytes() for name in OF_RUN if (run / name).is_file()}
    texts = {"audit.html": page, "model_card.md": card, "junit.xml": junit, "gate.json": _json(outcome)}
    files |= {name: text.encode() for name, text in texts.items()} | {"audit.json": audit.read_bytes()}
    if ledger := _ledger(files.get("summary.json", b"{}")):
        files["ledger.json"] = _json(ledger).encode()
    entries = {name: {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()} for name, raw in sorted(files.items())}
    manifest = {"schema": SCHEMA, "kind": "bundle", "run": f"{run.parent.name}/{run.name}", "files": entries}
    files[MANIFEST] = _json(manifest).encode()
    target = audit.with_name("bundle.zip")
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_bytes(archive(files))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def archive(files: Mapping[str, bytes]) -> bytes:
    """The one archive that these files have."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as made:
        for name, raw in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr, entry.create_system = _MODE, 3
            made.writestr(entry, raw)
    return buffer.getvalue()


def check(path: Path) -> Checked:
    """Check an archive: its form, every hash, and that page, card, verdicts and gate follow from the audit in it.

    Raises: ConfigError where there is no such file.
    """
    try:
        size = path.stat().st_size
        raw = path.read_bytes() if size <= MAX_TOTAL else b""
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if size > MAX_TOTAL:
        return Checked({}, (f"{path.name}: {size:,} bytes, at most {MAX_TOTAL:,} are read",), "")
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as opened:
            problems = _form(opened)
            if problems:
                return Checked({}, tuple(problems), "")
            files, problems = _read(opened)
            starts = {info.header_offset: info.filename for info in opened.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, RuntimeError) as error:
        return Checked({}, (f"{path.name}: no readable archive ({error})",), "")
    problems += _against_manifest(files)
    if not problems:
        problems += _content(files)
    if not problems:
        problems += _other_bytes(raw, archive(files), starts, path.name)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return Checked(hashes, tuple(problems), hashes.get(MANIFEST, ""))


def _form(opened: zipfile.ZipFile) -> list[str]:
    """What makes an archive unfit to be read at all; nothing of it is ever written to a disk."""
    entries = opened.infolist()
    names = [entry.filename for entry in entries]
    found = [f"{len(entries)} files, at most {MAX_FILES} are read"] if len(entries) > MAX_FILES else []
    found += [f"{name[:80]!r}: twice in the archive" for name in sorted({n for n in names if names.count(n) > 1})]
    for entry in entries[: MAX_FILES + 1]:
        shown = repr(entry.filename[:80])
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", entry.filename):
            found.append(f"{shown}: a plain file name is expected, no folder")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 0x1 or entry.file_size != entry.compress_size:
            found.append(f"{shown}: compressed or encrypted; entries of a bundle are stored as they are")
        if entry.file_size > MAX_FILE:
            found.append(f"{shown}: {entry.file_size:,} bytes, at most {MAX_FILE:,} are read")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            found.append(f"{shown}: a link or device, not a file")
    if sum(entry.file_size for entry in entries) > MAX_TOTAL:
        found.append(f"more than {MAX_TOTAL:,} bytes in all")
    return found


def _read(opened: zipfile.ZipFile) -> tuple[dict[str, bytes], list[str]]:
    files, problems = {}, []
    for entry in opened.infolist():
        try:
            files[entry.filename] = opened.read(entry)
        except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
            problems.append(f"{entry.filename}: damaged ({error})")
    return files, problems


def _against_manifest(files: Mapping[str, bytes]) -> list[str]:
    try:
        manifest = json.loads(files[MANIFEST])
    except KeyError:
        return [f"{MANIFEST}: missing or damaged"]
    except (ValueError, RecursionError):
        return [f"{MANIFEST}: not a readable JSON file"]
    if problem := run_audit.schema_problem(manifest, "bundle"):
        return [f"{MANIFEST}: {problem}"]
    listed: Mapping[str, Mapping[str, Any]] = manifest["files"]
    found = [f"{name}: in the archive, not in the manifest" for name in sorted(set(files) - set(listed) - {MANIFEST})]
    found += [f"{name}: in the manifest, not in the archive" for name in sorted(set(listed) - set(files))]
    found += [f"{name}: a bundle must hold it" for name in REQUIRED if name not in listed]
    for name in sorted(set(listed) & set(files)):
        if hashlib.sha256(files[name]).hexdigest() != listed[name]["sha256"]:
            found.append(f"{name}: its sha256 is not the manifest's")
    return found


def _content(files: Mapping[str, bytes]) -> list[str]:
    """Whether the page, the card, the verdicts and the gate are those of the audit in the archive."""
    try:
        audit = run_audit.parse(files["audit.json"])
        outcome, summary = json.loads(files["gate.json"]), json.loads(files["summary.json"])
        if not isinstance(summary, dict):
            return ["summary.json: not a JSON object"]
        config = gate.Config(**outcome["config"])
        again = gate.to_json(gate.apply(audit.content, config), config)
    except (ConfigError, ValueError, KeyError, TypeError, RecursionError) as error:
        return [f"audit.json, gate.json or summary.json: {error}"]
    found = [f"audit.json: {line}" for line in run_audit.unsupported(audit)]
    for name in ("audit.html", "model_card.md"):
        named = re.findall(HASH_MARK + r"\W+(?:content=\W)?([0-9a-f]{64})", files[name].decode("utf-8", "replace"))
        if named != [audit.sha256]:
            found.append(f"{name}: it does not show the audit in this archive")
    if _json(again) != _json(outcome):
        found.append("gate.json: its outcome does not follow from the audit")
    if audit.run["final_state_sha256"] != summary.get("final_state_sha256"):
        found.append("summary.json: it is of another final state than the audit")
    return found


def _other_bytes(raw: bytes, expected: bytes, starts: Mapping[int, str], name: str) -> list[str]:
    if raw == expected:
        return []
    place = next((i for i, (a, b) in enumerate(zip(raw, expected, strict=False)) if a != b), min(len(raw), len(expected)))
    before = [start for start in starts if start <= place]
    near = f" (at the entry of {starts[max(before)]})" if before else ""
    return [f"{name}: byte {place:,} is not what an archive of these files has{near}"]


def _ledger(summary: bytes) -> dict[str, Any] | None:
    """What the accountant made of the clients' ledgers; the ledgers themselves stay where they are."""
    privacy: dict[str, Any] | None = json.loads(summary).get("privacy")
    return privacy


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
