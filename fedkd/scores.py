"""Read anyone's scores: a csv or npz file with ``id``, ``member``, ``score`` and optional ``group``,
``blind``, ``text``.

A file is untrusted input: every value is checked, nothing is unpickled, and each refusal is one line that
names the first bad row. Rows are put in the order of their ids, so that the order of the file never decides
anything.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedkd.errors import ConfigError
from fedkd.intervals import Bools, Floats

Strings = npt.NDArray[np.str_]
REQUIRED = ("id", "member", "score")
OPTIONAL = ("group", "blind", "text")
CHUNK = 200_000
MAX_ROWS = 20_000_000
MAX_GROUPS = 200
_WORDS = {"1": True, "true": True, "0": False, "false": False, "1.0": True, "0.0": False}


@dataclass(frozen=True)
class Table:
    """Candidates in the order of their ids."""

    member: Bools
    """[N] true where the candidate was trained on."""
    score: Floats
    """[N] higher = more likely member; finite."""
    group: Strings | None = None
    """[N] names of target groups."""
    blind: Floats | None = None
    """[N] scores of a classifier that never saw the model."""
    text: Strings | None = None
    """[N] texts for the built-in blind base line."""
    source: str = "arrays"
    """File name, without its folder."""
    sha256: str = ""
    """Hash of the file."""


def read(path: Path) -> Table:
    """Read a csv or npz file of scores.

    Raises: ConfigError, with one clear line, for anything that is not a well-formed table of scores.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is a folder, not a file of scores" if path.is_dir() else f"no such file: {path}")
    columns = _read_npz(path) if path.suffix == ".npz" else _read_csv(path)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    size = columns["id"].size
    if size == 0:
        raise ConfigError(f"{path.name} has no rows")
    for name, column in columns.items():
        if column.shape != (size,):
            raise ConfigError(f"{path.name}: column {name} has shape {column.shape}, expected ({size},)")
    order = _ordered(columns["id"], path.name)
    member = _members(columns["member"], path.name)[order]
    group = columns["group"][order].astype(str) if "group" in columns else None
    if group is not None and np.unique(group).size > MAX_GROUPS:
        raise ConfigError(f"{path.name}: more than {MAX_GROUPS} groups; a group is a slice, not an id")
    blind = _numbers(columns["blind"], "blind", path.name)[order] if "blind" in columns else None
    text = columns["text"][order].astype(str) if "text" in columns else None
    return Table(member, _numbers(columns["score"], "score", path.name)[order], group, blind, text, path.name, digest)


def _ordered(ids: npt.NDArray[np.generic], name: str) -> npt.NDArray[np.intp]:
    """Order that depends on the ids alone, and the refusal of duplicates.

    Sorting 64-bit hashes takes a tenth of the time of sorting strings; what shares a hash is compared in full.
    """
    keys = _hashes(ids)
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    if same.size:
        values, counts = np.unique(ids[order[np.union1d(same, same + 1)]], return_counts=True)
        twice = values[counts > 1]
        if twice.size:
            shown = str(twice[0])[:60]
            raise ConfigError(f"{name}: {twice.size} duplicate ids, the first is {shown!r}; one row per candidate")
    return order


def _hashes(ids: npt.NDArray[np.generic]) -> npt.NDArray[np.uint64]:
    if ids.dtype.kind in "iu":
        return ids.astype(np.uint64)
    letters = np.ascontiguousarray(ids.astype(np.str_)).view(np.uint32).reshape(ids.size, -1)
    keys = np.full(ids.size, 14695981039346656037, dtype=np.uint64)
    for column in range(letters.shape[1]):
        letter = letters[:, column].astype(np.uint64)
        keys = np.where(letter > 0, (keys ^ letter) * np.uint64(1099511628211), keys)
    return keys


def _members(column: npt.NDArray[np.generic], name: str) -> Bools:
    if column.dtype.kind in "SU":
        values, codes = np.unique(column, return_inverse=True)
        unknown = [str(value) for value in values if str(value).strip().lower() not in _WORDS]
        if unknown:
            row = int(np.flatnonzero(column == unknown[0])[0]) + 1
            raise ConfigError(f"{name}, row {row}: member is {unknown[0][:60]!r}, expected 0, 1, true or false")
        return np.array([_WORDS[str(value).strip().lower()] for value in values], dtype=np.bool_)[codes]
    bad = np.flatnonzero((column != 0) & (column != 1))
    if bad.size:
        raise ConfigError(f"{name}, row {int(bad[0]) + 1}: member is {column[bad[0]]!s}, expected 0 or 1")
    return column.astype(np.bool_)


def _numbers(column: npt.NDArray[np.generic], column_name: str, name: str) -> Floats:
    if column.dtype.kind not in "fiub":
        raise ConfigError(f"{name}: column {column_name} is not numeric")
    values = column.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        first = f"row {int(bad[0]) + 1}: {column_name} is {values[bad[0]]}"
        raise ConfigError(f"{name}, {first}; {bad.size} of {values.size} values are not finite")
    return values


def _check_header(header: list[str], name: str) -> None:
    if not header:
        raise ConfigError(f"{name} is empty; expected a first line with the columns {', '.join(REQUIRED)}")
    missing = [column for column in REQUIRED if column not in header]
    if missing:
        expected = f"{', '.join(REQUIRED)} and optionally {', '.join(OPTIONAL)}"
        raise ConfigError(f"{name} lacks the column {', '.join(missing)}; expected {expected}")
    if len(set(header)) != len(header):
        raise ConfigError(f"{name} names a column twice")


def _read_npz(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            _check_header(list(archive.files), path.name)
            columns = {name: archive[name] for name in (*REQUIRED, *OPTIONAL) if name in archive.files}
    except ConfigError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        raise ConfigError(f"{path.name} is not an npz file of plain arrays (pickled objects are refused)") from None
    if columns["id"].ndim != 1 or columns["id"].size > MAX_ROWS:
        raise ConfigError(f"{path.name}: id must be one-dimensional with at most {MAX_ROWS:,} rows")
    return columns


def _read_csv(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    parts: dict[str, list[npt.NDArray[np.generic]]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            header = [column.strip() for column in next(reader, [])]
            _check_header(header, path.name)
            for start, columns in _chunks(reader, len(header), path.name):
                for name, values in zip(header, columns, strict=True):
                    if name in REQUIRED or name in OPTIONAL:
                        parts.setdefault(name, []).append(_typed(name, values, start, path.name))
    except UnicodeDecodeError:
        raise ConfigError(f"{path.name} is neither UTF-8 text nor a file that ends in .npz") from None
    except csv.Error as error:
        raise ConfigError(f"{path.name} is not readable as csv: {error}") from None
    if not parts:
        raise ConfigError(f"{path.name} has no rows")
    # A chunk with an unusual spelling of membership is text and makes its column text, which `_members` then reads.
    return {name: np.concatenate(_alike(arrays)) for name, arrays in parts.items()}


def _alike(arrays: list[npt.NDArray[np.generic]]) -> list[npt.NDArray[np.generic]]:
    kinds = {array.dtype.kind for array in arrays}
    return [array.astype(np.str_) for array in arrays] if len(kinds) > 1 else arrays


def _chunks(reader: Iterator[list[str]], width: int, name: str) -> Iterator[tuple[int, list[tuple[str, ...]]]]:
    start = 0
    while rows := list(itertools.islice(reader, CHUNK)):
        if start + len(rows) > MAX_ROWS:
            raise ConfigError(f"{name} has more than {MAX_ROWS:,} rows; audit a random part of it")
        for number, row in enumerate(rows, start + 1):
            if len(row) != width:
                raise ConfigError(f"{name}, row {number}: {len(row)} values, the header names {width}")
        yield start, list(zip(*rows, strict=True))
        start += len(rows)


def _typed(column: str, values: tuple[str, ...], start: int, name: str) -> npt.NDArray[np.generic]:
    if column == "member" and set(values) <= _WORDS.keys():
        return np.fromiter(map(_WORDS.__getitem__, values), dtype=np.bool_, count=len(values))
    if column not in ("score", "blind"):
        return np.array(values, dtype=np.str_)
    try:
        return np.array(values, dtype=np.float64)
    except ValueError:
        for number, value in enumerate(values, start + 1):
            try:
                float(value)
            except ValueError:
                raise ConfigError(f"{name}, row {number}: {column} is {value[:60]!r}, not a number") from None
        raise ConfigError(f"{name}: column {column} is not numeric") from None
