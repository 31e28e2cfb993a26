"""Laws of every file in ``fedkd/data``.

A set with files says where it looks (``places``); its hashes are checked here where the files are on the machine.
Without them the message names the exact command that fetches them.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fedkd import plugins
from fedkd.dataset import Spec, Table, find_files, read_checked
from fedkd.errors import DataError

NAMES = plugins.available("data")


@pytest.fixture(params=NAMES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return plugins.find("data", request.param)


@pytest.fixture(params=[name for name in NAMES if plugins.find("data", name).SPEC.sha256])
def with_files(request: pytest.FixtureRequest) -> ModuleType:
    return plugins.find("data", request.param)


def check(table: Table, spec: Spec) -> None:
    assert table.x.shape == (len(table), *spec.shape)
    assert table.x.dtype == np.float32
    assert np.isfinite(table.x).all()
    assert table.y.dtype == np.int32
    assert table.y.min() >= 0
    assert table.y.max() < spec.classes
    assert table.part is None or (table.part.dtype == np.int8 and len(table.part) == len(table))
    assert table.groups is None or (table.groups.dtype == np.int32 and len(table.groups) == len(table))


def test_the_folder_has_data_sets() -> None:
    assert {"digits", "fashion_mnist", "synthetic"} <= set(NAMES)


def test_spec_names_licence_and_source(module: ModuleType) -> None:
    spec = module.SPEC
    assert isinstance(spec, Spec)
    assert spec.name == module.__name__.rpartition(".")[2]
    assert spec.licence
    assert spec.source
    assert spec.classes >= 2
    assert all(side >= 1 for side in spec.shape)
    assert module.spec(module.Config()) == spec
    assert module.Config.__dataclass_params__.frozen
    assert dataclasses.is_dataclass(module.Config)


def test_pins_are_sha256_and_come_with_a_command(with_files: ModuleType) -> None:
    assert all(len(pin) == 64 and set(pin) <= set("0123456789abcdef") for pin in with_files.SPEC.sha256.values())
    assert with_files.SPEC.fetch


def test_a_set_has_a_table_or_a_generator(module: ModuleType) -> None:
    assert hasattr(module, "load") != (hasattr(module, "generate") and hasattr(module, "size"))


def test_hashes_match_where_the_files_are(with_files: ModuleType) -> None:
    config = with_files.Config()
    try:
        files = find_files(with_files.SPEC, with_files.places(config, ""))
    except DataError:
        pytest.skip(f"no files; fetch them with: {with_files.SPEC.fetch}")
    for name, path in files.items():
        assert read_checked(with_files.SPEC, name, path)


def test_rows_are_what_the_spec_says(module: ModuleType) -> None:
    config = module.Config()
    if hasattr(module, "generate"):
        for client in (0, 1, 10**6):
            table = module.generate(config, 3, client)
            assert len(table) == module.size(config, 3, client)
            check(table, module.spec(config))
        return
    try:
        table = module.load(config, "")
    except DataError:
        pytest.skip(f"no files; fetch them with: {module.SPEC.fetch}")
    check(table, module.spec(config))
    if table.part is None:  # a set that marks rows itself is text, whose alphabet holds more than a text uses
        assert len(np.unique(table.y)) == module.SPEC.classes


def test_missing_files_give_the_command(with_files: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(with_files, "places", lambda config, root: [tmp_path])
    monkeypatch.delenv("FEDKD_ALLOW_DOWNLOAD", raising=False)
    with pytest.raises(DataError) as caught:
        with_files.load(with_files.Config(), "")
    assert with_files.SPEC.fetch in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_wrong_bytes_are_refused(with_files: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in with_files.SPEC.sha256:
        (tmp_path / name).write_bytes(b"not the data")
    monkeypatch.setattr(with_files, "places", lambda config, root: [tmp_path])
    with pytest.raises(DataError, match="sha256") as caught:
        with_files.load(with_files.Config(), "")
    assert with_files.SPEC.fetch in str(caught.value)
