"""The study of ``docs/memorization.md``: run what is missing, then copy its tables, numbers and figures to ``docs/results``.

``python -m benchmarks.memorization`` (or ``make memorization-study``) runs ``configs/memorization-study.toml``: three teachers,
three seeds each. A stopped study goes on where it was; ``--report`` trains nothing and copies what is finished.
"""

from __future__ import annotations

from benchmarks.swing import arguments, keep
from fedkd.memorization_plan import read_plan
from fedkd.report.memorization_figures import pictures
from simulations.memorization import folder_of, run, write_results


def main() -> None:
    """Run, copy, print."""
    parser = arguments(__doc__, "memorization-study.toml")
    parser.add_argument("--report", action="store_true", help="no training: the tables of what is finished")
    given = parser.parse_args()
    plan = read_plan(given.config)
    folder = folder_of(plan, given.output)
    if not given.report:
        run(given.config, given.output, given.workers, lambda line: print(line, flush=True))
    summary = write_results(plan, given.config, folder)
    keep(plan.name, folder, "memorization.json", pictures(summary), given.results)


if __name__ == "__main__":
    main()
