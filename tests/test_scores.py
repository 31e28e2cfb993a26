"""Reading score files: each malformed file gives one clear line, never a wrong number."""

from pathlib import Path

import numpy as np
import pytest

from fedkd.errors import ConfigError
from fedkd.scores import read

HEAD = "id,member,score\n"


def write(folder: Path, text: str, name: str = "scores.csv") -> Path:
    target = folder / name
    target.write_text(text, encoding="utf-8")
    return target


def test_columns_in_any_order_and_extra_ones_ignored(tmp_path: Path) -> None:
    path = write(tmp_path, "group,score,note,member,id\na,0.5,x,true,r1\nb,-1e3,y,0,r2\n")
    table = read(path)
    by_score = dict(zip(table.score.tolist(), zip(table.member.tolist(), table.group.tolist(), strict=True), strict=True))
    assert by_score == {0.5: (True, "a"), -1000.0: (False, "b")}
    assert len(table.sha256) == 64
    assert table.source == "scores.csv"


def test_quoted_text_and_blind_columns(tmp_path: Path) -> None:
    table = read(write(tmp_path, 'id,member,score,blind,text\n1,1,2,0.5,"a, ""b""\nc"\n2,0,1,0.25,d\n'))
    assert sorted(table.text.tolist()) == ['a, "b"\nc', "d"]
    assert sorted(table.blind.tolist()) == [0.25, 0.5]


def test_npz_equals_csv_and_the_order_of_the_file_does_not_matter(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = np.array([f"r{i}" for i in range(300)])
    member, score = rng.random(300) < 0.5, rng.normal(size=300).round(3)
    np.savez(tmp_path / "a.npz", id=ids, member=member, score=score)
    rows = [f"{i},{int(m)},{s}" for i, m, s in zip(ids, member, score, strict=True)]
    shuffled = [rows[i] for i in rng.permutation(300)]
    tables = [
        read(tmp_path / "a.npz"),
        read(write(tmp_path, HEAD + "\n".join(rows) + "\n", "a.csv")),
        read(write(tmp_path, HEAD + "\n".join(shuffled) + "\n", "b.csv")),
    ]
    for table in tables[1:]:
        assert np.array_equal(table.member, tables[0].member)
        assert np.array_equal(table.score, tables[0].score)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "is empty; expected a first line with the columns id, member, score"),
        (HEAD, "has no rows"),
        ("id,score\n1,2\n", "lacks the column member"),
        ("id,member,score,score\n1,1,2,2\n", "names a column twice"),
        (HEAD + "1,1,0.5\n2,0,nan\n", r"row 2: score is nan; 1 of 2 values are not finite"),
        (HEAD + "1,1,inf\n", "row 1: score is inf"),
        (HEAD + "1,1,0.5\n2,0,high\n", r"row 2: score is 'high', not a number"),
        (HEAD + "1,1,\n", "row 1: score is '', not a number"),
        (HEAD + "1,yes,0.5\n", r"row 1: member is 'yes', expected 0, 1, true or false"),
        (HEAD + "1,1,0.5\n1,0,0.7\n2,0,0.1\n", "1 duplicate ids, the first is '1'"),
        (HEAD + "1,1,0.5\n2,0\n", "row 2: 2 values, the header names 3"),
        (HEAD + "1,1,0.5,9\n", "row 1: 4 values, the header names 3"),
        ("id,member,score,group\n" + "".join(f"{i},1,1,g{i}\n" for i in range(201)), "more than 200 groups"),
    ],
)
def test_one_line_for_each_malformed_csv(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line) as refusal:
        read(write(tmp_path, text))
    assert "\n" not in str(refusal.value)
    assert str(tmp_path) not in str(refusal.value)


def test_binary_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00id")
    with pytest.raises(ConfigError, match="neither UTF-8"):
        read(tmp_path / "b.csv")
    with pytest.raises(ConfigError, match="no such file"):
        read(tmp_path / "none.csv")
    (tmp_path / "c.npz").write_bytes(b"not a zip")
    with pytest.raises(ConfigError, match="not an npz"):
        read(tmp_path / "c.npz")


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", id=np.array([{"a": 1}], dtype=object), member=[1], score=[1.0])
    with pytest.raises(ConfigError, match="pickled objects are refused"):
        read(tmp_path / "o.npz")


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"id": [1, 2], "member": [0, 2], "score": [1.0, 2.0]}, "row 2: member is 2"),
        ({"id": [1, 2], "member": [0, 1], "score": ["x", "y"]}, "score is not numeric"),
        ({"id": [1, 2], "member": [0, 1], "score": [[1.0], [2.0]]}, r"score has shape \(2, 1\)"),
        ({"id": [[1], [2]], "member": [0, 1], "score": [1.0, 2.0]}, "one-dimensional"),
        ({"id": [1, 1], "member": [0, 1], "score": [1.0, 2.0]}, "duplicate ids, the first is '1'"),
        ({"id": [1, 2], "score": [1.0, 2.0]}, "lacks the column member"),
    ],
)
def test_one_line_for_each_malformed_npz(tmp_path: Path, arrays: dict, line: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ConfigError, match=line):
        read(tmp_path / "a.npz")


def test_spellings_of_membership_may_change_between_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of two rows: 1/0, then True/FALSE, then " 1 "."""
    monkeypatch.setattr("fedkd.scores.CHUNK", 2)
    table = read(write(tmp_path, HEAD + "1,1,1\n2,0,2\n3,True,3\n4,FALSE,4\n5, 1 ,5\n"))
    assert dict(zip(table.score.tolist(), table.member.tolist(), strict=True)) == {1: 1, 2: 0, 3: 1, 4: 0, 5: 1}


def test_ids_with_equal_hashes_are_compared_in_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("fedkd.scores._hashes", lambda ids: np.zeros(ids.size, dtype=np.uint64))
    assert read(write(tmp_path, HEAD + "a,1,1\nb,0,2\nc,1,3\n")).score.size == 3
    with pytest.raises(ConfigError, match="first is 'a'"):
        read(write(tmp_path, HEAD + "a,1,1\nb,0,2\na,1,3\n"))


def test_too_many_rows_are_refused_early(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("fedkd.scores.MAX_ROWS", 2)
    with pytest.raises(ConfigError, match="more than 2 rows"):
        read(write(tmp_path, HEAD + "a,1,1\nb,0,2\nc,1,3\n"))
