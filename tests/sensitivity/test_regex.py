"""Patterns, checksums and propagation; letters in the names are those of specs, swing, section 12."""

from __future__ import annotations

import numpy as np
import pytest

from fedkd import spans
from fedkd.errors import ConfigError
from fedkd.sensitivity import regex

HITS = [
    ("The id of Kabemi is 482913.", "482913", "digits", 0.9),
    ("call +49 170 1234567 now", "+49 170 1234567", "phone", 0.9),
    ("call +491701234567 now", "+491701234567", "phone", 0.9),
    ("or (555) 123-4567", "(555) 123-4567", "phone", 0.9),
    ("ssn 123-45-6789.", "123-45-6789", "ssn", 0.95),
    ("card 4111 1111 1111 1111", "4111 1111 1111 1111", "card", 1.0),
    ("card 5500-0000-0000-0004", "5500-0000-0000-0004", "card", 1.0),
    ("mail a.b+c@ex-ample.co.uk.", "a.b+c@ex-ample.co.uk", "email", 1.0),
    ("host 192.168.0.1, up", "192.168.0.1", "ip", 0.95),
    ("to DE89 3704 0044 0532 0130 00 please", "DE89 3704 0044 0532 0130 00", "iban", 1.0),
    ("to GB82WEST12345698765432", "GB82WEST12345698765432", "iban", 1.0),
    ("Order no. AB-12345", "AB-12345", "order", 0.9),
    ("invoice #4711 paid", "4711", "order", 0.9),
    ("zip 90210", "90210", "zip", 0.01),
]


@pytest.mark.parametrize(("text", "string", "kind", "confidence"), HITS, ids=[h[1] for h in HITS])
def test_what_is_flagged(text: str, string: str, kind: str, confidence: float) -> None:
    found = {(text[s.start : s.end], s.kind): s.confidence for s in regex.recognise([text])[0]}
    assert found[string, kind] == confidence


@pytest.mark.parametrize(
    "text",
    ["Henry the 5th of 1599", "card 4111 1111 1111 1112", "host 300.1.1.1", "DE89 3704 0044 0532 0130 01", "a@b", "666-12-1234",
     "in order 12", "version 1.2.3.4.5"],
)  # fmt: skip
def test_what_fails_its_check_keeps_no_strong_kind(text: str) -> None:
    kinds = {s.kind for s in regex.recognise([text])[0]}
    assert not kinds & {"card", "ip", "iban", "email", "ssn", "order"}


def test_checksums_of_published_examples() -> None:
    """ISO 7812's usual test numbers and the IBAN registry's examples; one changed digit breaks each."""
    assert regex.luhn("4111111111111111") and regex.luhn("378282246310005")
    assert regex.iban("GB82 WEST 1234 5698 7654 32") and regex.iban("DE89370400440532013000")
    for good in ("4111111111111111", "378282246310005"):
        for place in range(len(good)):
            assert not regex.luhn(good[:place] + str((int(good[place]) + 1) % 10) + good[place + 1 :])
    assert not regex.iban("DE89370400440532013001")
    assert not regex.luhn("0")


# ----- (n) propagation -------------------------------------------------------------------------------------------------
RECORDS = [
    "The id of Kabemi is 482913.",
    "id:482913x",
    "Kabemi paid AB-12345",
    "Order no. AB-12345",
    "9482913 and 4829130",
    "482913",
]


def flagged_pieces(found: spans.Found, texts: list[str], theta: float = 0.5) -> list[list[str]]:
    return [sorted({t[s.start : s.end] for s in row if s.confidence >= theta}) for t, row in zip(texts, found, strict=True)]


def test_n_one_flagged_occurrence_flags_all_others() -> None:
    """No pattern flags "AB-12345" without the word before it; propagation carries the confidence over."""
    alone = flagged_pieces(regex.find(regex.Config(propagate=False), RECORDS), RECORDS)
    spread = regex.find(regex.Config(), RECORDS)
    assert alone[2] == []
    assert flagged_pieces(spread, RECORDS)[2] == ["AB-12345"]
    assert [s.confidence for s in spread[2] if s.confidence >= 0.5] == [0.9]


def test_n_missed_occurrences_are_repaired_from_one_that_was_seen() -> None:
    text = ["The id of Kabemi is 482913."] * 20
    found = spans.drop_occurrences(regex.recognise(text), 0.5, np.random.default_rng(0))
    assert 0 < sum(map(len, found)) < 20
    repaired = regex.with_flagged(text, found, regex.collect(regex.Config(), text, found))
    assert all(flagged == ["482913"] for flagged in flagged_pieces(repaired, text))
    assert regex.with_flagged(text, found, {}) == found


def test_n_none_inside_a_longer_number() -> None:
    texts = ["482913 9482913 4829130 a482913b 482913"]
    found = spans.occurrences(texts, {"482913": 0.9})[0]
    assert [s.start for s in found] == [0, 24, 32]
    words = spans.occurrences(["anna hannah anna7 Xanna"], {"anna": 0.8})[0]
    assert [s.start for s in words] == [0, 12]


def test_n_short_strings_and_low_confidences_do_not_travel() -> None:
    texts = ["zip 90210", "abc here", "confident here"]
    found = [[spans.Span(4, 9, "zip", 0.01)], [spans.Span(0, 3, "x", 1.0)], [spans.Span(0, 9, "x", 0.5)]]
    assert regex.collect(regex.Config(), texts, found) == {"confident": 0.5}
    assert regex.collect(regex.Config(theta=0.6), texts, found) == {}
    assert regex.collect(regex.Config(), ["90210"]) == {}


def test_n_the_highest_confidence_travels() -> None:
    found = [[spans.Span(0, 4, "a", 0.6)], [spans.Span(0, 4, "b", 0.8)]]
    flagged = regex.collect(regex.Config(), ["abcd", "abcd"], found)
    assert flagged == {"abcd": 0.8}
    assert [s.confidence for s in regex.with_flagged(["abcd"], [found[0]], flagged)[0]] == [0.8]


def test_n_a_string_that_was_never_flagged_is_not_found() -> None:
    texts = ["id 482913", "id 482913", "id 771122"]
    found = spans.drop_strings(texts, regex.recognise(texts), 0.5, np.random.default_rng(0))
    repaired = regex.with_flagged(texts, found, regex.collect(regex.Config(), texts, found))
    seen = {piece for row in flagged_pieces(repaired, texts) for piece in row}
    assert len(seen) == 1


def test_likelihood_per_token_by_pass() -> None:
    """One token per character; the six digits of record 0 get 0.9, nothing else does."""
    offsets = [[(i, i + 1) for i in range(len(text))] for text in RECORDS]
    rows = regex.likelihood(RECORDS, offsets, regex.collect(regex.Config(), RECORDS))
    assert rows[0].tolist() == [np.float32(0.9) if c.isdigit() else 0 for c in RECORDS[0]]
    assert rows[2].max() == np.float32(0.9)
    assert regex.likelihood(RECORDS, offsets, {})[2].max() <= np.float32(0.01)


def test_bad_theta_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"theta = 1\.5; valid: 0 to 1"):
        regex.Config(theta=1.5)
