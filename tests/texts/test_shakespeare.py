"""Plays: what opens, closes and interrupts a speech, which roles stay, and the real files where they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from fedkd import tokens
from fedkd.corpus import rows, tree_sha256
from fedkd.errors import ConfigError, DataError
from fedkd.texts import shakespeare

PLAY = """# The Play

## ACT I

A line of nobody.

_Enter ANNA, with her
brother_

**ANNA**  \nGood day,  \nsir.

_Exit a lord_

Are you\\--well?

**BORIS**  \nYes.  \n_Exit with
a lamp_

## ACT II

**ANNA**  \nAgain, & c.

**BORIS**
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    files = {"b/second.md": b"**ANNA**\nOther play.\n", "a/first.md": PLAY.encode()}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(shakespeare, "SPEC", replace(shakespeare.SPEC, tree=tree_sha256(files), files=2))
    return str(tmp_path)


def test_speeches_as_the_specs_count_them() -> None:
    """Only the first line of a direction is recognised, so "a lamp_" counts as spoken; BORIS's empty speech is none."""
    assert list(shakespeare.speeches(PLAY)) == [
        ("ANNA", "Good day,\nsir.\nAre you\\--well?\n"),
        ("BORIS", "Yes.\na lamp_\n"),
        ("ANNA", "Again, & c.\n"),
    ]


def test_clean_speeches() -> None:
    assert list(shakespeare.speeches(PLAY, clean=True)) == [
        ("ANNA", "Good day,\nsir.\nAre you--well?\n"),
        ("BORIS", "Yes.\n"),
        ("ANNA", "Again, & c.\n"),
    ]


def test_client_is_the_role_in_its_play_and_group_the_play(tiny: str) -> None:
    corpus = shakespeare.load(shakespeare.Config(min_characters=0), tiny)
    assert corpus.clients == ("first/ANNA", "first/BORIS", "first/ANNA", "second/ANNA")
    assert corpus.groups == ("first", "first", "first", "second")
    assert corpus.texts[3] == "Other play.\n"


@pytest.mark.parametrize(("least", "clients"), [(12, {"first/ANNA", "first/BORIS", "second/ANNA"}), (14, {"first/ANNA"})])
def test_roles_that_speak_less_are_left_out(tiny: str, least: int, clients: set[str]) -> None:
    """BORIS speaks "Yes." and "a lamp_" with two newlines: 13 characters; ANNA of the second play 12."""
    assert set(shakespeare.load(shakespeare.Config(min_characters=least), tiny).clients) == clients


def test_negative_limits_are_refused() -> None:
    with pytest.raises(ConfigError, match="min_characters = -1"):
        shakespeare.Config(min_characters=-1)


def test_the_alphabet_gives_83_tokens() -> None:
    """81 characters, the replacement and BOS: V of the swing set-ups."""
    assert tokens.characters(shakespeare.ALPHABET).vocabulary == 83
    assert list(shakespeare.ALPHABET) == sorted(set(shakespeare.ALPHABET))


def test_the_real_plays_where_they_are() -> None:
    """specs: data, section 2: 38 plays, 1,426 roles, 110,666 lines, 4.43 M characters, 81 symbols.

    270 roles speak 5,000 characters or more; 660 speak 1,000 or more (the specs' 659 are those above 1,000: one role has
    exactly 1,000). Digits stand in 14 lines, none of them four in a row.
    """
    try:
        corpus = shakespeare.load(shakespeare.Config(min_characters=0), "")
    except DataError:
        pytest.skip(f"no files; fetch them with: {shakespeare.SPEC.fetch}")
    lines = [line for text in corpus.texts for line in text.splitlines()]
    assert (len(corpus), len(set(corpus.clients)), len(set(corpus.groups))) == (31_354, 1_426, 38)
    assert (len(lines), sum(map(len, corpus.texts))) == (110_666, 4_431_820)
    assert tokens.alphabet_of(corpus.texts) == shakespeare.ALPHABET
    assert sum(any(digit in line for digit in tokens.DIGITS) for line in lines) == 14
    spoken = Counter[str]()
    for text, client in zip(corpus.texts, corpus.clients, strict=True):
        spoken[client] += len(text)
    assert [sum(size >= least for size in spoken.values()) for least in (1000, 1001, 5000)] == [660, 659, 270]
    assert len(set(shakespeare.load(shakespeare.Config(), "").clients)) == 660
    assert len(rows(corpus.texts[:100], tokens.characters(shakespeare.ALPHABET), 64).tokens) > 100
