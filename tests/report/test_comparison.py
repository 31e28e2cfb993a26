"""Comparison arithmetic against a hand calculation, refusals, and the sentence that may be said."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedkd.errors import ConfigError
from fedkd.report.comparison import Comparison, Difference, client_gains, compare
from fedkd.report.comparison_page import markdown_table, write_comparison
from fedkd.report.comparison_wording import comparison_notes, sentence

T_975 = {1: 12.706204736432095, 2: 4.302652729911275}
"""Student's 97.5 % quantiles, from tables"""


def set_scores(folder: Path, mean: float, clients: dict[str, float] | None = None) -> Path:
    file = folder / "summary.json"
    summary = json.loads(file.read_text()) | {"accuracy_mean": mean}
    if clients:
        summary["accuracy_clients"] = clients
    file.write_text(json.dumps(summary))
    return folder


@pytest.fixture
def three_seeds(write_run: Callable[..., Path]) -> list[Path]:
    """local 70, 71, 72; fedavg 72, 74, 73: differences +2, +3, +1."""
    scores = {"local": (0.70, 0.71, 0.72), "fedavg": (0.72, 0.74, 0.73)}
    runs = []
    for name, values in scores.items():
        for seed, value in enumerate(values):
            clients = {"0": value - 0.02, "1": value + 0.02} if name == "local" else {"0": value, "1": value}
            folder = write_run(name, method=name, seed=seed, clients=2, rounds=2)
            runs.append(set_scores(folder, value, clients))
    return runs


def test_the_interval_is_the_hand_calculation(three_seeds: list[Path]) -> None:
    """d = 2, 3, 1: mean 2, sd 1, half-width t(0.975, 2) / sqrt(3)."""
    comparison = compare(three_seeds)
    difference = comparison.row("fedavg").difference
    assert comparison.baseline == "local"
    assert difference is not None
    half = T_975[2] / math.sqrt(3)
    assert np.allclose(difference.per_seed, (2, 3, 1))
    assert np.allclose((difference.mean, difference.low, difference.high, difference.sd), (2, 2 - half, 2 + half, 1))
    assert difference.reading == "undecided"
    assert comparison.row("local").difference is None
    assert math.isclose(comparison.row("fedavg").accuracy_mean, 0.73)


def test_clients_are_paired_within_a_seed(three_seeds: list[Path]) -> None:
    """Client 1 of local is 2 points above its mean, so it loses 0, +1, -1 points; client 0 gains 4, 5, 3."""
    comparison = compare(three_seeds)
    gains = client_gains(comparison.row("fedavg"), comparison.row("local"))
    assert np.allclose(gains, [4, 0, 5, 1, 3, -1])
    assert comparison.row("fedavg").not_below_baseline == (5, 6)


def test_the_order_of_folders_changes_no_number(three_seeds: list[Path]) -> None:
    forward, backward = compare(three_seeds), compare(three_seeds[::-1])
    assert forward.row("fedavg") == backward.row("fedavg")


def test_one_seed_has_no_interval(three_seeds: list[Path]) -> None:
    comparison = compare([three_seeds[0], three_seeds[3]])
    difference = comparison.row("fedavg").difference
    assert difference is not None
    assert math.isnan(difference.low)
    assert difference.reading == "one seed"
    assert "| fedavg | 72.00 |" in markdown_table(comparison)
    assert "+2.00 n/a" in markdown_table(comparison)
    assert "come from one seed and have no interval" in sentence(comparison)


def test_only_common_seeds_are_paired(three_seeds: list[Path]) -> None:
    comparison = compare(three_seeds[:2] + three_seeds[3:])
    difference = comparison.row("fedavg").difference
    assert difference is not None
    assert difference.seeds == (0, 1)
    half = T_975[1] * math.sqrt(0.5) / math.sqrt(2)
    assert math.isclose(difference.high, 2.5 + half)
    assert any("Not every row has the same seeds (local: 0, 1; fedavg: 0, 1, 2)" in n for n in comparison_notes(comparison))


@pytest.mark.parametrize(
    ("low", "high", "reading"),
    [(0.1, 2, "above"), (-2, -0.1, "below"), (-0.4, 0.45, "equal within half a point"), (-0.4, 0.6, "undecided"),
     (0.0, 0.7, "undecided"), (math.nan, math.nan, "one seed")],
)  # fmt: skip
def test_what_an_interval_allows_to_say(low: float, high: float, reading: str) -> None:
    assert Difference("a", "b", (0, 1), (0.0, 0.0), 0.0, low, high, 0.1).reading == reading


def refused(folders: list[Path], match: str, **more: object) -> None:
    with pytest.raises(ConfigError, match=match):
        compare(folders, **more)  # type: ignore[arg-type]


def test_refusals(write_run: Callable[..., Path]) -> None:
    local = write_run("local", method="local", rounds=4)
    refused([], "nothing to compare")
    refused([local, write_run("longer", rounds=5)], "differ in rounds")
    refused([local, write_run("more", rounds=4, clients=21)], "differ in clients")
    refused([local, write_run("stopped", rounds=4, status="interrupted")], "is interrupted")
    refused([local, local], "same configuration and seed")
    other = write_run("other", method="fedavg", rounds=4)
    partition = json.loads((other / "partition.json").read_text()) | {"hash": "another"}
    (other / "partition.json").write_text(json.dumps(partition))
    refused([local, other], "different partitions for seed 0")
    fine = write_run("fine", method="fedavg", rounds=4)
    refused([local, fine], "no single method 'nobody'", baseline="nobody")
    refused([local, fine], "compared are: local, fine", pairs=[("fine", "nobody")])
    refused([local, fine, write_run("late", method="fedavg", rounds=4, seed=3, args="x = 1")], "no seed in common")
    (fine / "partition.json").unlink()
    (fine / "environment.json").unlink()
    refused([local, fine], "lacks a seed, a partition hash or an accuracy")


def test_where_a_run_went_is_not_part_of_its_identity(write_run: Callable[..., Path]) -> None:
    first = write_run("demo", seed=0, rounds=3, config={"workers": 1, "output": "here"})
    second = write_run("demo", seed=1, rounds=3, config={"workers": 2, "output": "there"})
    assert len(compare([first, second]).methods) == 1
    third = write_run("demo", args="temperature = 1.0", seed=1, rounds=3)
    labels = [row.label for row in compare([first, second, third]).methods]
    assert len(labels) == 2
    assert all(label.startswith("FedD2S-avg (ours) [demo ") for label in labels)


def test_other_settings_that_differ_are_named(write_run: Callable[..., Path]) -> None:
    runs = [write_run("local", method="local", rounds=3), write_run("fedavg", method="fedavg", rounds=3,
            config={"learning-rate": 0.1})]  # fmt: skip
    comparison = compare(runs)
    assert comparison.differing == ("learning-rate",)
    assert any("these settings differ between rows: learning-rate." in note for note in comparison_notes(comparison))


def four_methods(write_run: Callable[..., Path], seeds: range) -> Comparison:
    methods = (("local", "local", 0.0), ("fedavg", "fedavg", -0.05), ("half", "fedavg", 0.04), ("demo", "fedd2s", 0.06))
    return compare([write_run(n, method=m, gain=g, seed=s, rounds=8, args=f"arm = {i}")
                    for s in seeds for i, (n, m, g) in enumerate(methods)])  # fmt: skip


def test_the_sentence_names_what_is_decided_and_the_best_opponent(write_run: Callable[..., Path]) -> None:
    comparison = four_methods(write_run, range(3))
    said = sentence(comparison)
    d = comparison.difference("FedD2S-avg (ours)", "half")
    assert "are above local (95 % interval above zero)" in said
    assert "fedavg (-" in said
    assert "is below local" in said
    assert f"FedD2S-avg (ours) minus its best opponent, half, is {d.mean:+.2f} points [{d.low:+.2f}, {d.high:+.2f}]" in said
    assert said.endswith("3 seeds are few and one data set with one model says nothing about others.")
    assert said.count(". ") == 0


def test_everything_is_written_and_says_the_same(write_run: Callable[..., Path], tmp_path: Path) -> None:
    comparison = four_methods(write_run, range(2))
    page = write_comparison(comparison, tmp_path / "out")
    names = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    drawn = {f"figures/{file}" for file in ("accuracy.svg", "accuracy.png", "clients.svg", "bytes.svg")}
    assert names == {"comparison.html", "comparison.json", "comparison.md"} | drawn
    html, text = page.read_text(), (tmp_path / "out/comparison.md").read_text()
    value = json.loads((tmp_path / "out/comparison.json").read_text())
    for row in value["methods"]:
        assert f"{100 * row['accuracy_mean']:.2f}" in html
        assert f"{100 * row['accuracy_mean']:.2f}" in text
    assert value["sentence"] in text
    assert "http" not in html
    assert "No privacy guarantee is computed for these runs; nothing here was attacked." in html
    assert html.count('class="best"') == 1
    assert str(tmp_path) not in html + text + json.dumps(value)
