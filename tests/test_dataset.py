"""Finding and checking a data set's files."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.dataset import Spec, Table, cache_root, file_sha256, find_files, read_checked
from fedkd.errors import DataError

CONTENT = b"some bytes"
SPEC = Spec("toy", (1,), 2, "MIT", "nobody", {"a.bin": hashlib.sha256(CONTENT).hexdigest()}, "fetch the toy")


def test_the_first_place_with_all_files_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        folder.mkdir()
    (second / "a.bin").write_bytes(CONTENT)
    assert find_files(SPEC, [first, second]) == {"a.bin": second / "a.bin"}
    (first / "a.bin.gz").write_bytes(gzip.compress(CONTENT))
    assert find_files(SPEC, [first, second]) == {"a.bin": first / "a.bin.gz"}


def test_missing_names_file_places_and_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.bin is in none of .*; fetch it with: fetch the toy") as caught:
        find_files(SPEC, [tmp_path])
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(DataError, match="fetch the toy"):
        find_files(SPEC, [])


@given(st.binary(max_size=40))
def test_only_the_pinned_bytes_are_read(content: bytes) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        for path, data in ((Path(folder) / "a.bin", content), (Path(folder) / "a.bin.gz", gzip.compress(content))):
            path.write_bytes(data)
            if content == CONTENT:
                assert read_checked(SPEC, "a.bin", path) == content
            else:
                with pytest.raises(DataError, match="sha256"):
                    read_checked(SPEC, "a.bin", path)


def test_the_pinned_bytes_are_read_plain_and_packed(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    (tmp_path / "a.bin.gz").write_bytes(gzip.compress(CONTENT))
    assert read_checked(SPEC, "a.bin", tmp_path / "a.bin") == CONTENT
    assert read_checked(SPEC, "a.bin", tmp_path / "a.bin.gz") == CONTENT
    assert file_sha256(tmp_path / "a.bin") == SPEC.sha256["a.bin"]


@pytest.mark.parametrize("damage", [b"", b"no gzip", gzip.compress(CONTENT)[:-6]], ids=["empty", "other", "cut"])
def test_a_broken_gzip_file_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "a.bin.gz").write_bytes(damage)
    with pytest.raises(DataError, match=r"a\.bin"):
        read_checked(SPEC, "a.bin", tmp_path / "a.bin.gz")


def test_cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "fedkd"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_root() == Path.home() / ".cache" / "fedkd"


def test_length_of_a_table() -> None:
    assert len(Table(np.zeros((3, 1), np.float32), np.zeros(3, np.int32))) == 3
