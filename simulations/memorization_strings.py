"""The passages behind the hashed ids of a memorization study, on request only; strings of real people are masked."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from fedkd.errors import ConfigError
from fedkd.masking import masked
from fedkd.memorization_own import STRATUM, Examples
from fedkd.memorization_plan import read_plan
from fedkd.memorization_text import Material
from fedkd.store import write_atomic
from simulations.memorization import folder_of


def write(path: Path, root: Path, teacher: int = 0) -> Path:
    """Write ``t<teacher>-strings.csv`` (id, stratum, prefix, suffix) beside the study's ``examples.csv``; returns its path.

    Lines of mails (*formulaic*) are masked; made-up lines and the user's own text stand as they are.
    Raises: ConfigError for a wrong plan or text, a teacher that the plan has not, or a study that was not begun.
    """
    plan = read_plan(path)
    folder = folder_of(plan, root)
    if not folder.is_dir():
        raise ConfigError(f"{folder} does not exist; run the study first: python -m simulations run {path}")
    if plan.own.teacher:
        own = Examples(plan.own)
        ids, rows, strata = own.described()["id"].tolist(), own.rows.tolist(), [STRATUM] * len(own.rows)
        cut, decode = plan.own.prefix, own.tokenizer.decode
    else:
        if teacher not in plan.teachers:
            raise ConfigError(f"{path.name} has no teacher {teacher}; its teachers: {', '.join(map(str, plan.teachers))}")
        material = Material(plan, teacher)
        passages = material.passages
        ids, rows, strata = list(passages.ids), passages.rows.tokens.tolist(), list(passages.stratum)
        cut, decode = plan.text.prefix + 1, material.tokens.decode
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["id", "stratum", "prefix", "suffix"])
    for name, row, stratum in zip(ids, rows, strata, strict=True):
        halves = (decode(row[:cut]), decode(row[cut:]))
        writer.writerow([name, stratum, *(masked(h) if stratum == "formulaic" else h for h in halves)])
    target = folder / f"t{teacher}-strings.csv"
    write_atomic(target, content.getvalue().encode("utf-8", "replace"))
    return target
