"""Corpora: equal columns, records kept apart, token rows against a slow oracle, files checked as one tree."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd import tokens
from fedkd.corpus import Corpus, TextSpec, Unit, pieces, read_tree, rows, tree_sha256, usual_places
from fedkd.errors import ConfigError, DataError

TOKENIZER = tokens.characters("0123456789abc \n")
SPEC = TextSpec("toy", "none", "nobody", False, patterns=("**/*.md", "table.csv"), files=3, fetch="fetch toy")
FILES = {"b/x.md": b"two", "a.md": b"one", "table.csv": b"three"}


def put(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


# ----- Corpus ----------------------------------------------------------------------------------------------------------
def test_columns_of_one_length() -> None:
    with pytest.raises(DataError, match="2 texts, 1 clients, 2 groups"):
        Corpus(("a", "b"), ("c",), ("g", "g"))


def test_take_and_extended_keep_records_whole() -> None:
    corpus = Corpus(("one", "two", "three"), ("a", "b", "a"), ("p", "p", "q"))
    assert corpus.take([2, 0]) == Corpus(("three", "one"), ("a", "a"), ("q", "p"))
    assert len(corpus.take([])) == 0
    more = corpus.extended(Corpus(("secret",), ("b",), ("planted",)))
    assert more.take(range(3)) == corpus
    assert (more.texts[3], more.clients[3], more.groups[3]) == ("secret", "b", "planted")


def test_a_printed_corpus_shows_no_text_and_no_client() -> None:
    assert repr(Corpus(("text of a person",), ("someone@example.org",), ("list.example.org",))) == "Corpus()"


# ----- rows ------------------------------------------------------------------------------------------------------------
@given(st.lists(st.text("ab1 \n", max_size=12), max_size=6), st.integers(1, 6), st.booleans(), st.integers(1, 6))
def test_rows_against_slices_of_the_text(texts: list[str], width: int, cut: bool, shortest: int) -> None:
    """One character per token, so row r of a record is text[r * width : (r + 1) * width], by definition."""
    shortest = min(shortest, width)
    expected = [
        (record, start, text[start : start + width])
        for record, text in enumerate(texts)
        for start in range(0, len(text), width)
        if (cut or start == 0) and len(text[start : start + width]) >= shortest
    ]
    got = rows(texts, TOKENIZER, width, cut=cut, shortest=shortest)
    assert got.tokens.shape == (len(expected), width + 1)
    assert all(column.dtype == np.int64 for column in got)
    for (record, start, text), line, length, r, s in zip(expected, *got, strict=True):
        assert (r, s, length) == (record, start, len(text) + 1)
        assert line[0] == TOKENIZER.bos
        assert TOKENIZER.decode(line[1:length].tolist()) == text
        assert (line[length:] == TOKENIZER.bos).all()


def test_all_rows_together_are_the_texts() -> None:
    texts = ["abc 123 abc", "", "a", "bb" * 9]
    got = rows(texts, TOKENIZER, 4)
    joined = ["".join(TOKENIZER.decode(t[:n].tolist()) for t, n, r, _ in zip(*got, strict=True) if r == i) for i in range(4)]
    assert joined == texts


def test_a_planted_record_changes_no_other_row() -> None:
    texts = ["abc abc", "cab"]
    before, after = rows(texts, TOKENIZER, 3), rows([*texts, "a 123"], TOKENIZER, 3)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new[: len(old)], old)
    assert set(after.records[len(before.records) :]) == {2}


@pytest.mark.parametrize(("width", "shortest"), [(0, 1), (-1, 1), (4, 0), (4, 5)])
def test_rows_of_no_width_are_refused(width: int, shortest: int) -> None:
    with pytest.raises(ConfigError, match="valid: 1 <= shortest <= width"):
        rows(["a"], TOKENIZER, width, shortest=shortest)


# ----- files -----------------------------------------------------------------------------------------------------------
def test_tree_hash_is_over_the_bytes_in_order_of_paths() -> None:
    assert tree_sha256(FILES) == tree_sha256(dict(reversed(FILES.items()))) == hashlib.sha256(b"onetwothree").hexdigest()


def test_the_first_place_with_files_is_read(tmp_path: Path) -> None:
    spec = replace(SPEC, tree=tree_sha256(FILES))
    put(tmp_path / "second", {**FILES, "other.txt": b"not asked for"})
    got = read_tree(spec, [tmp_path / "first", tmp_path / "second"])
    assert list(got.items()) == [("a.md", b"one"), ("b/x.md", b"two"), ("table.csv", b"three")]


def test_missing_files_give_the_places_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_tree(SPEC, [tmp_path / "x", tmp_path])
    assert "fetch it with: fetch toy" in str(caught.value)
    assert str(tmp_path / "x") in str(caught.value)
    assert "**/*.md or table.csv" in str(caught.value)


@pytest.mark.parametrize(
    "files",
    [
        {**FILES, "a.md": b"One"},
        {**FILES, "c.md": b""},
        {"b/x.md": b"two", "a.md": b"one"},
        {"a.md": b"onetwothree"},
    ],
)
def test_another_tree_is_refused_with_both_hashes(tmp_path: Path, files: dict[str, bytes]) -> None:
    """The last case has the pinned hash, for borders are not hashed: the number of files gives it away."""
    spec = replace(SPEC, tree=tree_sha256(FILES))
    with pytest.raises(DataError) as caught:
        read_tree(spec, [put(tmp_path, files)])
    assert f"{len(files)} files with tree sha256 {tree_sha256(files)}, expected 3 with {spec.tree}" in str(caught.value)
    assert "fetch toy" in str(caught.value)


def test_a_set_of_the_user_has_no_pin(tmp_path: Path) -> None:
    assert read_tree(SPEC, [put(tmp_path, {"a.md": b"mine"})]) == {"a.md": b"mine"}


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cached = tmp_path / "fedkd" / "toy"
    assert usual_places(SPEC, "") == [cached]
    assert usual_places(SPEC, "r") == [Path("r/toy"), Path("r"), cached]


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("file", ["a\nb\n \nc\n\n\nd"]), ("paragraph", ["a\nb", "c", "d"]), ("line", ["a", "b", "c", "d"])],
)
def test_pieces(unit: Unit, expected: list[str]) -> None:
    assert pieces("\na\nb\n \nc\n\n\nd\n", unit) == expected
    assert pieces(" \n\n", unit) == []
