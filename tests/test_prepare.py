"""Prepared data: written once, reused without the libraries that made it, checked at opening, quick to read."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd import plugins
from fedkd.config import Experiment
from fedkd.data import digits, synthetic
from fedkd.dataset import Table
from fedkd.errors import ConfigError, DataError
from fedkd.partition import split
from fedkd.prepare import _taken, data_hash, open_data, prepare

AUDITED = Experiment(num_clients=6, max_samples=900, extra_test=20, audit_holdout=0.1, audit_canaries=30, seed=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(AUDITED, tmp_path_factory.mktemp("state"))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "data" / folder.name))


def test_folder_is_named_by_the_hash_and_nothing_else_is_left(folder: Path) -> None:
    assert folder.name == data_hash(AUDITED)
    assert folder.parent.name == "data"
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_clients_get_their_rows(folder: Path) -> None:
    data, table = open_data(folder), digits.load(digits.Config(), "")
    source, canaries = np.load(folder / "rows.npy"), np.load(folder / "canaries.npz")
    labels = table.y.copy()
    labels[source[canaries["ids"]]] = canaries["given_labels"]
    assert (data.num_clients, data.shape, data.classes) == (6, (1, 8, 8), 10)
    for n in range(6):
        client = data.client(n)
        assert client.client == n
        assert client.num_examples == data.sizes[n] > 0
        for part in (client.train, client.val, client.test):
            assert (part.x.dtype, part.y.dtype, part.ids.dtype) == (np.float32, np.int32, np.int32)
            assert (np.diff(part.ids) > 0).all()
            assert np.array_equal(part.x, table.x[source[part.ids]])
            assert np.array_equal(part.y, labels[source[part.ids]])
        own = len(client.train) + len(client.val) + len(client.test) - 20
        assert own == data.histogram[n].sum()
        assert not set(client.train.ids.tolist()) & set(client.test.ids.tolist())


def test_audit_files_say_who_was_in(folder: Path) -> None:
    data, canaries = open_data(folder), np.load(folder / "canaries.npz")
    trained = {int(i): n for n in range(6) for i in data.client(n).train.ids}
    seen = set(trained) | {int(i) for n in range(6) for p in ("val", "test") for i in getattr(data.client(n), p).ids}
    assert [trained.get(int(i), -1) for i in canaries["ids"]] == canaries["client"].tolist()
    assert np.array_equal(canaries["client"] >= 0, canaries["member"])
    assert (canaries["true_labels"] != canaries["given_labels"]).all()
    assert not seen & set(np.load(folder / "holdout.npy").tolist())


def test_meta_counts(folder: Path) -> None:
    meta = open_data(folder).meta
    counts = meta["counts"]
    assert counts["train"] + counts["val"] + counts["test"] + counts["holdout"] == 900 - 30 + counts["canary_members"]
    assert counts["extra"] == 6 * 20
    assert meta["extra_test"] == {"asked": 20, "smallest": 20, "clients_with_fewer": 0}
    assert meta["duplicates"] == {"rows": 0, "test_rows_equal_to_a_train_row": 0}
    assert meta["spec"]["licence"] == digits.SPEC.licence
    assert meta["keys"]["partition_config"] == {"alpha": 0.5}
    assert meta["seed"] == 5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 6), ("max_samples", 901), ("num_clients", 7), ("partition_name", "iid"), ("extra_test", 21),
        ("partition_args", "alpha = 0.4"), ("min_client_samples", 11), ("audit_holdout", 0.2), ("audit_canaries", 31),
        ("data_name", "synthetic"),
    ],
)  # fmt: skip
def test_hash_changes_with_what_determines_the_data(field: str, value: Any) -> None:
    assert data_hash(dataclasses.replace(AUDITED, **{field: value})) != data_hash(AUDITED)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data_root", "/elsewhere"),
        ("learning_rate", 0.1),
        ("num_server_rounds", 3),
        ("partition_args", "alpha=0.50"),
        ("workers", 9),
    ],
)
def test_hash_does_not_change_with_the_rest(field: str, value: Any) -> None:
    assert data_hash(dataclasses.replace(AUDITED, **{field: value})) == data_hash(AUDITED)
    assert len(data_hash(AUDITED)) == 8


def test_same_bytes_again(folder: Path, tmp_path: Path) -> None:
    again = prepare(AUDITED, tmp_path)
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_finished_folder_needs_no_library(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fedkd.config import Experiment; from fedkd.prepare import *;"
        f"p = prepare(Experiment(num_clients=6, max_samples=900, extra_test=20, audit_holdout=0.1, audit_canaries=30,"
        f" seed=5), Path({str(folder.parent.parent)!r})); open_data(p).client(0);"
        "print([m for m in ('flwr_datasets', 'datasets', 'sklearn', 'torch') if m in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_racing_writers_end_with_one_whole_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: prepare(dataclasses.replace(AUDITED, seed=9), tmp_path), range(4)))
    assert len(set(paths)) == 1
    assert [p.name for p in (tmp_path / "data").iterdir()] == [paths[0].name]
    open_data(paths[0])


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max-samples"):
        prepare(dataclasses.replace(AUDITED, max_samples=5000), tmp_path)
    assert list(tmp_path.iterdir()) == [], "something was left behind"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot write prepared data below"):
        prepare(AUDITED, tmp_path)


def damage_meta(path: Path, **fields: Any) -> None:
    meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    (path / "meta.json").write_text(json.dumps({**meta, **fields}), encoding="utf-8")


def test_damage_is_found_at_opening(copy: Path) -> None:
    index = copy / "train.npy"
    good = index.read_bytes()
    index.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(DataError, match=r"train\.npy does not match its sha256; remove"):
        open_data(copy)
    index.unlink()
    with pytest.raises(DataError, match=r"train\.npy is missing"):
        open_data(copy)
    index.write_bytes(good)
    (copy / "y.npy").write_bytes((copy / "y.npy").read_bytes() + b"x")
    with pytest.raises(DataError, match=r"y\.npy is missing or has not"):
        open_data(copy)


def test_wrong_meta_is_found_at_opening(copy: Path) -> None:
    open_data(copy)
    damage_meta(copy, format=999)
    with pytest.raises(DataError, match="not the format 2"):
        open_data(copy)
    damage_meta(copy, format=2, hash="00000000")
    with pytest.raises(DataError, match="own hash 00000000"):
        open_data(copy)
    for content in ("not json", "[]"):
        (copy / "meta.json").write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match="remove"):
            open_data(copy)
    (copy / "meta.json").unlink()
    with pytest.raises(DataError, match=r"no readable meta\.json"):
        prepare(AUDITED, copy.parent.parent)


@pytest.mark.parametrize("n", [-1, 6])
def test_unknown_clients_are_refused(folder: Path, n: int) -> None:
    with pytest.raises(ConfigError, match="clients 0 to 5"):
        open_data(folder).client(n)


def test_opening_and_reading_are_quick(folder: Path) -> None:
    def best(call: Any) -> float:
        times = []
        for _ in range(40):  # the machine may be busy: the best of many
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    data = open_data(folder)
    assert best(lambda: open_data(folder)) < 0.010
    assert best(lambda: data.client(1)) < 0.001


def test_generated_clients_hold_what_the_generator_makes(tmp_path: Path) -> None:
    e = Experiment(data_name="synthetic", data_args="size_skew = 1.0, classes = 4", num_clients=30, seed=2)
    path = prepare(e, tmp_path)
    assert {"meta.json", "sizes.npy", "starts.npy"} <= {p.name for p in path.iterdir()}
    data, config = open_data(path), synthetic.Config(size_skew=1.0, classes=4)
    ids: list[int] = []
    for n in (0, 1, 17, 29):
        client, table = data.client(n), synthetic.generate(config, 2, n)
        train, val, test = split(table.y, np.arange(len(table)), 2, n)
        for part, rows in ((client.train, train), (client.val, val), (client.test, test)):
            assert np.array_equal(part.x, table.x[rows])
            assert np.array_equal(part.y, table.y[rows])
            assert part.ids.dtype == np.int32
            ids += part.ids.tolist()
        assert client.num_examples == data.sizes[n]
        assert data.histogram[n].tolist() == np.bincount(table.y, minlength=4).tolist()
    assert len(set(ids)) == len(ids)


def test_stored_rows_are_the_generated_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small generating set is written once; without its files (a large one) every client, id and label is the same."""
    e = Experiment(data_name="synthetic", data_args="size_skew = 1.0, classes = 4", num_clients=9, seed=3, public_samples=5)
    stored = open_data(prepare(e, tmp_path / "a"))
    monkeypatch.setattr("fedkd.prepare.STORED", (8, 1 << 30))
    made = open_data(prepare(e, tmp_path / "b"))
    monkeypatch.setattr("fedkd.prepare.STORED", (1 << 12, int(stored.arrays["x"].nbytes) - 1))
    assert set(open_data(prepare(e, tmp_path / "c")).arrays) == set(made.arrays) == {"sizes"}
    assert isinstance(stored.arrays["x"].base, np.memmap)
    for n in range(9):
        for part in ("train", "val", "test", "public"):
            one, other = getattr(stored.client(n), part), getattr(made.client(n), part)
            for a, b in ((one.x, other.x), (one.y, other.y), (one.ids, other.ids)):
                assert a.dtype == b.dtype and a.tobytes() == b.tobytes()
    assert np.array_equal(stored.histogram, made.histogram)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_samples": 10}, "max-samples = 10 needs a data set with a table"),
        ({"extra_test": 10}, "extra-test = 10"),
        ({"audit_holdout": 0.1}, "audit.holdout = 0.1"),
        ({"audit_canaries": 1}, "audit.canaries = 1"),
        ({"min_client_samples": 51}, "smallest client 50 samples, min-client-samples asks for 51"),
    ],
)
def test_generated_data_refuses_what_needs_a_table(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(Experiment(data_name="synthetic", **fields), tmp_path)


def use(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``digits`` load this table."""
    real = plugins.find

    def find(slot: str, name: str) -> ModuleType:
        module = real(slot, name)
        monkeypatch.setattr(module, "load", lambda config, root: table)
        return module

    monkeypatch.setattr(plugins, "find", find)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((4, 8, 8), np.float32), np.zeros(4, np.int32), "expected float32 and int32 for 4 examples"),
        (np.zeros((4, 1, 8, 8)), np.zeros(4, np.int32), "x is float64"),
        (np.zeros((4, 1, 8, 8), np.float32), np.zeros(4), "y float64"),
        (np.zeros((4, 1, 8, 8), np.float32), np.full(4, 10, np.int32), r"outside 0\.\.9"),
        (np.zeros((4, 1, 8, 8), np.float32), np.full(4, -1, np.int32), r"outside 0\.\.9"),
        (np.zeros((0, 1, 8, 8), np.float32), np.zeros(0, np.int32), "no rows"),
        (np.full((4, 1, 8, 8), np.nan, np.float32), np.zeros(4, np.int32), "not finite"),
    ],
)
def test_a_table_that_breaks_its_spec_is_refused(
    x: Any, y: Any, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(Table(x, y), monkeypatch)
    with pytest.raises(DataError, match=message):
        prepare(AUDITED, tmp_path)


def test_exact_duplicates_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """100 pictures, each twice: 100 rows equal an earlier one, and some test rows equal a training row."""
    x = np.repeat(np.random.default_rng(0).standard_normal((100, 1, 8, 8), dtype=np.float32), 2, axis=0)
    use(Table(x, np.repeat(np.arange(100) % 10, 2).astype(np.int32)), monkeypatch)
    path = prepare(Experiment(num_clients=2, partition_name="iid"), tmp_path)
    duplicates = open_data(path).meta["duplicates"]
    assert duplicates["rows"] == 100
    tests = {row.tobytes() for n in (0, 1) for row in open_data(path).client(n).test.x}
    trained = {row.tobytes() for n in (0, 1) for row in open_data(path).client(n).train.x}
    assert duplicates["test_rows_equal_to_a_train_row"] >= len(tests & trained) > 0


@given(st.lists(st.integers(0, 40), unique=True, max_size=12))
def test_rows_are_taken_as_they_are_named(rows: list[int]) -> None:
    """Side by side or not, one or none: numpy's own indexing is the oracle; only a range is not copied."""
    array, wanted = np.arange(123).reshape(41, 3), np.array(sorted(rows), np.int32)
    got = _taken(array, wanted)
    assert np.array_equal(got, array[wanted])
    assert np.shares_memory(got, array) == (bool(rows) and sorted(rows) == list(range(min(rows), max(rows) + 1)))
