"""Fetch pinned data files with ordinary clients: what ``make data`` and the commands in error messages run.

``python -m simulations.fetch fashion_mnist [--root DIR]`` leaves ``<root>/FashionMNIST/raw/*``, from an installed
Debian package or by ``apt-get download`` and ``dpkg-deb -x`` (no root rights needed). The default root is the user's
cache, where the loader looks by itself. Each file's bytes are checked against the pins of ``fedkd.data``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fedkd.data import fashion_mnist
from fedkd.dataset import cache_root, file_sha256, find_files, read_checked
from fedkd.errors import DataError

PACKAGE = "dataset-fashion-mnist"
PACKAGE_SHA256 = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
"""Version 0.0~git20200523. Another build is told and taken: the pins of the files inside decide."""
LIMIT_S = 600.0
"""Seconds that one client program may take."""


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


FETCHERS: dict[str, Callable[[Path], Path]] = {"fashion_mnist": fetch_fashion_mnist}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 0, or 2 after one line that says what failed."""
    parser = argparse.ArgumentParser(prog="python -m simulations.fetch", description="Fetch pinned data files.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"data sets: {', '.join(FETCHERS)} (default: all)")
    parser.add_argument("--root", type=Path, default=cache_root(), help="target folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(FETCHERS))
    if unknown:
        print(f"nothing to fetch for {unknown[0]!r}; valid names: {', '.join(FETCHERS)}", file=sys.stderr)
        return 2
    for name in options.names or FETCHERS:
        try:
            print(f"{name}: {FETCHERS[name](options.root)}")
        except (DataError, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 2
    return 0


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
        raise DataError(f"{command[0]} is not installed; on a system without apt set {fashion_mnist.CONSENT}=1") from None
    except subprocess.TimeoutExpired:
        raise DataError(f"{' '.join(command)} took more than {LIMIT_S:.0f} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise DataError(f"{' '.join(command)} failed: {lines[-1]}")


if __name__ == "__main__":
    sys.exit(main())
