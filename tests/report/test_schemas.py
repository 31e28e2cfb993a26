"""Every file of a run folder against its schema, and the schemas against a broken file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fedkd import schemas
from fedkd.report.comparison import compare
from fedkd.report.comparison_page import write_comparison


def validator(name: str) -> Any:
    schema = schemas.load(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


RUN_FILES = ["client", "comparison", "config", "environment", "failure", "partition", "round", "status", "summary"]
RUN_FILES += ["bundle", "run_audit"]


@pytest.mark.parametrize("name", schemas.names())
def test_each_schema_is_valid(name: str) -> None:
    validator(name)


@pytest.mark.parametrize("name", RUN_FILES)
def test_each_schema_of_a_run_is_versioned(name: str) -> None:
    assert schemas.version(name) == 1
    assert schemas.load(name)["$id"].endswith(f"{name}:1")


def test_an_unknown_name_lists_what_exists() -> None:
    with pytest.raises(KeyError, match="summary"):
        schemas.load("sumary")


@pytest.mark.parametrize("name", ["summary", "environment", "partition"])
def test_the_json_files(name: str, write_run: Callable[..., Path]) -> None:
    value = json.loads((write_run() / f"{name}.json").read_text())
    validator(name).validate(value)
    for key in schemas.load(name)["required"]:
        broken = {k: v for k, v in value.items() if k != key}
        with pytest.raises(jsonschema.ValidationError, match=key):
            validator(name).validate(broken)


def test_the_lines(write_run: Callable[..., Path]) -> None:
    failure = {"round": 0, "client": 3, "node": 1, "error": "UploadError", "where": "a.py:1", "message": "refused"}
    folder = write_run(rounds=4, failures=[failure])
    for file, name, count in (("rounds", "round", 4), ("clients", "client", 80), ("failures", "failure", 1)):
        lines = (folder / f"{file}.jsonl").read_text().splitlines()
        assert len(lines) == count
        for line in lines:
            validator(name).validate(json.loads(line))
        with pytest.raises(jsonschema.ValidationError):
            validator(name).validate(json.loads(lines[0]) | {"round": -1})


def test_the_config_takes_scalars_only(write_run: Callable[..., Path]) -> None:
    config = tomllib.loads((write_run() / "config.toml").read_text())
    validator("config").validate(config)
    with pytest.raises(jsonschema.ValidationError):
        validator("config").validate(config | {"extra": [1, 2]})


def test_the_comparison(write_run: Callable[..., Path], tmp_path: Path) -> None:
    runs = [write_run(name, method=name, seed=s, rounds=6) for s in (0, 1) for name in ("local", "fedavg")]
    comparison = compare(runs, pairs=[("fedavg", "local")])
    write_comparison(comparison, tmp_path / "out")
    value = json.loads((tmp_path / "out/comparison.json").read_text())
    validator("comparison").validate(value)
    with pytest.raises(jsonschema.ValidationError):
        validator("comparison").validate(value | {"unknown": 1})
