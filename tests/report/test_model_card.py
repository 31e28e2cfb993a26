"""The model card: its headings, the audit's numbers with their intervals, and names of others as plain text."""

from __future__ import annotations

import json
import re
from typing import Any

from fedkd import run_audit
from fedkd.gate import Config, apply
from fedkd.report.model_card import model_card
from fedkd.verdict import banned_in
from tests.report.audit_example import example


def card(content: dict[str, Any]) -> str:
    return model_card(run_audit.parse(json.dumps(content).encode()), apply(content, Config()))


def test_headings_and_numbers() -> None:
    text = card(example())
    assert re.findall(r"^##? (.*)$", text, re.MULTILINE) == [
        "Model card: FedD2S-avg, none", "Intended use", "Data and training", "Metrics", "Privacy", "Limits",
    ]  # fmt: skip
    assert "| mean accuracy over clients, % [interval] | 81 [79, 83] |" in text
    assert all(f"| {line['text']} |" in text for line in example()["verdicts"])
    assert "No guarantee: features, scores of each client leave without accounted noise." in text
    assert "Gate with its preset rules: fail (exit code 1)." in text
    assert "- Not run: gradient_inversion: does not apply" in text
    assert "| cut 1 | none | decoder | 200 | 0.75 [0.71, 0.79] |" in text
    assert banned_in(text) == []


def test_every_table_row_has_the_columns_of_its_head() -> None:
    lines = card(example()).splitlines()
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")]
    heads = [i for i, line in enumerate(lines) if line.startswith("|---")]
    assert len(heads) >= 7
    for at in heads:
        width = lines[at].count("|")
        row = at - 1
        while row < len(lines) and lines[row].startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", lines[row])) == width, lines[row]
            row += 1
    assert widths


def test_names_of_others_make_no_cell_tag_or_link() -> None:
    content = example()
    content["run"]["label"] = "a | b <img src=x> [c](http://d)\n# e"
    text = card(content)
    assert "# Model card: a \\| b &lt;img src=x> \\[c](http://d) # e" in text
    assert "\n# e" not in text


def test_without_canaries_brackets_or_images_the_parts_are_left_out() -> None:
    content = example() | {"exposure": [], "brackets": [], "inversion": []}
    text = card(content)
    assert "### Exposure" not in text and "### Rebuilt" not in text and "### Empirical" not in text
    assert "### Membership" in text
