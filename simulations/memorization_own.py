"""Audit a user's finished models (``[own]`` of a memorization plan): one folder of results per student."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedkd.memorization_own import Examples
from fedkd.memorization_plan import Plan
from fedkd.store import write_atomic
from fedkd.verdict import check_words


def audit(plan: Plan, path: Path, folder: Path, said: Callable[[str], None]) -> Path:
    """Score every student, write its tables and page below ``folder``, and ``results.md`` and ``report.html`` of the first.

    Raises: ConfigError or DataError for models or text that cannot be read.
    """
    from simulations.memorization import publish

    examples = Examples(plan.own)
    folder.mkdir(parents=True, exist_ok=True)
    about = examples.described()
    tables = []
    for place, student in enumerate(plan.own.students):
        said(f"{place + 1} of {len(plan.own.students)}: {student}")
        own = folder if place == 0 else folder / f"student{place}"
        own.mkdir(parents=True, exist_ok=True)
        publish(plan, path, own, {0: (about, examples.all_models(student))}, {"student": student})
        tables.append(f"## {student}\n\n{(own / 'results.md').read_text(encoding='utf-8')}")
    write_atomic(folder / "results.md", check_words("\n".join(tables)).encode())
    return folder
