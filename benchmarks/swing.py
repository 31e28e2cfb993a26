"""The study of ``docs/swing.md``: run what is missing, then copy its table, numbers and figures to ``docs/results``.

``python -m benchmarks.swing`` (or ``make swing-study``) runs ``configs/swing-shakespeare.toml``: three independent teachers, 33
canaries per count. A stopped study goes on where it was.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from fedkd.report.swing import pictures
from fedkd.swing_plan import read_plan
from simulations.swing import folder_of, read_summary, run

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run, copy, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "swing-shakespeare.toml")
    parser.add_argument("--output", type=Path, default=ROOT / "runs")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args()
    run(given.config, given.output, given.workers, lambda line: print(line, flush=True))
    plan = read_plan(given.config)
    folder = folder_of(plan, given.output)
    given.results.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "summary.json", given.results / f"{plan.name}.json")
    shutil.copy(folder / "results.md", given.results / f"{plan.name}.md")
    for picture in pictures(read_summary(folder)):
        picture.save(given.results / "figures" / plan.name)
    print((folder / "results.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
