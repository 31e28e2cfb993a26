"""A study goes on with the texts and models that it began with, and tells where a library's version changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedkd.corpus import Corpus
from fedkd.errors import ConfigError
from fedkd.swing_plan import Net, Plan, read_plan
from simulations.__main__ import app
from simulations.inputs import FILE, bind, inputs_of
from simulations.swing import folder_of

PLAN = """
kind = "swing"
regimes = ["R3"]
arms = ["kd"]
[text]
name = "local_text"
args = 'record = "line", client = "file"'
root = "{root}"
rows = 6
validation = 3
[canaries]
repetitions = [0, 1]
per_count = 1
decoys = 1
[teacher]
width = 16
layers = 1
heads = 2
epochs = 1
[student]
width = 16
layers = 1
heads = 2
epochs = 1
"""


def nets(plan: Plan) -> dict[str, str]:
    return {"teacher": plan.teacher.folder, "student": plan.student.folder}


def write(root: Path) -> None:
    root.mkdir(exist_ok=True)
    for file in range(6):
        lines = [f"file {file}, line {line}: " + "so much to say and so few letters to say it with " * 2 for line in range(4)]
        (root / f"{file}.txt").write_text("\n".join(lines))


def test_other_texts_are_refused_and_another_version_is_told(tmp_path: Path) -> None:
    root, config = tmp_path / "texts", tmp_path / "own.toml"
    write(root)
    config.write_text(PLAN.format(root=root))
    command = ["run", str(config), "--output", str(tmp_path / "out"), "--workers", "1"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    folder = folder_of(read_plan(config), tmp_path / "out")
    begun = json.loads((folder / FILE).read_text())
    assert set(begun["versions"]) == {"torch", "transformers", "tokenizers"}
    begun["versions"]["torch"] = "1.0"
    (folder / FILE).write_text(json.dumps(begun))
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.output
    assert "warning: this study began with torch 1.0, now " in again.output
    (root / "0.txt").write_text((root / "0.txt").read_text().replace("few", "dew"))
    (folder / "s0-R3-kd.json").unlink()
    other = CliRunner().invoke(app, command)
    assert other.exit_code == 2
    lines = [line for line in other.output.splitlines() if line.startswith("error:")]
    assert lines == [
        f"error: not what this study began with: the texts; put them back as they were, or remove {folder} to begin again"
    ]
    assert not (folder / "s0-R3-kd.json").exists()


def test_another_file_of_a_model_is_named(tmp_path: Path) -> None:
    own = tmp_path / "model"
    own.mkdir()
    (own / "config.json").write_text("{}")
    (own / "model.safetensors").write_bytes(b"1")
    (own / "README.md").write_text("not read")
    plan = Plan("x", teacher=Net(folder=str(own)), student=Net(folder=str(own)))
    said: list[str] = []
    bind(tmp_path / "study", inputs_of(nets(plan), "a"), said.append)
    (own / "README.md").write_text("changed")
    bind(tmp_path / "study", inputs_of(nets(plan), "a"), said.append)
    (own / "model.safetensors").write_bytes(b"2")
    with pytest.raises(ConfigError, match=r"began with: student\.folder \(model\.safetensors\), teacher\.folder"):
        bind(tmp_path / "study", inputs_of(nets(plan), "a"), said.append)
    with pytest.raises(ConfigError, match=r"student\.folder \(config\.json\)"):
        bind(tmp_path / "study", inputs_of(nets(replace(plan, student=Net(), teacher=Net())), "a"), said.append)
    assert said == []


def test_an_older_study_is_told_and_a_damaged_record_refused(tmp_path: Path) -> None:
    (tmp_path / "s0-private.safetensors").write_bytes(b"")
    said: list[str] = []
    bind(tmp_path, inputs_of(nets(Plan("x")), "a"), said.append)
    assert "begun before inputs were recorded" in said[0]
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ConfigError, match="is damaged; remove"):
        bind(tmp_path, inputs_of(nets(Plan("x")), "a"), said.append)


def test_the_hash_of_texts_sees_words_borders_and_groups() -> None:
    whole = Corpus(("ab", "c"), ("x", "x"), ("g", "g"))
    others = [Corpus(("a", "bc"), ("x", "x"), ("g", "g")), Corpus(("ab", "c"), ("x", "x"), ("g", "h")), whole.take([1, 0])]
    assert len({whole.sha256, *(o.sha256 for o in others)}) == 4
    assert whole.sha256 == Corpus(("ab", "c"), ("y", "y"), ("g", "g")).sha256
