"""One look for every figure: palette, type, and the two forms in which a drawing leaves (SVG file, SVG inside a page).

Colours are Okabe and Ito's (distinguishable with every common colour-vision deficiency). A drawing inside a page names
its colours by CSS variables, so that it follows the page's light or dark scheme; the SVG file keeps plain colours.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedkd.verdict import check_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER, INK, MUTED, RULE = "#ffffff", "#1f2328", "#59636e", "#d8dee4"
BLUE, ORANGE, GREEN, PINK, SKY, AMBER = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"
SERIES = (BLUE, ORANGE, GREEN, PINK, SKY, AMBER, INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

DARK = {
    PAPER: "#161b22", INK: "#e6edf3", MUTED: "#9da7b3", RULE: "#3d444d", BLUE: "#4ba3e3", ORANGE: "#f5874f",
    GREEN: "#35c499", PINK: "#e39cc6", SKY: "#8fd0f7", AMBER: "#f2b64c",
}  # fmt: skip
"""What each colour of a figure becomes on a dark page."""

NAMES = {
    PAPER: "paper", INK: "ink", MUTED: "muted", RULE: "rule", BLUE: "blue", ORANGE: "orange", GREEN: "green",
    PINK: "pink", SKY: "sky", AMBER: "amber",
}  # fmt: skip

WIDTH = 6.6
"""inches; at 100 % a figure is 634 CSS pixels wide"""

_RC: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"], "font.size": 9.0, "axes.labelsize": 9.0, "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5, "legend.fontsize": 8.5, "legend.frameon": False, "text.parse_math": False,
    "text.color": INK, "axes.labelcolor": INK, "xtick.labelcolor": INK, "ytick.labelcolor": INK, "grid.color": RULE,
    "axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED, "axes.linewidth": 0.8, "grid.linewidth": 0.7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y",
    "axes.axisbelow": True, "lines.linewidth": 1.9, "lines.solid_capstyle": "round", "xtick.major.size": 3.0,
    "ytick.major.size": 0.0, "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "axes.facecolor": "none",
    "svg.fonttype": "none", "svg.hashsalt": "fedkd",
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A figure ready for a page: its file's stem, heading, caption, the SVG file's text and the form inside a page."""

    name: str
    title: str
    caption: str
    """what it shows and how to read it, for those who see it and those who do not"""
    svg: str
    inline: str
    png: bytes = b""
    """the same drawing as pixels, where it was asked for"""

    def save(self, folder: Path) -> Path:
        """Write ``<folder>/<name>.svg``, and the PNG if there is one. Raises: OSError where it cannot be written."""
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{self.name}.svg"
        target.write_text(check_words(self.svg), encoding="utf-8")
        if self.png:
            target.with_suffix(".png").write_bytes(self.png)
        return target


@contextmanager
def canvas(height: float, width: float = WIDTH) -> Iterator[Figure]:
    """An empty figure of ``width`` x ``height`` inches under this module's look; draw inside the ``with``."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        yield Figure(figsize=(width, height), layout="constrained")


def finish(figure: Figure, name: str, title: str, caption: str, *, png: bool = False) -> Picture:
    """The drawn figure as a Picture, with pixels at 200 dpi if ``png``; call it inside ``canvas``."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    unnamed = {"Date": None, "Creator": None}
    # one draw, where savefig makes two
    FigureCanvasSVG(figure).print_svg(buffer, metadata=unnamed)  # type: ignore[no-untyped-call]
    text = _tidy(buffer.getvalue())
    pixels = io.BytesIO()
    if png:
        figure.savefig(pixels, format="png", dpi=200, metadata={"Software": None})
    return Picture(name, title, caption, _titled(text, title), _for_page(text, name, title), pixels.getvalue())


def legend_above(figure: Figure, axes: Axes, columns: int = 4, first: str = "") -> None:
    """A legend above the plot, outside of it, so that it can cover nothing; ``first`` begins the label that leads."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        order = sorted(range(len(labels)), key=lambda i: not (first and labels[i].startswith(first)))
        handles, labels = [handles[i] for i in order], [labels[i] for i in order]
        fitting = next((n for n in range(columns, 1, -1) if _legend_width(labels, n) <= figure.get_figwidth()), 1)
        figure.legend(handles, labels, loc="outside upper left", ncols=fitting, handlelength=1.8, columnspacing=1.4)


def _legend_width(labels: Sequence[str], columns: int) -> float:  # inches
    """About how wide a legend is whose entries fill ``columns`` columns from the top: 0.068 inches a letter, 0.5 beside."""
    rows = -(-len(labels) // columns)
    return sum(0.5 + 0.068 * max(map(len, labels[at : at + rows])) for at in range(0, len(labels), rows))


def round_axis(axes: Axes, first: int, last: int) -> None:
    """A horizontal axis of rounds, counted from 1, with whole ticks; ``first`` and ``last`` count from 0."""
    from matplotlib.ticker import MaxNLocator

    pad = max(0.4, 0.015 * (last - first))
    axes.set_xlim(first + 1 - pad, last + 1 + pad)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1))
    axes.set_xlabel("round")


def page_colours() -> str:
    """The CSS of a figure's colours for light, dark and print, as declarations of ``:root`` variables."""
    light = "".join(f"--fig-{NAMES[c]}:{c};" for c in NAMES)
    dark = "".join(f"--fig-{NAMES[c]}:{DARK[c]};" for c in NAMES)
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def _tidy(svg: str) -> str:
    """Drop the XML head and the metadata (which name foreign addresses); use the reader's own fonts."""
    svg = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"'DejaVu Sans'(, sans-serif)?", "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif", svg)
    return re.sub(r"\n\s*\n+", "\n", svg).strip() + "\n"


def _titled(svg: str, title: str) -> str:
    escaped = title.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"(<svg\b[^>]*>)", lambda m: f"{m[1]}\n <title>{escaped}</title>", svg, count=1)


def _for_page(svg: str, name: str, title: str) -> str:
    """Ids unique on the page, colours by variable, size by the page, no namespace addresses."""
    svg = re.sub(r'(<image\b[^>]*?)\sid="[^"]*"', r"\1", svg)  # equal pixels get equal ids, and nothing refers to them
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'xlink:href="#', f'href="#{name}-', svg)
    head, body = svg.split(">", 1)
    svg = re.sub(r'\s(xmlns|xmlns:xlink|width|height|version)="[^"]*"', "", head) + ">" + body
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda m: _variable(m[0]), svg)
    svg = svg.replace("fill: var(--fig-paper)", "fill: none", 1)  # the page's own ground shows through
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    return _titled(svg.replace("<svg", '<svg role="img" stroke-linejoin="round"', 1), title)


def _variable(colour: str) -> str:
    return f"var(--fig-{NAMES[colour]})" if colour in NAMES else colour
