"""The page of a score audit: complete in itself, escaped, and without a banned word."""

import re

import numpy as np
import pytest

from fedkd.errors import ConfigError
from fedkd.evaluate import Config, evaluate
from fedkd.report.scores import page
from fedkd.scores import Table
from fedkd.verdict import banned_in


def result(size: int = 2000, shift: float = 0.5, model: str = "student", group: list[str] | None = None) -> dict:
    rng = np.random.default_rng(0)
    member = np.arange(size) % 2 == 0
    names = None if group is None else np.array(group)[np.arange(size) % len(group)]
    table = Table(member, rng.normal(size=size) + shift * member, group=names, source="scores.csv")
    return evaluate(table, Config(permutations=10, model=model)).to_json()


@pytest.mark.parametrize(("size", "shift"), [(2000, 0.5), (2000, 0.0), (10, 1.0), (40_000, 0.1)])
def test_verdict_first_and_nothing_is_loaded(size: int, shift: float) -> None:
    content = result(size, shift)
    html = page(content)
    assert content["verdicts"][0]["text"].replace("'", "&#39;") in html
    assert html.index('class="verdict"') < html.index("<h2>Controls")
    assert html.count("<svg") == 3
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", html)
    assert "@import" not in html
    assert not re.search(r"https?://", html)
    assert banned_in(html) == []
    assert "(0 " not in html
    assert "mathdefault" not in html, "a tick label in markup that nothing renders"


def test_names_of_others_are_escaped() -> None:
    html = page(result(group=["<script>alert(1)</script>", "b"], model='m"><img>'))
    assert "<script>" not in html
    assert "<img>" not in html
    assert "&lt;script&gt;" in html


def test_a_banned_name_is_refused_rather_than_printed() -> None:
    with pytest.raises(ConfigError, match="must not contain 'safe'"):
        page(result(model="our safe model"))


def test_withheld_results_still_make_a_page() -> None:
    rng = np.random.default_rng(0)
    member = np.arange(600) % 2 == 0
    table = Table(member, rng.normal(size=600), blind=rng.normal(size=600) + 2.0 * member)
    html = page(evaluate(table, Config(permutations=10)).to_json())
    assert "the split is broken" in html
    assert "<svg" not in html


def test_same_result_same_page() -> None:
    assert page(result()) == page(result())


def test_no_rows_no_page() -> None:
    with pytest.raises(ConfigError, match="no audit result"):
        page({"rows": []})
