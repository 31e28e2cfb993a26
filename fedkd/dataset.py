"""What a file of ``fedkd/data`` hands over: ``Spec`` (what the set is), ``Table`` (its rows), and finding its files.

A data plug-in provides ``Config``, ``SPEC``, ``spec(config)``, ``places(config, root)`` where it has files, and either
``load(config, root)`` (a finite table, partitioned over clients) or ``generate(config, seed, client)`` with
``size(config, seed, client)`` (rows made from the client id; no table and no partition).
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedkd.errors import DataError
from fedkd.types import Array

CHUNK = 1 << 20


@dataclass(frozen=True)
class Spec:
    """What a data set is, where it comes from, and how to get it."""

    name: str
    """the plug-in's name"""
    shape: tuple[int, ...]
    """shape of one example, channels first"""
    classes: int
    """number of classes C; labels are in [0, C)"""
    licence: str
    """licence of the data"""
    source: str
    """who made it and where it is described; printed in reports"""
    sha256: dict[str, str] = field(default_factory=dict)
    """file name -> sha256 of the file of that name (a ``<name>.gz`` is unpacked first); empty where there is no file"""
    fetch: str = ""
    """the exact command that fetches the files; empty where there is nothing to fetch"""


FREE, TRAIN, VAL, TEST, PUBLIC = range(5)
"""What ``Table.part`` says of a row: split as usual, always in this part of its client, or a public transfer row."""


@dataclass(frozen=True)
class Table:
    """The rows of a data set."""

    x: Array
    """[n, *shape] float32"""
    y: Array
    """[n] int32 labels in [0, classes)"""
    groups: Array | None = None
    """[n] int32 natural client id of each row, where the set has one"""
    part: Array | None = None
    """[n] int8 ``FREE`` to ``PUBLIC``, where the set itself says what a row is for (text: a split by rows would cut records)"""

    def __len__(self) -> int:
        return len(self.y)


def cache_root() -> Path:
    """The user's folder for fetched data: ``$XDG_CACHE_HOME/fedkd`` or ``~/.cache/fedkd``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedkd"


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def find_files(spec: Spec, places: Sequence[Path]) -> dict[str, Path]:
    """The first of ``places`` that holds every file of ``spec`` (plain, or with ``.gz`` appended): name -> path.

    Raises: DataError naming the missing file, the places and the command that fetches it.
    """
    missing = ""
    for place in places:
        found = {name: hit for name in spec.sha256 if (hit := _variant(place / name)) is not None}
        if len(found) == len(spec.sha256):
            return found
        missing = missing or next(name for name in spec.sha256 if name not in found)
    raise DataError(
        f"{spec.name}: {missing or next(iter(spec.sha256))} is in none of {', '.join(map(str, places))}; "
        f"fetch it with: {spec.fetch}"
    )


def read_checked(spec: Spec, name: str, path: Path) -> bytes:
    """The bytes of file ``name`` (decompressed where ``path`` only adds ``.gz`` to it), after the hash check.

    Raises: DataError where the bytes are not those of the pin.
    """
    data = path.read_bytes()
    if path.name == f"{name}.gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError) as error:
            raise DataError(f"{spec.name}: {path} is not a whole gzip file ({error})") from None
    got = hashlib.sha256(data).hexdigest()
    if got != spec.sha256[name]:
        raise DataError(
            f"{spec.name}: {path} has sha256 {got}, the pin is {spec.sha256[name]}; remove it and run: {spec.fetch}"
        )
    return data


def _variant(path: Path) -> Path | None:
    for candidate in (path, path.with_name(f"{path.name}.gz")):
        if candidate.is_file():
            return candidate
    return None
