"""What the figures of a run and of a comparison contain, read back from their SVG."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from fedkd.report.comparison import compare
from fedkd.report.comparison_figures import comparison_figures, looks, spread
from fedkd.report.figures import accuracy_figure, run_figures
from fedkd.report.layer_trace import layer_trace, level_changes
from fedkd.report.population import client_scores, label_map
from fedkd.report.run_folder import read_run
from fedkd.report.style import DARK, NAMES, Picture, canvas, legend_above, page_colours


def texts(picture: Picture) -> list[str]:
    root = ElementTree.fromstring(picture.svg)
    return ["".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")]


def by_name(pictures: list[Picture]) -> dict[str, Picture]:
    return {picture.name: picture for picture in pictures}


def test_the_files_are_svg_with_plain_colours_and_the_page_form_has_variables(write_run: Callable[..., Path]) -> None:
    pictures = run_figures(read_run(write_run(rounds=6, clients=4)))
    assert [p.name for p in pictures] == ["accuracy", "clients", "labels", "layers", "bytes"]
    for picture in pictures:
        assert ElementTree.fromstring(picture.svg).tag.endswith("svg")
        assert "var(" not in picture.svg
        assert "<metadata" not in picture.svg
        assert "base64" not in picture.svg
        assert "var(--fig-blue)" in picture.inline
        assert "http" not in picture.inline
        assert "<style" not in picture.inline
        assert picture.caption
        assert f"<title>{picture.title}</title>" in picture.inline
        assert len(picture.inline) < 150_000


def test_every_colour_of_a_figure_has_a_dark_twin() -> None:
    assert set(DARK) == set(NAMES)
    css = page_colours()
    assert all(css.count(f"--fig-{name}:") == 2 for name in NAMES.values())


@pytest.mark.parametrize("colours", [list(NAMES), list(DARK.values())])
def test_lines_stand_out_from_their_ground(colours: list[str]) -> None:
    """WCAG contrast against the figure's paper: text at least 4.5, series 1.8 (they carry names and markers)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    values = dict(zip(NAMES.values(), colours, strict=True))

    def contrast(name: str) -> float:
        a, b = sorted((luminance(values[name]), luminance(values["paper"])))
        return (b + 0.05) / (a + 0.05)

    assert contrast("ink") > 12
    assert contrast("muted") > 4.5
    assert all(contrast(name) > 1.8 for name in ("blue", "orange", "green", "pink", "sky", "amber"))
    assert contrast("blue") > 4.5


def test_the_accuracy_figure_names_what_it_draws(demo: tuple[Path, Path]) -> None:
    run, local = (read_run(folder) for folder in demo)
    picture = accuracy_figure(run, [local])
    assert picture is not None
    shown = texts(picture)
    for label in ("FedD2S-avg (ours): mean over clients", "local", "worst tenth of clients", "10th to 90th percentile"):
        assert label in shown
    assert [t for t in shown if t in ("level 4", "3", "2", "1")] == ["level 4", "3", "2", "1"]


def test_levels_change_where_the_rounds_say_so(demo: tuple[Path, Path]) -> None:
    assert level_changes(read_run(demo[0])) == [(0, 4), (20, 3), (30, 2), (36, 1)]
    assert level_changes(read_run(demo[1])) == []


def test_the_layer_trace_takes_names_from_the_summary(write_run: Callable[..., Path]) -> None:
    folder = write_run("demo", args='knowledge = "heads"')
    layers = layer_trace(read_run(folder))
    assert layers is not None
    assert [t for t in texts(layers) if "block" in t or "classifier" in t] == [
        "block 1",
        "block 2",
        "block 3",
        "classifier",
    ]
    assert "by the weighted mean of all clients' heads" in layers.caption
    summary = json.loads((folder / "summary.json").read_text()) | {"blocks": ["conv1", "conv2", "fc", "out"]}
    (folder / "summary.json").write_text(json.dumps(summary))
    renamed = layer_trace(read_run(folder))
    assert renamed is not None
    assert {"conv1", "conv2", "fc", "out"} <= set(texts(renamed))


def test_kd_only_is_not_called_averaged(write_run: Callable[..., Path]) -> None:
    run = read_run(write_run("kd", args="average = false", rounds=6))
    assert run.title == "FedD2S (KD only)"
    layers = layer_trace(run)
    assert layers is not None
    assert "in the federation (not averaged)" in texts(layers)


def test_a_run_that_averages_nothing_says_level_0(write_run: Callable[..., Path]) -> None:
    folder = write_run("kd", args="average = false", rounds=4, clients=2)
    rows = [json.loads(line) | {"level": 0, "cut": 3} for line in (folder / "rounds.jsonl").read_text().splitlines()]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    layers = layer_trace(read_run(folder))
    assert layers is not None
    assert "No block is averaged in this run (level 0)." in layers.caption
    assert "cut: knowledge passes here" in texts(layers)
    assert not [t for t in texts(layers) if "in the federation" in t or "shared and" in t]


def test_bars_are_sorted_and_clients_below_local_have_their_own_colour(write_run: Callable[..., Path]) -> None:
    local, worse = read_run(write_run("local", method="local", gain=0.05)), read_run(write_run("demo", gain=0.0))
    picture = client_scores(worse, local)
    assert picture is not None
    scores = worse.final_scores()
    ticks = [t for t in texts(picture) if re.fullmatch(r"\d+", t)][: len(scores)]
    assert ticks == [str(c) for c in sorted(scores, key=lambda c: scores[c])]
    assert "this run, below local" in texts(picture)
    assert "0 of 20 clients are not below local training" in picture.caption


def test_a_thousand_clients_become_distributions_and_groups(write_run: Callable[..., Path]) -> None:
    local = read_run(write_run("local", method="local", clients=1000, trained=100, rounds=5, gain=0.0))
    run = read_run(write_run("demo", clients=1000, trained=100, rounds=5))
    figures = by_name(run_figures(run, [local], local))
    assert "this run minus local, points" in texts(figures["clients"])
    assert "groups of similar clients" in texts(figures["labels"])
    assert "Only the first 200 of 1,000 clients are on record." in figures["labels"].caption
    assert all(len(picture.svg) < 150_000 for picture in figures.values())


def test_every_count_of_a_small_label_map_is_written(write_run: Callable[..., Path]) -> None:
    run = read_run(write_run(clients=3, classes=4, rounds=2))
    picture = label_map(run)
    assert picture is not None
    written = texts(picture)
    assert "training examples" in written
    for row in run.partition["histogram"]:
        assert all(str(value) in written for value in row if value)


@pytest.mark.parametrize("rows", [None, [], [[]], [[1, 2], [3]], [[1, "a"]], [[-1, 2]], "x"])
def test_a_broken_histogram_is_left_out(rows: object, write_run: Callable[..., Path]) -> None:
    folder = write_run(clients=2, rounds=1)
    (folder / "partition.json").write_text(json.dumps({"histogram": rows}))
    assert label_map(read_run(folder)) is None


def test_comparison_figures_name_every_method(write_run: Callable[..., Path]) -> None:
    kinds = (("local", "local", 0.0), ("fedavg", "fedavg", 0.03), ("demo", "fedd2s", 0.05))
    comparison = compare([write_run(n, method=m, gain=g, seed=s, rounds=8, clients=6) for s in (0, 1) for n, m, g in kinds])
    figures = by_name(comparison_figures(comparison))
    assert list(figures) == ["accuracy", "clients", "bytes"]
    assert {"local", "fedavg", "FedD2S-avg (ours)"} <= set(texts(figures["accuracy"]))
    assert {"fedavg", "FedD2S-avg (ours)"} <= set(texts(figures["clients"]))
    assert "local" not in texts(figures["clients"])
    assert figures["accuracy"].png.startswith(b"\x89PNG")
    assert figures["bytes"].png == b""
    chosen = looks(comparison)
    assert len({(look.colour, str(look.dashes)) for look in chosen.values()}) == 3


def test_labels_are_spread_as_little_as_possible() -> None:
    """Nearest ascending places with a gap: isotonic regression of y - i * step; two equal ones move by half a step."""
    assert spread([0.0, 10.0], 1.0) == [0.0, 10.0]
    assert spread([5.0, 5.0], 1.0) == [4.5, 5.5]
    places = spread([0.0, 0.1, 0.2, 9.0], 1.0)
    assert np.allclose(places, [-0.9, 0.1, 1.1, 9.0])


def test_a_legend_takes_as_many_columns_as_fit() -> None:
    """Four short labels stand in one row; four of 60 letters (4.6 inches each, of 6.6) stand below each other."""
    for length, columns in ((5, 4), (60, 1)):
        with canvas(2.0) as figure:
            axes = figure.subplots()
            for i in range(4):
                axes.plot([0, 1], label=f"{i}" * length)
            legend_above(figure, axes)
            assert figure.legends[0]._ncols == columns
