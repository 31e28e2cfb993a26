"""A user's folder: records and clients by choice, and one line for what cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedkd.errors import ConfigError, DataError
from fedkd.texts import local_text
from fedkd.texts.local_text import Config


@pytest.fixture
def root(tmp_path: Path) -> str:
    files = {"anna/1.txt": "One.\r\ntwo\r\n\r\nthree\r\n", "anna/deep/2.txt": "\ufefffour", "top.txt": "five", "note.md": "no"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    return str(tmp_path)


@pytest.mark.parametrize(
    ("config", "texts", "clients"),
    [
        (Config(), ("One.\ntwo\n\nthree", "four", "five"), ("anna", "anna", "top.txt")),
        (Config(client="file"), ("One.\ntwo\n\nthree", "four", "five"), ("anna/1.txt", "anna/deep/2.txt", "top.txt")),
        (Config(record="paragraph"), ("One.\ntwo", "three", "four", "five"), ("anna", "anna", "anna", "top.txt")),
        (Config(record="line"), ("One.", "two", "three", "four", "five"), ("anna",) * 4 + ("top.txt",)),
    ],
)
def test_records_and_clients(root: str, config: Config, texts: tuple[str, ...], clients: tuple[str, ...]) -> None:
    corpus = local_text.load(config, root)
    assert corpus.texts == texts
    assert corpus.clients == clients
    assert set(corpus.groups) == {"anna/1.txt", "anna/deep/2.txt", "top.txt"}


def test_a_folder_must_be_named_and_hold_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"name the folder that holds the \.txt files as the root"):
        local_text.load(Config(), "")
    with pytest.raises(DataError, match=r"holds no \.txt file"):
        local_text.load(Config(), str(tmp_path / "nothing"))


def test_another_encoding_names_the_file(root: str) -> None:
    (Path(root) / "bad.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"bad\.txt is not UTF-8 \(byte 3\)"):
        local_text.load(Config(), root)


def test_texts_of_a_user_count_as_personal() -> None:
    assert local_text.SPEC.personal


@pytest.mark.parametrize(("field", "valid"), [("record", "file, paragraph, line"), ("client", "folder, file")])
def test_unknown_choices_are_refused(field: str, valid: str) -> None:
    with pytest.raises(ConfigError, match=f"{field} = 'word'; valid: {valid}"):
        Config(**{field: "word"})
