"""Laws of every file in ``fedkd/texts``.

A pinned set is checked here where its files are on the machine; without them the message names the command that fetches
them. No assertion compares texts: a failure must not print what a person wrote.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import ModuleType

import pytest

from fedkd import plugins
from fedkd.corpus import Corpus, TextSpec
from fedkd.errors import DataError
from simulations.fetch import FETCHERS, PACKAGES

NAMES = plugins.available("texts")


@pytest.fixture(params=NAMES, scope="module")
def module(request: pytest.FixtureRequest) -> ModuleType:
    return plugins.find("texts", request.param)


@pytest.fixture(params=[name for name in NAMES if plugins.find("texts", name).SPEC.tree])
def pinned(request: pytest.FixtureRequest) -> ModuleType:
    return plugins.find("texts", request.param)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder for the sets that read whatever files the user has."""
    folder = tmp_path_factory.mktemp("texts")
    for client in ("anna", "boris"):
        (folder / client).mkdir()
        (folder / client / "one.txt").write_text(f"A text of {client}.\n\nAnd another.\n")
    return str(folder)


@pytest.fixture(scope="module")
def corpus(module: ModuleType, written: str) -> Corpus:
    try:
        loaded = module.load(module.Config(), "" if module.SPEC.tree else written)
    except DataError as error:
        if not module.SPEC.tree or "in any of" not in str(error):
            raise
        pytest.skip(f"no files; fetch them with: {module.SPEC.fetch}")
    assert isinstance(loaded, Corpus)
    return loaded


def test_the_folder_has_corpora() -> None:
    assert {"local_text", "shakespeare", "sotu", "spam_assassin", "template"} <= set(NAMES)


def test_spec_names_licence_source_and_persons(module: ModuleType) -> None:
    spec = module.SPEC
    assert isinstance(spec, TextSpec)
    assert spec.name == module.__name__.rpartition(".")[2]
    assert spec.licence
    assert spec.source
    assert isinstance(spec.personal, bool)
    assert dataclasses.is_dataclass(module.Config)
    assert module.Config.__dataclass_params__.frozen
    assert hasattr(module, "places") == bool(spec.patterns)


def test_a_pin_has_a_count_a_command_and_a_package(pinned: ModuleType) -> None:
    spec = pinned.SPEC
    assert re.fullmatch("[0-9a-f]{64}", spec.tree)
    assert spec.files > 0
    assert spec.fetch == f"python -m simulations.fetch {spec.name}"
    assert spec.name in FETCHERS
    assert re.fullmatch("[0-9a-f]{64}", PACKAGES[spec.name].sha256)


def test_records_have_text_and_a_client(corpus: Corpus) -> None:
    assert len(corpus) > 0
    assert sum(not text.strip() for text in corpus.texts) == 0
    assert sum(not client for client in corpus.clients) == 0
    assert len(set(corpus.clients)) >= 2
    assert len(corpus.groups) == len(corpus)
    assert sum(len(text.encode()) for text in corpus.texts) > 0, "every text can be written as UTF-8"


def test_loading_repeats(module: ModuleType, corpus: Corpus, written: str) -> None:
    """Not for sets of thousands of files: reading them again takes seconds, and their counts are tested with the plug-in."""
    if module.SPEC.files > 1000:
        return
    again = module.load(module.Config(), "" if module.SPEC.tree else written)
    assert hash(again) == hash(corpus), "another order or other texts"


def test_missing_files_give_the_command(pinned: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError) as caught:
        pinned.load(pinned.Config(), str(tmp_path / "given"))
    assert str(caught.value).endswith(f"fetch it with: {pinned.SPEC.fetch}")
    assert str(tmp_path / "given") in str(caught.value)


def test_another_tree_is_refused(pinned: ModuleType, tmp_path: Path) -> None:
    name = next(iter(pinned.SPEC.patterns)).replace("**/*", "other")
    (tmp_path / name).write_bytes(b"not the data")
    with pytest.raises(
        DataError, match=f"1 files with tree sha256 [0-9a-f]{{64}}, expected {pinned.SPEC.files} with"
    ) as caught:
        pinned.load(pinned.Config(), str(tmp_path))
    assert pinned.SPEC.fetch in str(caught.value)
    assert "not the data" not in str(caught.value)


def test_a_generated_set_has_neither_pin_nor_command(module: ModuleType) -> None:
    if not module.SPEC.patterns:
        spec = module.SPEC
        assert (spec.files, spec.tree, spec.fetch, spec.personal) == (0, "", "", False)
        assert "synthetic" in spec.source
