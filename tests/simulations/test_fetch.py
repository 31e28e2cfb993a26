"""The fetch script with stand-ins for apt-get and dpkg-deb on PATH; no network."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from fedkd.data import fashion_mnist
from fedkd.errors import DataError
from simulations import fetch

FILES = {name: name.encode() for name in fashion_mnist.SPEC.sha256}


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pins of tiny files, no Debian package installed, and a PATH with stand-ins only."""
    pins = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setattr(fashion_mnist, "SPEC", replace(fashion_mnist.SPEC, sha256=pins))
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    monkeypatch.setenv("PATH", f"{bin_folder}:/usr/bin:/bin")
    return bin_folder


def program(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def put(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))


def check(raw: Path) -> None:
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == FILES


def test_package_is_downloaded_unpacked_and_checked(machine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = tmp_path / "content"
    put(content / fashion_mnist.DEBIAN.relative_to("/"))
    program(machine, "apt-get", 'test "$1 $2" = "download dataset-fashion-mnist" && : > dataset-fashion-mnist_0_all.deb')
    program(machine, "dpkg-deb", f'test "$1" = -x && test -f "$2" && cp -r "{content}" "$3"')
    raw = fetch.fetch_fashion_mnist(tmp_path / "root")
    assert raw == tmp_path / "root" / "FashionMNIST" / "raw"
    check(raw)
    assert "not the known build" in capsys.readouterr().err
    program(machine, "apt-get", "exit 7")
    assert fetch.fetch_fashion_mnist(tmp_path / "root") == raw, "files that are right are left alone"


def test_an_installed_package_needs_no_download(machine: Path, tmp_path: Path) -> None:
    put(tmp_path / "debian")
    program(machine, "apt-get", "exit 7")
    check(fetch.fetch_fashion_mnist(tmp_path / "root"))


def test_wrong_bytes_are_replaced(tmp_path: Path) -> None:
    put(tmp_path / "debian")
    raw = fetch.fetch_fashion_mnist(tmp_path / "root")
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"damaged")
    check(fetch.fetch_fashion_mnist(tmp_path / "root"))


def test_wrong_bytes_from_the_source_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    put(tmp_path / "debian")
    (tmp_path / "debian" / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(DataError, match="sha256"):
        fetch.fetch_fashion_mnist(tmp_path / "root")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("apt_get", "dpkg_deb", "message"),
    [
        ("echo 'E: Unable to locate package' >&2; exit 100", "", "Unable to locate package"),
        ("true", "", "left no package file"),
        (": > dataset-fashion-mnist_0_all.deb", "exit 2", "dpkg-deb -x .* failed: no message"),
        (": > dataset-fashion-mnist_0_all.deb", "mkdir unpacked", "is in none of"),
    ],
)
def test_a_failing_client_is_one_line_and_code_2(
    machine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], apt_get: str, dpkg_deb: str, message: str
) -> None:
    program(machine, "apt-get", apt_get)
    program(machine, "dpkg-deb", dpkg_deb)
    with pytest.raises(DataError, match=message):
        fetch.fetch_fashion_mnist(tmp_path / "root")
    assert fetch.main(["fashion_mnist", "--root", str(tmp_path / "root")]) == 2
    assert "fashion_mnist: " in capsys.readouterr().err


def test_a_machine_without_apt_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(DataError, match="FEDKD_ALLOW_DOWNLOAD=1"):
        fetch.fetch_fashion_mnist(tmp_path / "root")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "debian")
    assert fetch.main(["fashion_mnist"]) == 0
    check(tmp_path / "cache" / "fedkd" / "FashionMNIST" / "raw")
    assert fetch.main(["imagenet"]) == 2
    assert "valid names: fashion_mnist" in capsys.readouterr().err
