"""The three sentences and the banned words."""

import dataclasses

import pytest

from fedkd.errors import ConfigError
from fedkd.verdict import BANNED, Row, banned_in, check_words, row_from, show, verdict

ROW = Row(
    "server", "lira", "student", "all", "record", "scores", "auc", 0.61, 0.57, 0.65, 0.95, 100, 120, "none", 0.58, 1,
    "leak shown", "",
)  # fmt: skip


def test_exact_wording() -> None:
    assert verdict(ROW) == "leak shown: auc 0.61 [0.57, 0.65]"
    quiet = dataclasses.replace(ROW, status="no leak shown")
    assert verdict(quiet) == "no leak shown at detectable size auc 0.58"
    untested = dataclasses.replace(ROW, status="not tested", reason="n/a (too few non-members)")
    assert verdict(untested) == "not tested: n/a (too few non-members)"
    with pytest.raises(ValueError, match="no verdict"):
        verdict(dataclasses.replace(ROW, status="measured"))
    with pytest.raises(ValueError, match="unknown status"):
        dataclasses.replace(ROW, status="fine")


@pytest.mark.parametrize("phrase", BANNED)
def test_every_banned_phrase_is_found_in_any_case_and_over_line_breaks(phrase: str) -> None:
    text = f"We say: {phrase.upper()}.".replace(" ", "\n ")
    assert phrase in banned_in(text)
    with pytest.raises(ConfigError, match="must not contain"):
        check_words(text)


def test_other_words_pass() -> None:
    text = "safety margin, unsafe, private data, securely stored, leakage of labels, no leak shown"
    assert check_words(text) == text


def test_rows_travel_through_json_and_lose_nothing() -> None:
    record = dataclasses.asdict(ROW) | {"later": 1}
    assert row_from(record) == ROW
    del record["level"], record["unit"]
    with pytest.raises(ConfigError, match="lacks unit, level"):
        row_from(record)
    with pytest.raises(ConfigError, match="unknown status"):
        row_from(dataclasses.asdict(ROW) | {"status": "great"})


def test_numbers_are_short() -> None:
    assert [show(x) for x in (0.123456, 1e-7, 5.0, None, float("nan"))] == ["0.1235", "1e-07", "5", "n/a", "n/a"]
