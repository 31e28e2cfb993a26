"""Spans to tokens, classes of tokens, a recogniser's misses; letters are those of specs, swing, section 12."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd import spans
from fedkd.spans import Span, class_ids, for_labels, to_tokens, token_kinds


def test_c_a_subword_takes_the_highest_overlapping_confidence() -> None:
    """BOS (0, 0), "id", " 48", "2913", "." with a span over the six digits and a weaker one over "id 4"."""
    found = [Span(3, 9, "digits", 0.9), Span(0, 4, "order", 0.4)]
    offsets = [(0, 0), (0, 2), (2, 5), (5, 9), (9, 10)]
    assert to_tokens(found, offsets).tolist() == np.float32([0, 0.4, 0.9, 0.9, 0]).tolist()
    assert token_kinds(found, offsets) == ["", "order", "digits", "digits", ""]
    assert to_tokens([], offsets).tolist() == [0] * 5
    assert to_tokens(found, []).shape == (0,)


def test_c_labels_are_one_position_after_the_logits() -> None:
    of_tokens = np.arange(10.0).reshape(2, 5) / 10
    assert for_labels(of_tokens).tolist() == of_tokens[:, 1:].astype(np.float32).tolist()
    assert for_labels(of_tokens).dtype == np.float32


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6), st.floats(0, 1, width=32)), max_size=6))
def test_c_one_token_per_character_is_the_maximum_by_character(pieces: list[tuple[int, int, float]]) -> None:
    found = [Span(start, start + length, "x", p) for start, length, p in pieces]
    expected = [max((s.confidence for s in found if s.start <= i < s.end), default=0.0) for i in range(26)]
    assert to_tokens(found, [(i, i + 1) for i in range(26)]).tolist() == expected


def test_class_ids_of_typed_redaction() -> None:
    vocabulary = [*"0123456789", "A", "b", "Z", "-", "12", "ab"]
    assert class_ids("digits", 4, vocabulary).tolist() == list(range(10))
    assert class_ids("iban", 10, vocabulary).tolist() == [10, 12]
    assert class_ids("ssn", 13, vocabulary).tolist() == [13]
    assert class_ids("card", 14, vocabulary).tolist() == [14]
    assert class_ids("email", 11, vocabulary).tolist() == list(range(16))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_dropped_occurrences(share: float) -> None:
    """2,000 coins: within four standard errors."""
    found = [[Span(0, 6, "digits", 0.9)] * 20 for _ in range(100)]
    kept = sum(map(len, spans.drop_occurrences(found, share, np.random.default_rng(0))))
    assert abs(kept / 2000 - (1 - share)) <= 4 * math.sqrt(share * (1 - share) / 2000)


def test_dropped_strings_go_everywhere() -> None:
    texts = [f"{i % 10}00000" for i in range(30)]
    found = [[Span(0, 6, "digits", 0.9)] for _ in texts]
    kept = spans.drop_strings(texts, found, 0.3, np.random.default_rng(0))
    left = {t for t, row in zip(texts, kept, strict=True) if row}
    assert len(left) == 7
    assert sum(map(len, kept)) == 21


def test_recall_and_precision() -> None:
    recall, precision = spans.recall_precision([0.9, 0.5, 0.4, 0.0], [True, False, True, True])
    assert (recall, precision) == (1 / 3, 1 / 2)
    assert all(math.isnan(v) for v in spans.recall_precision([0.0], [False]))
    assert spans.recall_precision(np.float32([0.9]), [True], theta=0.9) == (1.0, 1.0)


def test_an_empty_string_is_refused() -> None:
    with pytest.raises(ValueError, match="everywhere"):
        spans.occurrences(["a"], {"": 1.0})
    assert spans.occurrences(["abc"], {}) == [[]]
