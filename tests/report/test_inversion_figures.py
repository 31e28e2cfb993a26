"""The page and figures of the inversion study from made-up runs: every arm, cut and attacker is there, with its numbers."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from benchmarks import inversion
from fedkd.reconstruct import ATTACKERS
from fedkd.report import inversion_figures
from fedkd.report.style import DARK
from fedkd.verdict import banned_in


def runs() -> list[dict[str, Any]]:
    """SSIM 0.5 + cut / 10 + seed / 100 and rank 10^cut in every arm; the arm "heads" has nothing to rebuild."""
    images = inversion._hex(np.arange(3 * 4 * 4).reshape(3, 4, 4) / 255)
    made = []
    for arm in inversion.ARMS:
        for seed in inversion.SEEDS:
            records = [] if arm == "heads" else [
                {"cut": cut, "round": 20 - cut, "place": place, "attacker": attacker, "n": 70, "clients": 20,
                 "public_rows": 4000, "pool": 1000, "ssim": 0.5 + cut / 10 + seed / 100, "chance_ssim": 0.6, "gain": 0.2,
                 "top1": 0.25, "shuffled_ssim": 0.58, "rank_median": 10.0**cut, "ssim_leak": seed > 0, "top1_leak": True}
                for cut in (1, 2, 3) for place in (("first", "last") if arm == "none" else ("last",)) for attacker in ATTACKERS
            ]  # fmt: skip
            names = [f"cut{k}_{n}" for k in (1, 2, 3) for n in ("true", "rebuilt", "chance")]
            pairs = dict.fromkeys(names, images) if arm in inversion.SHOWN and seed == 0 else {}
            told = ["not tested: does not apply"] if arm == "heads" else []
            made.append({"arm": arm, "seed": seed, "accuracy": 0.8, "records": records, "not_tested": told, "pairs": pairs})
    return made


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    made = runs()
    content: dict[str, Any] = json.loads(json.dumps({**inversion.summed(made), "runs": made}))
    return content


def test_means_and_intervals_are_over_seeds(result: dict[str, Any]) -> None:
    """Seeds at 0.00, 0.01, 0.02: mean + 0.01, half width t(2, .975) * 0.01 / sqrt 3 = 4.3027 * 0.0057735."""
    row = next(r for r in result["rows"] if (r["arm"], r["cut"]) == ("pool 4", 2))
    assert row["ssim"] == pytest.approx([0.71, 0.71 - 0.024842, 0.71 + 0.024842], abs=1e-5)
    assert row["rank"] == pytest.approx([100.0, 100.0, 100.0])
    assert (row["ssim_leak"], row["top1_leak"]) == (2, 3)
    assert len(result["rows"]) == 2 * 3 * (len(inversion.ARMS) - 1 + 1)


def test_the_page_names_every_arm_and_promises_nothing(result: dict[str, Any]) -> None:
    page = inversion.table(result)
    for arm in inversion.ARMS:
        assert page.count(f"| {arm} |") >= (1 if arm == "heads" else 3)
    assert "0.710 [0.685, 0.735]" in page and "2 / 3" in page and "100 [100, 100]" in page
    assert page.count("not tested: does not apply") == len(ATTACKERS)
    assert page.count("(first)") == 6
    assert not banned_in(page)


def test_the_figure_holds_every_mark_and_the_chance_line(result: dict[str, Any]) -> None:
    picture = inversion_figures.similarity(result)
    for text in ("cut 1", "cut 3", "chance: class mean, or rank 500", "pool 16", "80.0 %", "no rows"):
        assert text in picture.svg
    assert picture.png.startswith(b"\x89PNG")
    colours = set(re.findall(r"#[0-9a-f]{6}\b", picture.svg))
    assert colours <= set(DARK), "every colour of the figure has a dark form"
    assert not banned_in(picture.caption + picture.title)


def test_an_image_travels_in_the_result_as_text() -> None:
    """0, 0.5 and 1 are the bytes 00, 80 (127.5 to the even 128) and ff."""
    assert inversion._hex(np.array([[[0.0, 0.5], [1.0, 0.0]]])) == ["0080 ff00"]


def test_the_pairs_show_true_rebuilt_and_chance_in_lines(result: dict[str, Any]) -> None:
    picture = inversion_figures.pairs(result)
    assert all(f"{arm}, cut {k}" in picture.svg for arm in inversion.SHOWN for k in (1, 2, 3))
    assert picture.svg.count("<image") == 3 * (2 + 3 * len(inversion.SHOWN))
    assert "no image was chosen" in picture.caption
