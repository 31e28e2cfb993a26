"""What is common at private positions: three seeds choose among variants, five confirm (``docs/swing-common.md``).

``python -m benchmarks.common`` (or ``make swing-common``) trains, in one process, what is missing of the study that
``fedkd/common_text.py``, ``common_arms.py`` and ``common_results.py`` describe, then writes
``docs/results/common.json``, ``.md`` and a
figure. One result file per student: a stopped study goes on where it was, and ``--opponents`` may run beside it on
another core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load as load_weights
from safetensors.torch import save as save_weights
from transformers import PreTrainedModel

from clients.cohort import one_thread
from fedkd import common_results as results
from fedkd.common_arms import LABELS, VARIANTS, Evidence
from fedkd.common_bench import CommonBench
from fedkd.common_text import Setting
from fedkd.config import digest8
from fedkd.report.style import BLUE, GREEN, INK, MUTED, ORANGE, SKY, Picture, canvas, finish, legend_above
from fedkd.store import write_atomic
from fedkd.verdict import check_words
from server.run_folder import write_json
from simulations.run import provenance

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
CONFIRM_WITH = ("kd", "control", "swing", "redaction", "typed", "typed_prior", "typed_place", "public")


def folder_of(setting: Setting, root: Path) -> Path:
    """Where the files of a study of this size lie."""
    return root / "common" / digest8({"format": 1, "setting": repr(setting)})


def students(setting: Setting, folder: Path, seed: int, arms: Sequence[str]) -> list[dict[str, Any]]:
    """Train what is missing of a seed; the content of every arm's result file."""
    bench = CommonBench(setting, seed)

    @cache
    def teacher(kind: str) -> PreTrainedModel:
        path, model = folder / f"s{seed}-{kind}.safetensors", bench.fresh_model(setting.teacher, "teacher")
        if path.exists():
            model.load_state_dict(load_weights(path.read_bytes()))
            return model
        model = bench.train_teacher(kind)
        if not kind.startswith("fold"):
            write_json(folder / f"s{seed}-{kind}-teacher.json", {"seed": seed, "arm": f"teacher {kind}", **bench.audit(model)})
        write_atomic(path, save_weights({n: v.clone().contiguous() for n, v in model.state_dict().items()}))
        print(f"seed {seed}: teacher {kind}", flush=True)
        return model

    @cache
    def evidence() -> Evidence:
        return bench.evidence(teacher)

    found = []
    for arm in arms:
        path = folder / f"s{seed}-student-{arm}.json"
        if not path.exists():
            one = bench.student(arm, teacher, evidence())
            write_json(path, {**one, "provenance": provenance()})
            print(f"seed {seed}: {arm}, NLL {one['nll_common']:.3f}", flush=True)
        found.append(json.loads(path.read_text(encoding="utf-8")))
    return found


def picture(rows: Sequence[dict[str, Any]], entropy: float) -> Picture:
    """NLL of the common against exposure of repeated secrets."""
    with canvas(3.6) as figure:
        axes = figure.add_subplot()
        axes.grid(True, axis="both")
        for r in rows:
            if r["arm"] in ("redaction", "swing"):  # their NLL is that of no digit at all: far off the scale, see the table
                continue
            x, y = r["repeated"] or [0.0, None, None], r["nll_common"]
            colour = {"kd": ORANGE, "control": INK, "public": SKY}.get(r["arm"], BLUE if r["arm"] in VARIANTS else GREEN)
            spread = [[v[0] - v[1]], [v[2] - v[0]]] if (v := x)[1] is not None else None
            tall = [[y[0] - y[1]], [y[2] - y[0]]] if y[1] is not None else None
            axes.errorbar([x[0]], [y[0]], yerr=tall, xerr=spread, fmt="o", color=colour, elinewidth=1.2)
            axes.annotate(r["label"], (x[0], y[0]), (5, 4), textcoords="offset points", fontsize=7, color=MUTED)
        axes.axhline(entropy, color=MUTED, linewidth=1.0, linestyle=":", label="least possible NLL")
        axes.axvline(results.MARGIN, color=ORANGE, linewidth=1.0, linestyle="--", label="margin of exposure")
        axes.set_xlabel("exposure of repeated secrets minus control, bits")
        axes.set_ylabel("NLL of common digits, nats")
        legend_above(figure, axes, 2)
        title = "What students know of the common, and of repeated secrets"
        return finish(figure, "nll-exposure", title, "Down is more of the common, left is less of the rare.")


def report(setting: Setting, found: Sequence[dict[str, Any]], said: Callable[[str], None] = print) -> dict[str, Any]:
    """Everything that a page shows."""
    first = [s for s in found if s["seed"] in results.CHOICE]
    second = [s for s in found if s["seed"] in results.CONFIRMATION]
    texts = [CommonBench(setting, seed) for seed in sorted({s["seed"] for s in found})]
    choice = results.choose(first)
    confirmation: dict[str, Any] = {"rows": results.rows(second) if second else []}
    if second:
        confirmation.update(results.confirm(second, choice["chosen"]))
    unigrams = [t.unigram() for t in texts]
    return {
        "schema": 1,
        "command": "python -m benchmarks.common",
        "provenance": sorted({s["provenance"] for s in found}),
        "setting": repr(setting),
        "entropy": texts[0].entropy(),
        "unigram": [sum(u[i] for u in unigrams) / len(unigrams) for i in (0, 1)],
        "choice": {**choice, "rows": results.rows(first)},
        "confirmation": confirmation,
        "students": [{k: v for k, v in s.items() if k != "provenance"} for s in found],
    }


def main() -> None:
    """Choose, confirm, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "runs")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--opponents", action="store_true", help="train only what seeds 4 to 8 need whatever is chosen")
    given = parser.parse_args()
    one_thread()
    setting = Setting()
    folder = folder_of(setting, given.output)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    with torch.random.fork_rng():
        if given.opponents:
            for seed in results.CONFIRMATION:
                students(setting, folder, seed, CONFIRM_WITH)
            return
        for seed in results.CHOICE:
            found += students(setting, folder, seed, ("control", *VARIANTS))
        chosen = results.choose(found)["chosen"]
        print(f"chosen: {', '.join(LABELS[a] for a in chosen) or 'none'}", flush=True)
        for seed in results.CONFIRMATION:
            found += students(setting, folder, seed, (*CONFIRM_WITH, *chosen))
    result = report(setting, found)
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "common.json").write_text(json.dumps(result, allow_nan=False) + "\n", encoding="utf-8")
    page = results.table(result)
    (given.results / "common.md").write_text(check_words(page), encoding="utf-8")
    rows = result["confirmation"]["rows"] or result["choice"]["rows"]
    picture(rows, result["entropy"]).save(given.results / "figures" / "common")
    print(page)


if __name__ == "__main__":
    main()
