"""One self-contained page for one audit result: verdicts first, then controls, figures and every row.

Specs: audit, section 8. Drawn from the result file alone; templates are Python strings, figures inline SVG. The page
loads nothing, and `fedkd.verdict.check_words` refuses any page with a banned word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedkd.errors import ConfigError
from fedkd.report.style import AMBER, BLUE, INK, MUTED, ORANGE, Picture, canvas, finish, legend_above, page_colours
from fedkd.verdict import Row, check_words, row_from, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CSS = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1f2328;--soft:#59636e;--line:#d8dee4;--card:#f6f8fa;--mark:#0072b2}
@media screen and (prefers-color-scheme:dark){:root{--bg:#0d1117;--fg:#e6edf3;--soft:#9da7b3;--line:#3d444d;
--card:#161b22;--mark:#4ba3e3}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.55 system-ui,"Segoe UI",Roboto,Arial,sans-serif}
main{max-width:52rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.6rem;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.2rem 0 .6rem;border-top:1px solid var(--line);
padding-top:.8rem}
.under,figcaption,footer,caption{color:var(--soft);font-size:.9rem}
.verdict{border-left:4px solid var(--mark);background:var(--card);padding:.7rem 1rem;margin:.5rem 0;
overflow-wrap:anywhere}
.verdict b{display:block;font-size:.85rem;color:var(--soft);font-weight:500}
figure{margin:1rem 0 0;overflow-x:auto}figure svg{display:block;width:100%;min-width:32rem;height:auto}
.table{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.35rem .7rem .35rem 0;border-bottom:1px solid var(--line);vertical-align:top}
@media print{body{font-size:10pt}main{max-width:none;padding:0}figure,tr,.verdict{break-inside:avoid}}
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ css | markup }}</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<p class="under">{{ subtitle }}</p>
{% for line in verdicts %}
<p class="verdict"><b>{{ line.threat_model }} · {{ line.target_group }}</b>{{ line.text }}</p>
{% endfor %}
<p class="under">{{ correction }}</p>
<h2>Controls</h2>
<div class="table"><table>
<thead><tr><th>control</th><th>outcome</th><th>detail</th></tr></thead>
<tbody>
{% for control in controls %}
<tr><td>{{ control.name.replace("_", " ") }}</td><td>{{ control.status }}</td><td>{{ control.detail }}</td></tr>
{% endfor %}
</tbody></table></div>
{% for picture in pictures %}
<h2>{{ picture.title }}</h2>
<figure id="{{ picture.name }}">{{ picture.inline | markup }}<figcaption>{{ picture.caption }}</figcaption></figure>
{% endfor %}
<h2>All statistics</h2>
<div class="table"><table>
<thead><tr>{% for name in head %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<h2>Limits</h2>
<p>{{ limits }}</p>
<footer>Written by fedkd {{ version }}. This file is complete in itself: it loads nothing from anywhere.</footer>
</main>
</body>
</html>
"""

_HEAD = ("group", "statistic", "value", "interval", "members", "others", "chosen on other data", "detectable", "status")

_LIMITS = (
    "These numbers speak about the attack that gave the scores, at these sizes, on these candidates. A stronger "
    "attack, other candidates or more repetitions may find more; a verdict without a leak says only what size would "
    "have been found with 80 % power. A leak shown here is a lower bound on what can be known."
)


def page(result: Mapping[str, Any]) -> str:
    """The HTML page of a result file's content.

    Raises: ConfigError for a malformed result, or one whose names contain a banned word.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined
    from markupsafe import Markup

    import fedkd

    rows = [row_from(record) for record in result.get("rows", [])]
    if not rows:
        raise ConfigError("this is no audit result: it has no rows")
    environment = Environment(loader=DictLoader({"page": PAGE}), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["markup"] = Markup
    text = environment.get_template("page").render(
        title=f"Membership audit of {rows[0].model}",
        subtitle=_subtitle(result, rows[0]),
        verdicts=result.get("verdicts", []),
        correction=_correction(result),
        controls=result.get("controls", []),
        pictures=_pictures(result, rows),
        head=_HEAD,
        table=[_cells(row) for row in rows],
        limits=_LIMITS,
        css=(_CSS + page_colours()).replace("\n", ""),
        version=fedkd.__version__,
    )
    return check_words(text)


def _subtitle(result: Mapping[str, Any], row: Row) -> str:
    source = result.get("source", {})
    counts = f"{source.get('members', 0):,} members and {source.get('non_members', 0):,} non-members"
    where = f"{source.get('file', 'scores')}, sha256 {str(source.get('sha256', ''))[:12] or 'unknown'}"
    return f"Attack {row.attack}, unit {row.unit}, view {row.view}; {counts}; {where}."


def _correction(result: Mapping[str, Any]) -> str:
    count = result.get("comparisons", 1)
    return f"Verdicts share one error probability over {count} comparisons; the intervals below are not corrected."


def _cells(row: Row) -> tuple[str, ...]:
    interval = f"[{show(row.low)}, {show(row.high)}] at {100 * row.level:g} %" if row.low is not None else "n/a"
    status = f"{row.status}: {row.reason}" if row.reason else row.status
    sizes = (f"{row.n_members:,}", f"{row.n_non_members:,}")
    ends = (row.calibration, show(row.detectable), status)
    return row.target_group, row.statistic, show(row.value), interval, *sizes, *ends


def _pictures(result: Mapping[str, Any], rows: list[Row]) -> list[Picture]:
    measured = [row for row in rows if row.value is not None]
    pictures = [_forest(measured)] if measured else []
    curve = result.get("curves", {}).get("all")
    if curve and measured:
        pictures += [_roc(curve, measured), _histogram(curve)]
    return pictures


def _roc(curve: Mapping[str, list[float]], rows: list[Row]) -> Picture:
    with canvas(3.6) as figure:
        axes: Axes = figure.subplots()
        floor = max(1e-5, min((x for x in curve["fpr"] if x > 0), default=1e-3) / 2.0)
        axes.plot([floor, 1.0], [floor, 1.0], color=MUTED, linestyle="--", linewidth=1.0, label="chance")
        points = [(max(x, floor), y) for x, y in zip(curve["fpr"], curve["tpr"], strict=True) if y > 0]
        axes.plot(*zip(*points, strict=True), color=BLUE, label="scores (envelope)")
        for row in rows:
            if row.statistic.startswith("tpr_at_fpr_") and row.target_group == "all" and row.value:
                fpr, low, high = float(row.statistic.rpartition("_")[2]), row.low or floor, row.high or 1.0
                axes.errorbar(fpr, row.value, [[row.value - low], [high - row.value]], fmt="o", color=ORANGE, capsize=3)
        axes.set(xscale="log", yscale="log", xlim=(floor, 1.0), ylim=(floor, 1.3))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, position: f"{100 * value:g} %")
            axis.set_minor_formatter("")
        axes.set(xlabel="false-positive rate", ylabel="true-positive rate")
        legend_above(figure, axes)
        caption = "Both axes logarithmic: what counts is the left edge. Points: preset rates, measured on the other half."
        return finish(figure, "roc", "ROC", caption)


def _histogram(curve: Mapping[str, list[float]]) -> Picture:
    with canvas(2.6) as figure:
        axes: Axes = figure.subplots()
        axes.stairs(curve["members"], curve["edges"], color=ORANGE, linewidth=1.6, label="members")
        axes.stairs(curve["non_members"], curve["edges"], color=INK, linewidth=1.2, label="non-members")
        axes.set(xlabel="score (higher = more likely member)", ylabel="share of candidates")
        legend_above(figure, axes)
        return finish(figure, "histogram", "Scores", "The 0.1 % at either end is drawn in the last bar.")


def _forest(rows: list[Row]) -> Picture:
    rates = [row for row in rows if row.statistic == "auc"][:30]
    with canvas(0.9 + 0.28 * len(rates)) as figure:
        axes: Axes = figure.subplots()
        axes.axvline(0.5, color=MUTED, linestyle="--", linewidth=1.0)
        for height, row in enumerate(reversed(rates)):
            value, low, high = (number if number is not None else 0.5 for number in (row.value, row.low, row.high))
            colour = AMBER if row.status == "leak shown" else BLUE
            axes.errorbar(value, height, xerr=[[value - low], [high - value]], fmt="o", color=colour, capsize=3)
        axes.set_yticks(range(len(rates)), [row.target_group for row in reversed(rates)])
        axes.set(xlabel="AUC with its interval", ylim=(-0.6, len(rates) - 0.4))
        return finish(figure, "forest", "AUC by group", "Dashed: a coin's 1/2. Amber: a leak is shown.")
