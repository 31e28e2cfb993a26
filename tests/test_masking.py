"""Masks: what is left of addresses, numbers and words, by hand; and no mask keeps a long piece of its string."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.masking import masked


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("alice@dinosaurs.org", "a***@d***.org"),
        ("Alice.B+news@mail.example.co.uk", "A***@m***.uk"),
        ("<al@ex.org>,", "<***@***.org>,"),
        ("7up@10.0.0.12", "***@***"),
        ("Kabemi", "K***"),
        ("of", "***"),
        ("The id of Kabemi is 482913.", "T*** *** *** K*** *** ****13."),
        ("+1 (555) 123-4567", "+* (***) ***-**67"),
        ("192.168.0.12", "***.***.*.12"),
        ("2001-09-11", "****-**-11"),
        ("1234", "**34"),
        ("123", "***"),
        ("7", "*"),
        ("GB29NWBK60161331926819", "G***"),
        ("12b Baker", "*** B***"),
        ("http://example.org/~bob", "h***://e***.o***/~b***"),
        ("\u00c9milie \u738b", "\u00c9*** ***"),
        ("first\nsecond 98765", "f***\ns*** ***65"),
    ],
)
def test_masks_by_hand(text: str, expected: str) -> None:
    assert masked(text) == expected


@given(st.text(st.characters(max_codepoint=0x24F), max_size=60))
def test_no_two_letters_and_no_three_digits_in_a_row_survive(text: str) -> None:
    shown = masked(re.sub(r"[@]", " ", text))
    assert not re.search(r"[^\W\d_]{2}", shown)
    assert not re.search(r"\d{3}", shown)


@given(st.integers(0, 10**15 - 1))
def test_of_a_number_at_most_two_digits_survive(number: int) -> None:
    shown, text = masked(str(number)), str(number)
    assert len(shown) == len(text), "a number keeps its length, so that a phone number looks like one"
    kept = 2 if len(text) >= 4 else 0
    assert shown == "*" * (len(text) - kept) + text[len(text) - kept :]


@given(st.from_regex(r"[a-z0-9._+-]{3,12}@[a-z0-9]{3,10}\.(org|com|net)", fullmatch=True))
def test_of_an_address_one_letter_of_each_side_and_the_end_survive(address: str) -> None:
    shown = masked(address)
    assert address not in shown
    assert len(re.sub(r"\.(org|com|net)$", "", shown).replace("*", "")) <= 5
