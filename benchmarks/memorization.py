"""The study of ``docs/memorization.md``: run what is missing, then copy its tables, numbers and figures to ``docs/results``.

``python -m benchmarks.memorization`` (or ``make memorization-study``) runs ``configs/memorization-study.toml``: three teachers,
three seeds each. A stopped study goes on where it was; ``--report`` trains nothing and copies what is finished.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from fedkd.memorization_plan import read_plan
from fedkd.report.memorization_figures import pictures
from simulations.memorization import folder_of, run, write_results

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run, copy, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "memorization-study.toml")
    parser.add_argument("--output", type=Path, default=ROOT / "runs")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--report", action="store_true", help="no training: the tables of what is finished")
    given = parser.parse_args()
    plan = read_plan(given.config)
    folder = folder_of(plan, given.output)
    if not given.report:
        run(given.config, given.output, given.workers, lambda line: print(line, flush=True))
    summary = write_results(plan, given.config, folder)
    given.results.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "memorization.json", given.results / f"{plan.name}.json")
    shutil.copy(folder / "results.md", given.results / f"{plan.name}.md")
    for picture in pictures(summary):
        picture.save(given.results / "figures" / plan.name)
    print((folder / "results.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
