"""The study of ``docs/swing.md``: run what is missing, then copy its table, numbers and figures to ``docs/results``.

``python -m benchmarks.swing`` (or ``make swing-study``) runs ``configs/swing-shakespeare.toml``: three independent teachers, 33
canaries per count. A stopped study goes on where it was.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from fedkd.report.style import Picture
from fedkd.report.swing import pictures
from fedkd.swing_plan import read_plan
from simulations.swing import folder_of, read_summary, run

ROOT = Path(__file__).resolve().parents[1]


def arguments(about: str | None, config: str) -> argparse.ArgumentParser:
    """What a study's command is asked for; ``config`` is the file of ``configs`` that it runs by default."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / config)
    parser.add_argument("--output", type=Path, default=ROOT / "runs")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    return parser


def keep(name: str, folder: Path, numbers: str, drawn: Sequence[Picture], results: Path) -> None:
    """Copy a study's numbers (a file of ``folder``), tables and figures to ``results`` under its name; print the tables."""
    results.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / numbers, results / f"{name}.json")
    shutil.copy(folder / "results.md", results / f"{name}.md")
    for picture in drawn:
        picture.save(results / "figures" / name)
    print((folder / "results.md").read_text(encoding="utf-8"))


def main() -> None:
    """Run, copy, print."""
    given = arguments(__doc__, "swing-shakespeare.toml").parse_args()
    run(given.config, given.output, given.workers, lambda line: print(line, flush=True))
    plan = read_plan(given.config)
    folder = folder_of(plan, given.output)
    keep(plan.name, folder, "summary.json", pictures(read_summary(folder)), given.results)


if __name__ == "__main__":
    main()
