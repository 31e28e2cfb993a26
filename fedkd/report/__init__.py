"""The reader's view of a run: one folder of numbers in, one self-contained ``report.html`` and its figures out.

Imports neither torch nor Flower; matplotlib and Jinja2 are imported by the functions that draw and write.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["build"]


def build(run: Path, compared: Sequence[Path] = ()) -> Path:
    """Write ``report.html`` and ``figures/*.svg`` into the run folder; returns the page.

    ``compared`` are other run folders: their curves are drawn beside this run's, and a ``local`` run on the same
    partition is paired client by client.

    Raises: ConfigError where ``run`` or a compared path is no run folder; OSError where the folder cannot be written.
    """
    from fedkd.report.page import write_report

    return write_report(run, compared)
