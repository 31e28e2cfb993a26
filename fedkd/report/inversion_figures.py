"""Figures of the inversion study: similarity and rank per cut and mechanism, and rebuilt images chosen by a fixed rule.

Drawn from ``docs/results/inversion.json`` alone, which ``benchmarks/inversion.py`` writes.
"""

from __future__ import annotations

from typing import Any

from fedkd.report.style import BLUE, GREEN, INK, MUTED, ORANGE, PAPER, Picture, canvas, finish

EACH = "each client's blocks"
CUTS = {1: (BLUE, "o"), 2: (ORANGE, "s"), 3: (GREEN, "^")}


def similarity(result: dict[str, Any]) -> Picture:
    """SSIM and rank with intervals over seeds, one column per mechanism, one mark per cut and attacker, last rounds."""
    arms = result["arms"]
    rows = [r for r in result["rows"] if r["place"] == "last"]
    with canvas(5.2, 8.2) as figure:
        above, below = figure.subplots(2, 1, sharex=True)
        chance = next(r["chance_ssim"][0] for r in rows)
        above.axhline(chance, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), label="chance: class mean, or rank 500")
        below.axhline((result["pool"] + 1) / 2, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
        for at, arm in enumerate(arms):
            for row in (r for r in rows if r["arm"] == arm["arm"]):
                _mark(above, at, row, "ssim")
                _mark(below, at, row, "rank")
            if arm["not_tested"]:
                for axes in (above, below):
                    axes.text(at, 0.5, "no rows\nare sent", transform=axes.get_xaxis_transform(), ha="center", va="center",
                              color=MUTED, fontsize=8)  # fmt: skip
        for cut, (colour, marker) in CUTS.items():
            above.plot([], [], color=colour, marker=marker, linestyle="", label=f"cut {cut}")
        above.plot([], [], color=MUTED, marker="o", linestyle="", label=f"attacker: {EACH}")
        above.plot([], [], color=MUTED, marker="o", linestyle="", markerfacecolor=PAPER, label="attacker: averaged blocks")
        above.set_ylabel("SSIM of rebuilt images")
        below.set(ylabel=f"rank of the true image of {result['pool']}", yscale="log")
        below.set_yticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
        below.set_ylim(1300, 0.8)
        labels = [f"{a['arm'].replace('_noise ', '_noise' + chr(10))}\n{100 * a['accuracy'][0]:.1f} %" for a in arms]
        below.set_xticks(range(len(arms)), labels)
        below.set_xlim(-0.55, len(arms) - 0.45)
        below.minorticks_off()
        below.set_xlabel("mechanism, and accuracy of the clients' models")
        handles, names = above.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=3, handlelength=1.8, columnspacing=1.4)
        caption = (
            f"Up is worse for the clients, in both panels. Each mark is one cut in its last round, mean over "
            f"{len(result['seeds'])} seeds with its 95 % t interval; filled: a decoder trained through each client's uploaded "
            f"blocks, hollow: through the averaged ones. Ranks are among {result['pool']} images of the true image's class."
        )
        title = "What uploaded features show of the images, by mechanism and cut"
        return finish(figure, "inversion", title, caption, png=True)


def pairs(result: dict[str, Any]) -> Picture:
    """Rebuilt images of fixed rows: the true ones above, one line per mechanism and cut, the class mean below."""
    shown = {run["arm"]: run["pairs"] for run in result["runs"] if run["pairs"]}
    first = next(iter(shown.values()))
    cuts = sorted({int(n[3]) for n in first})
    lines = [("true", first[f"cut{cuts[0]}_true"])]
    lines += [(f"{arm}, cut {k}", own[f"cut{k}_rebuilt"]) for arm, own in shown.items() for k in cuts]
    lines.append(("chance", first[f"cut{cuts[0]}_chance"]))
    count = len(lines[0][1])
    with canvas(0.52 * len(lines) + 0.2, 0.52 * count + 1.5) as figure:
        grid = figure.subplots(len(lines), count, squeeze=False, gridspec_kw={"hspace": 0.02, "wspace": 0.02})
        for line, (name, images) in zip(grid, lines, strict=True):
            for axes, image in zip(line, images, strict=True):
                axes.imshow(
                    [list(bytes.fromhex(row)) for row in image.split()], cmap="gray", vmin=0, vmax=255, interpolation="nearest"
                )
                axes.set(xticks=[], yticks=[])
                axes.grid(visible=False)
                axes.spines[:].set_visible(False)
            if name.endswith(f"cut {cuts[-1]}") or name == "true":  # a group of lines ends
                for axes in line:
                    axes.autoscale(enable=False)  # a rule below the image must not shrink it
                    axes.plot([0, 1], [-0.09, -0.09], transform=axes.transAxes, color=MUTED, linewidth=0.8, clip_on=False)
            line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8.5)
        caption = (
            f"Of the first {count} clients by id the row with the lowest sample id, first seed, last round of each cut, "
            "attacker with the averaged blocks; no image was chosen by what came of it. Chance is the class-mean image."
        )
        return finish(figure, "inversion_pairs", "True and rebuilt images by a fixed rule", caption, png=True)


def _mark(axes: Any, at: int, row: dict[str, Any], name: str) -> None:
    colour, marker = CUTS[row["cut"]]
    each = row["attacker"] == EACH
    x = at + 0.24 * (row["cut"] - 2) + (0.05 if each else -0.05)
    value, low, high = row[name]
    low, high = (max(low, 1.0), min(high, 1000.0)) if name == "rank" else (low, high)
    axes.plot([x, x], [low, high], color=colour, linewidth=1.2, zorder=2)
    axes.plot([x], [value], color=colour, marker=marker, markersize=5.0, markerfacecolor=colour if each else PAPER, zorder=3)
