"""The evidence bundle: what is in it, that any changed byte is found and named, and that hostile archives are refused."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner

from fedkd import bundle, schemas
from fedkd.cli import app
from fedkd.errors import ConfigError
from fedkd.report.audit import build
from tests.report.audit_example import write_audit
from tests.report.conftest import write

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audited run with a guarantee on record, and its bundle; read only."""
    folder = write(tmp_path_factory.mktemp("bundle"), rounds=4)
    summary = json.loads((folder / "summary.json").read_text())
    summary["privacy"] = {"line": "epsilon <= 4", "statements": [{"epsilon": 4.0, "delta": 1e-5}]}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "transcript" / "0").mkdir(parents=True)
    (folder / "transcript" / "0" / "up-0.safetensors").write_bytes(b"rows of a client")
    build(write_audit(folder))
    return folder


@pytest.fixture(scope="module")
def files(run: Path) -> Files:
    with zipfile.ZipFile(run / "audit" / "bundle.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def verify(tmp_path: Path) -> Callable[[bytes], tuple[int, str]]:
    """The command on an archive's bytes: (exit code, what it printed)."""

    def of(raw: bytes) -> tuple[int, str]:
        path = tmp_path / "bundle.zip"
        path.write_bytes(raw)
        result = CliRunner().invoke(app, ["verify", str(path)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.output

    return of


def rehashed(files: Files) -> bytes:
    """The archive of changed files whose manifest was made to fit, as a forger would."""
    manifest = json.loads(files[bundle.MANIFEST])
    others = {name: raw for name, raw in files.items() if name != bundle.MANIFEST}
    manifest["files"] = {n: {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()} for n, raw in others.items()}
    return bundle.archive({**others, bundle.MANIFEST: json.dumps(manifest).encode()})


def test_it_holds_the_evidence_and_no_client_data(files: Files, run: Path) -> None:
    assert set(files) == {
        "audit.html", "audit.json", "clients.jsonl", "config.toml", "environment.json", "gate.json", "junit.xml", "ledger.json",
        "manifest.json", "model_card.md", "partition.json", "rounds.jsonl", "summary.json",
    }  # fmt: skip
    manifest = json.loads(files["manifest.json"])
    jsonschema.validate(manifest, schemas.load("bundle"))
    assert manifest["files"].keys() == files.keys() - {"manifest.json"}
    assert files["audit.json"] == (run / "audit" / "audit.json").read_bytes()
    assert json.loads(files["ledger.json"])["statements"][0]["epsilon"] == 4.0


def test_the_same_files_give_the_same_bytes(run: Path, files: Files) -> None:
    assert bundle.archive(dict(reversed(files.items()))) == (run / "audit" / "bundle.zip").read_bytes()
    with zipfile.ZipFile(run / "audit" / "bundle.zip") as archive:
        assert archive.namelist() == sorted(files)
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_sound_bundle_verifies(run: Path, files: Files) -> None:
    result = CliRunner().invoke(app, ["verify", str(run / "audit" / "bundle.zip")])
    assert result.exit_code == 0, result.output
    digest = hashlib.sha256(files["manifest.json"]).hexdigest()
    assert f"verified: {len(files)} files; manifest sha256 {digest}" in result.output
    as_json = json.loads(CliRunner().invoke(app, ["verify", str(run / "audit" / "bundle.zip"), "--format", "json"]).output)
    assert as_json["problems"] == [] and as_json["files"].keys() == files.keys()


def places(raw: bytes) -> Iterator[tuple[str, int]]:
    """(file, a byte in its content): the first, middle and last of each."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        for info in archive.infolist():
            start = info.header_offset + 30 + len(info.filename)
            for at in {0, info.file_size // 2, info.file_size - 1}:
                yield info.filename, start + at


def test_a_changed_byte_of_any_file_fails_and_names_it(run: Path, tmp_path: Path) -> None:
    raw = (run / "audit" / "bundle.zip").read_bytes()
    target = tmp_path / "b.zip"
    for name, place in places(raw):
        target.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        found = bundle.check(target)
        assert any(line.startswith(f"{name}:") for line in found.problems), (name, place, found.problems)


@pytest.mark.slow
def test_a_changed_byte_anywhere_fails(run: Path, tmp_path: Path) -> None:
    """Headers, dates, the directory and the end of the archive too: 60 places drawn once, and every byte of both ends."""
    raw = (run / "audit" / "bundle.zip").read_bytes()
    target = tmp_path / "b.zip"
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        directory = archive.start_dir
        heads = [info.header_offset + i for info in archive.infolist() for i in (4, 6, 10, 12, 14, 18, 26, 28)]
    drawn = np.random.default_rng(0).integers(0, len(raw), 60).tolist()
    for place in {*range(40), *heads[::3], *range(directory, len(raw), 17), *range(len(raw) - 22, len(raw)), *drawn}:
        target.write_bytes(raw[:place] + bytes([raw[place] ^ 4]) + raw[place + 1 :])
        assert bundle.check(target).problems, place
    for other in (raw[:-1], raw + b"x", b"x" + raw, raw[: len(raw) // 2], b"", b"PK"):
        target.write_bytes(other)
        assert bundle.check(target).problems


def test_the_command_exits_with_one_and_says_which_file(
    run: Path, files: Files, verify: Callable[[bytes], tuple[int, str]]
) -> None:
    changed = {**files, "rounds.jsonl": files["rounds.jsonl"].replace(b"0", b"1", 1)}
    code, said = verify(bundle.archive(changed))
    assert code == 1 and "failed  rounds.jsonl: its sha256 is not the manifest's" in said and "verified" not in said


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("audit.html", b'sha256" content="', b'sha256" content="0', "audit.html: it does not show the audit in this archive"),
        ("model_card.md", b"sha256: ", b"sha256: 0", "model_card.md: it does not show the audit in this archive"),
        ("gate.json", b'"fail"', b'"warn"', "gate.json: its outcome does not follow from the audit"),
        ("summary.json", b"b" * 64, b"c" * 64, "summary.json: it is of another final state"),
        ("audit.json", b'"leak shown: ', b'"not tested: ', "does not follow from the rows"),
        ("audit.json", b'"kind": "run_audit"', b'"kind": "audit"', "kind: 'run_audit' was expected"),
    ],
)
def test_a_forger_who_mends_the_manifest_is_still_found(
    name: str, old: bytes, new: bytes, said: str, files: Files, verify: Callable[[bytes], tuple[int, str]]
) -> None:
    assert old in files[name]
    code, text = verify(rehashed({**files, name: files[name].replace(old, new, 1)}))
    assert code == 1 and said in text, text


def test_files_beside_the_manifest_or_missing_are_named(files: Files, verify: Callable[[bytes], tuple[int, str]]) -> None:
    assert "extra.txt: in the archive, not in the manifest" in verify(bundle.archive({**files, "extra.txt": b"x"}))[1]
    fewer = {n: raw for n, raw in files.items() if n != "rounds.jsonl"}
    assert "rounds.jsonl: in the manifest, not in the archive" in verify(bundle.archive(fewer))[1]
    bare = {n: raw for n, raw in files.items() if n != "model_card.md"}
    assert "model_card.md: a bundle must hold it" in verify(rehashed(bare))[1]
    assert "manifest.json: missing" in verify(bundle.archive({"audit.json": b"{}"}))[1]


def hostile(entries: list[tuple[zipfile.ZipInfo | str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for info, raw in entries:
            archive.writestr(info, raw)
    return buffer.getvalue()


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/b", "..\\evil", "C:evil", ".hidden", "", "a\nb"])
def test_no_name_leaves_the_archive(name: str, verify: Callable[[bytes], tuple[int, str]]) -> None:
    code, said = verify(hostile([(zipfile.ZipInfo(name), b"x")]))
    assert code == 1 and "a plain file name is expected, no folder" in said


def test_bombs_links_and_twins_are_refused_unread(verify: Callable[[bytes], tuple[int, str]], monkeypatch) -> None:
    code, said = verify(hostile([("audit.json", b"0" * 5_000_000)], zipfile.ZIP_DEFLATED))
    assert code == 1 and "compressed or encrypted" in said
    assert "a link or device" in verify(hostile([(link("audit.json"), b"/etc/passwd")]))[1]
    assert "at most 32 are read" in verify(hostile([(f"f{i}", b"") for i in range(33)]))[1]
    with pytest.warns(UserWarning, match="Duplicate name"):
        twins = hostile([("audit.json", b"{}"), ("audit.json", b"{ }")])
    assert "twice in the archive" in verify(twins)[1]
    monkeypatch.setattr(bundle, "MAX_FILE", 10)
    assert "11 bytes, at most 10 are read" in verify(hostile([("audit.json", b"0" * 11)]))[1]
    monkeypatch.setattr(bundle, "MAX_TOTAL", 50)
    code, said = verify(b"0" * 51)
    assert code == 1 and "51 bytes, at most 50 are read" in said


def test_what_is_no_archive_fails_and_what_is_not_there_is_a_usage_error(
    verify: Callable[[bytes], tuple[int, str]], tmp_path: Path
) -> None:
    code, said = verify(b"not a zip")
    assert code == 1 and "no readable archive" in said
    assert CliRunner().invoke(app, ["verify", str(tmp_path / "none.zip")]).exit_code == 2


@pytest.mark.parametrize("name", ["audit.json", "gate.json", "summary.json", "manifest.json"])
@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_broken_files_are_problems_and_never_tracebacks(
    name: str, raw: bytes, files: Files, verify: Callable[[bytes], tuple[int, str]]
) -> None:
    changed = {**files, name: raw}
    code, said = verify(bundle.archive(changed) if name == "manifest.json" else rehashed(changed))
    assert code == 1 and "failed" in said and "Traceback" not in said


def test_a_bundle_needs_an_audit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not audited"):
        bundle.write(write(tmp_path, rounds=2), "", "", "", {})
