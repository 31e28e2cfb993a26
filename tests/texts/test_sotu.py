"""State of the Union: the table decides the order, the client and the group; the real files where they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedkd.corpus import tree_sha256
from fedkd.errors import ConfigError, DataError
from fedkd.texts import sotu

FILES = {
    "metadata.csv": b'fileid,year,president_id,party\n1801-B-1,1801,b-2,"One, Two"\n1800-A-1,1800,a-1,Three\n',
    "speeches/1800-A-1.txt": b"Fellow citizens:\n\nWe meet.\n",
    "speeches/1801-B-1.txt": b"Again.\n",
}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "sotu" / "speeches").mkdir(parents=True)
    for name, content in FILES.items():
        (tmp_path / "sotu" / name).write_bytes(content)
    monkeypatch.setattr(sotu, "SPEC", replace(sotu.SPEC, tree=tree_sha256(FILES), files=3))
    return str(tmp_path)


def test_a_record_is_a_speech(tiny: str) -> None:
    corpus = sotu.load(sotu.Config(), tiny)
    assert corpus.texts == ("Again.", "Fellow citizens:\n\nWe meet.")
    assert corpus.clients == ("b-2", "a-1")
    assert corpus.groups == ("1801", "1800")


def test_a_record_is_a_paragraph(tiny: str) -> None:
    corpus = sotu.load(sotu.Config(record="paragraph"), tiny)
    assert corpus.texts == ("Again.", "Fellow citizens:", "We meet.")
    assert corpus.clients == ("b-2", "a-1", "a-1")


def test_unknown_records_are_refused() -> None:
    with pytest.raises(ConfigError, match="valid: speech, paragraph"):
        sotu.Config(**{"record": "word"})


def test_the_real_speeches_where_they_are() -> None:
    """specs: data, section 2: 249 texts of 1790 to 2026, 45 presidents, 2.02 M words."""
    try:
        corpus = sotu.load(sotu.Config(), "")
    except DataError:
        pytest.skip(f"no files; fetch them with: {sotu.SPEC.fetch}")
    assert (len(corpus), len(set(corpus.clients))) == (249, 45)
    assert (corpus.groups[0], corpus.groups[-1]) == ("1790", "2026")
    assert sum(len(text.split()) for text in corpus.texts) == 2_019_452
    assert len(sotu.load(sotu.Config(record="paragraph"), "")) == 25_488
