"""The sections that the pages of studies and of runs side by side are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedkd.report.style import Picture
from fedkd.report.tables import Table


@dataclass(frozen=True)
class Part:
    """A section of a page: its heading, then what there is of lines, table and picture."""

    title: str
    lines: Sequence[str] = ()
    table: Table | None = None
    picture: Picture | None = None
