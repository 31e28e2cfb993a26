"""The tables and the figure of ``docs/performance.md`` from one measured result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedkd.verdict import check_words

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
"""Between these lines of ``docs/performance.md`` stands what ``make bench`` wrote last."""


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, "n/a" for nothing."""
    if value is None:
        return "n/a"
    return f"{value:,.0f}" if value >= 100 else f"{value:.{digits}g}"


def workload_table(key: str, measured: dict[str, Any]) -> str:
    """Clients per second and what stands beside them, the fastest first; what does not count is said."""
    peak, rows = measured["peak"], measured["rows"]
    population, sampled = measured["population"], measured["clients_a_round"]
    lines = [
        f"### {key}: {measured['title']}", "",
        f"{sampled} of {population:,} clients a round. Ceiling: sgemm {number(peak['one_core'])} GFLOP/s on one core, "
        f"{number(peak['all_cores'])} on all.", "",
        "| system | clients/s: median (min to max) | over stock Flower | GFLOP/s | CPU s a round | start-up s | PSS MB | "
        "load before | gap to float64 |" + (" s to accuracy |" if measured.get("target") else ""),
        "|---|---|---|---|---|---|---|---|---|" + ("---|" if measured.get("target") else ""),
    ]  # fmt: skip
    stock = [r["clients_per_second"] for k, r in rows.items() if k in ("stock", "stock-quickstart") and r["counts"]]
    for name, row in sorted(rows.items(), key=lambda item: -item[1].get("clients_per_second", 0.0)):
        if not row["counts"]:
            lines.append(f"| {row['label']} | does not count: {_why(row)} |" + " |" * (8 if measured.get("target") else 7))
            continue
        trains = row["gap"] is not None or name.endswith("-2")
        trains = trains and "echo" not in name
        cells = [
            row["label"],
            f"{number(row['clients_per_second'])} ({number(row['clients_per_second_min'])} to "
            f"{number(row['clients_per_second_max'])})",
            number(row["clients_per_second"] / max(stock)) if stock else "n/a",
            number(row["gflops"]) if trains else "-",
            number(row["cpu_seconds"]), number(row["start_up_seconds"]), number(row["pss_bytes"] / 1e6),
            number(row["load"], 2), "-" if row["gap"] is None else f"{row['gap']:.0e}",
        ]  # fmt: skip
        if measured.get("target"):
            cells.append(number(_seconds_to(row, measured["target"])) if trains else "-")
        lines.append("| " + " | ".join(cells) + " |")
    if measured.get("target"):
        target = measured["target"]
        said = f"{target['rounds']} rounds" if target["rounds"] else f"more than {len(target['seen'])} rounds"
        lines += ["", f"Accuracy {target['accuracy']:.0%} on held-out clients takes {said} for every system (their averages "
                      "are equal); the seconds are start-up and that many median rounds."]  # fmt: skip
    return "\n".join(lines)


def _why(row: dict[str, Any]) -> str:
    gaps = [v["gap"] for v in row["visits"] if v["gap"] is not None]
    return f"the first average is {max(gaps):.0e} from float64" if gaps and not row["error"] else "it failed (see the JSON)"


def _seconds_to(row: dict[str, Any], target: dict[str, Any]) -> float | None:
    return None if not target["rounds"] else float(row["start_up_seconds"] + target["rounds"] * row["round_seconds"])


def target_table(verdicts: list[dict[str, Any]]) -> str:
    """Each target, what was measured, whether it holds."""
    lines = ["| target (small models, CPU) | wanted | measured | holds |", "|---|---|---|---|"]
    for one in verdicts:
        sign = "at least" if one["least"] else "at most"
        holds = {True: "yes", False: "**no**", None: "not measured"}[one["holds"]]
        lines.append(f"| {one['what']} | {sign} {number(one['bound'])} | {number(one['value'])} | {holds} |")
    return "\n".join(lines)


def scale_table(rows: list[dict[str, Any]]) -> str:
    """Populations, sampled clients and workers."""
    lines = [
        "| population | sampled | workers | state on disk | start-up s | round s: median (min to max) | CPU s a round | "
        "PSS MB | files and MB of state | MB of commits |", "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for r in rows:
        head = f"| {r['clients']:,} | {r['sampled']:,} | {r['workers']} | {'yes' if r['state'] else 'no'} |"
        if r["error"]:
            lines.append(f"{head} failed |" + " |" * 5)
            continue
        disk = r["disk"]
        lines.append(
            f"{head} {number(r['start_up_seconds'])} | {number(r['round_seconds'])} ({number(r['round_seconds_min'])} to "
            f"{number(r['round_seconds_max'])}) | {number(r['cpu_seconds'])} | {number(r['pss_bytes'] / 1e6)} | "
            f"{disk['state']['files']:,} and {number(disk['state']['bytes'] / 1e6)} | "
            f"{number(disk['commits']['bytes'] / 1e6)} |"
        )
    return "\n".join(lines)


def step_table(rows: list[dict[str, Any]]) -> str:
    """Milliseconds per client by way of training, and how many times the first way's rate that is."""
    lines = [
        "| workload | way of training | ms a client: median (min to max) | times the first | gap to the first |",
        "|---|---|---|---|---|",
    ]
    first: dict[str, float] = {}
    for r in rows:
        base = first.setdefault(r["workload"], r["ms"])
        spread = f"{number(r['ms'])} ({number(r['ms_min'])} to {number(r['ms_max'])})" if r["counts"] else "does not count"
        faster = f"{base / r['ms']:.2f}" if r["counts"] else "-"
        lines.append(f"| {r['workload']} | {r['way']} | {spread} | {faster} | {r['gap']:.0e} |")
    return "\n".join(lines)


def text(result: dict[str, Any]) -> str:
    """Everything measured, as Markdown."""
    host = result["host"]
    versions = ", ".join(f"{n} {v}" for n, v in host["versions"].items() if v)
    gpu = "one GPU" if host.get("device") == "cuda" else "no GPU in use"
    parts = [
        f"Measured on {host['date']}: {host['cores']} cores ({host['cpu']}), {gpu}, Python {host['python']}, "
        f"{versions}; commit {host['git'][:12]}; {result['minutes']:.0f} minutes.",
        *([result["note"]] if result.get("note") else []),
        "### Targets", target_table(result["targets"]),
        *(workload_table(key, measured) for key, measured in result["workloads"].items()),
    ]  # fmt: skip
    if result["heads"] and not result["heads"]["error"]:
        heads = result["heads"]
        parts += ["### W5: a round of FedD2S-avg on Fashion-MNIST, 20 clients, `fedavg_cnn`",
                  f"{number(heads['round_seconds'])} s a round; the server's head training is {heads['share']:.1%} of the time "
                  f"(largest share of a round {heads['share_max']:.1%})."]  # fmt: skip
    if result.get("steps"):
        parts += ["### One client's job on one thread, without messages", step_table(result["steps"])]
    if result["scale"]:
        parts += ["### Populations (generated clients, in process)", scale_table(result["scale"])]
    return "\n\n".join(parts) + "\n"


def draw(result: dict[str, Any], folder: Path) -> None:
    """Clients per second of each workload as bars, least and largest as a line; SVG and PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from fedkd.report.style import BLUE, MUTED, WIDTH

    measured = {k: w for k, w in result["workloads"].items() if any(r["counts"] for r in w["rows"].values())}
    counts = [[(r, n) for n, r in w["rows"].items() if r["counts"] and "echo" not in n] for w in measured.values()]
    heights = [0.26 * len(rows) + 0.7 for rows in counts]
    figure, axes = plt.subplots(
        len(measured), 1, figsize=(WIDTH + 1.4, sum(heights)), gridspec_kw={"height_ratios": heights}, squeeze=False
    )
    for axis, (key, workload), rows in zip(axes[:, 0], measured.items(), counts, strict=True):
        rows.sort(key=lambda pair: pair[0]["clients_per_second"])
        middle = [r["clients_per_second"] for r, _ in rows]
        low = [m - r["clients_per_second_min"] for m, (r, _) in zip(middle, rows, strict=True)]
        high = [r["clients_per_second_max"] - m for m, (r, _) in zip(middle, rows, strict=True)]
        ours = [BLUE if r["label"].startswith("fedkd") else MUTED for r, _ in rows]
        axis.barh([r["label"] for r, _ in rows], middle, xerr=[low, high], color=ours, ecolor="black", height=0.7)
        axis.set_title(f"{key}: {workload['title']}", loc="left", fontsize=9)
        axis.tick_params(labelsize=7)
        axis.set_xlabel("clients/s, median, least to largest (CPU, small models)", fontsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    folder.mkdir(parents=True, exist_ok=True)
    for ending in ("svg", "png"):
        figure.savefig(folder / f"speed.{ending}", dpi=140, metadata={"Date": None} if ending == "svg" else None)
    plt.close(figure)


def write(result: dict[str, Any], results: Path) -> None:
    """``speed.md`` and the figure beside the JSON; the measured part of ``docs/performance.md`` where that page is there."""
    (results / "speed.md").write_text(check_words("# Speed, as measured by `make bench`\n\n" + text(result)), encoding="utf-8")
    if any(r["counts"] for w in result["workloads"].values() for r in w["rows"].values()):
        draw(result, results / "figures")
    document = results.parent / "performance.md"
    if document.exists():
        document.write_text(check_words(placed(document.read_text(encoding="utf-8"), text(result))), encoding="utf-8")


def placed(document: str, measured: str) -> str:
    """The page with the measured part replaced. Raises: ValueError where the page has no place for it."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{measured}\n{END}{after}"
