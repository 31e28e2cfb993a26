"""What a file of ``fedkd/texts`` hands over: ``TextSpec`` (what the set is), ``Corpus`` (its records), and their token rows.

A text plug-in provides ``Config``, ``SPEC`` and ``load(config, root) -> Corpus``, and ``places(config, root)`` where it has
files. A record is the smallest text that is never split by accident (a speech, a mail): canaries are planted as further
records, and a row of tokens never mixes two of them. Pinned sets are checked as one tree before a byte of them is used.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fedkd.dataset import cache_root
from fedkd.errors import ConfigError, DataError
from fedkd.tokens import Tokenizer

Ints = npt.NDArray[np.int64]

Unit = Literal["file", "paragraph", "line"]
"""What one record is: the whole file, what stands between empty lines, or one line."""


@dataclass(frozen=True)
class TextSpec:
    """What a corpus is, where it comes from, and how to get it."""

    name: str
    """the plug-in's name"""
    licence: str
    """licence of the texts"""
    source: str
    """who made them and where they are described; printed in reports"""
    personal: bool
    """texts of real people who did not consent: reports show strings of it through ``fedkd.masking`` only"""
    patterns: tuple[str, ...] = ()
    """globs of its files, relative to its folder; empty where there is no file"""
    files: int = 0
    """number of files of a pinned set"""
    tree: str = ""
    """``tree_sha256`` of a pinned set's files; empty where the texts are the user's own or generated"""
    fetch: str = ""
    """the exact command that fetches the files; empty where there is nothing to fetch"""


@dataclass(frozen=True)
class Corpus:
    """Records in a fixed order. Its ``repr`` shows no text and no client: either may be personal."""

    texts: tuple[str, ...] = field(repr=False)
    """one text per record"""
    clients: tuple[str, ...] = field(repr=False)
    """natural client of each record: a role, a president, a sender"""
    groups: tuple[str, ...] = field(repr=False)
    """what may be held out as a whole: a play, a year, a mailing list"""

    def __post_init__(self) -> None:
        if not len(self.texts) == len(self.clients) == len(self.groups):
            sizes = f"{len(self.texts)} texts, {len(self.clients)} clients, {len(self.groups)} groups"
            raise DataError(f"a corpus needs one client and one group per text; got {sizes}")

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def sha256(self) -> str:
        """Over every text and its group, each with its length before it, in order."""
        digest = hashlib.sha256()
        for part in (part for pair in zip(self.texts, self.groups, strict=True) for part in pair):
            content = part.encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "little") + content)
        return digest.hexdigest()

    def take(self, records: Iterable[int]) -> Corpus:
        """The records of these indices, in the order given."""
        chosen = list(records)
        return Corpus(*(tuple(column[i] for i in chosen) for column in (self.texts, self.clients, self.groups)))

    def extended(self, more: Corpus) -> Corpus:
        """These records, then those of ``more`` (planted canaries, for example): the indices of the first stay valid."""
        return Corpus(self.texts + more.texts, self.clients + more.clients, self.groups + more.groups)


class Rows(NamedTuple):
    """Token rows of records."""

    tokens: Ints
    """[n, width + 1] int64: BOS, then up to ``width`` tokens, then padding with BOS (never a target: see ``lengths``)"""
    lengths: Ints
    """[n] int64: positions that are not padding, BOS included"""
    records: Ints
    """[n] int64: index of the record that the row is from"""
    starts: Ints
    """[n] int64: index in the record's tokens of the row's first token after BOS (a likelihood is per record, then cut)"""


def rows(texts: Sequence[str], tokenizer: Tokenizer, width: int, *, cut: bool = True, shortest: int = 1) -> Rows:
    """Each record's tokens as rows of ``width`` tokens behind BOS; two records never share a row (no packing).

    ``cut`` makes as many rows of a record as it fills; without it a record is one row and what does not fit is left out.
    Rows of fewer than ``shortest`` tokens are left out (1: only rows without a token).

    Raises: ConfigError for a width below 1 or a ``shortest`` outside [1, width].
    """
    if width < 1 or not 1 <= shortest <= width:
        raise ConfigError(f"rows: width = {width}, shortest = {shortest}; valid: 1 <= shortest <= width")
    found: list[tuple[int, int, list[int]]] = []
    for record, text in enumerate(texts):
        ids = tokenizer.encode(text)
        for start in range(0, len(ids) if cut else min(1, len(ids)), width):
            piece = ids[start : start + width]
            if len(piece) >= shortest:
                found.append((record, start, piece))
    tokens = np.full((len(found), width + 1), tokenizer.bos, dtype=np.int64)
    for row, (_, _, piece) in enumerate(found):
        tokens[row, 1 : len(piece) + 1] = piece
    lengths = np.array([len(piece) + 1 for _, _, piece in found], dtype=np.int64)
    return Rows(tokens, lengths, _column(found, 0), _column(found, 1))


def pieces(text: str, unit: Unit) -> list[str]:
    """The records of one file: stripped of surrounding space, the empty ones left out."""
    parts = {"file": [text], "paragraph": re.split(r"\n[^\S\n]*\n", text), "line": text.splitlines()}[unit]
    return [stripped for part in parts if (stripped := part.strip())]


def tree_sha256(files: Mapping[str, bytes]) -> str:
    """One sha256 over the files' bytes, ordered by relative POSIX path. Names and borders are not hashed: count files too."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(files[name])
    return digest.hexdigest()


def usual_places(spec: TextSpec, root: str) -> list[Path]:
    """Folders searched for a set, in order: its name below ``root``, ``root`` itself, its name in the user's cache."""
    given = [Path(root) / spec.name, Path(root)] if root else []
    return [*given, cache_root() / spec.name]


def read_tree(spec: TextSpec, places: Sequence[Path]) -> dict[str, bytes]:
    """The files of the first place that has any: relative POSIX path -> bytes, sorted by path, after the hash check.

    Raises: DataError where no place has a file (with the command that fetches them), or the files are not the pinned ones.
    """
    for place in places:
        paths = {p.relative_to(place).as_posix(): p for glob in spec.patterns for p in place.glob(glob) if p.is_file()}
        if paths:
            return _checked(spec, place, {name: paths[name].read_bytes() for name in sorted(paths)})
    wanted = " or ".join(spec.patterns)
    raise DataError(f"{spec.name}: no {wanted} in any of {', '.join(map(str, places))}; fetch it with: {spec.fetch}")


def _checked(spec: TextSpec, place: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    if not spec.tree:
        return files
    if (got := tree_sha256(files)) != spec.tree or len(files) != spec.files:
        raise DataError(
            f"{spec.name}: {place} has {len(files)} files with tree sha256 {got}, "
            f"expected {spec.files} with {spec.tree}; remove them and run: {spec.fetch}"
        )
    return files


def _column(found: list[tuple[int, int, list[int]]], which: Literal[0, 1]) -> Ints:
    return np.array([row[which] for row in found], dtype=np.int64)
