"""The tests that the swing specification lists by letter exist: counted from the names of the test functions."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
WHERE = {
    "test_soft_targets.py": "abcdefhjpr",
    "test_signals.py": "i",
    "losses/test_swing.py": "aghlo",
    "sensitivity/test_regex.py": "n",
    "test_distill.py": "go",
    "test_swing_results.py": "q",
    "test_swing.py": "s",
    "test_accounting.py": "k",
    "losses/test_swing_worst_case.py": "m",
}
"""Central letters, and the files whose tests carry them."""
FEDERATED = [*"tuvwxyz", "aa"]


def letters(path: str) -> set[str]:
    """Letters that begin the names of a file's tests; "a" may be the article, which no file here uses alone."""
    return set(re.findall(r"def test_([a-z]{1,2})_", (TESTS / path).read_text(encoding="utf-8")))


def test_every_central_letter_has_a_test_where_it_is_said_to_be() -> None:
    missing = {path: set(wanted) - letters(path) for path, wanted in WHERE.items() if set(wanted) - letters(path)}
    assert not missing
    assert set("".join(WHERE.values())) == set("abcdefghijklmnopqrs")


def test_every_federated_letter_has_a_test() -> None:
    assert letters("mechanisms/test_swing.py") >= set(FEDERATED)
