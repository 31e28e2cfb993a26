"""A memorization study by the command that a user types: results, resume, a user's own models, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from fedkd import distill, language, tokens
from fedkd.distill import Lesson, Rows, Training
from fedkd.errors import RunError
from fedkd.memorization_plan import read_plan
from simulations import memorization
from simulations.__main__ import app

NET = "width = 16\nlayers = 1\nheads = 2\nepochs = 2\nbatch_size = 8\n"
PLAN = f"""
kind = "memorization"
teachers = [0]
seeds = [0]
arms = ["student_overlap", "scout", "student_filtered"]
floor = 0.9
[text]
prose = "template"
strata = ["high_entropy"]
bpe_size = 280
prefix = 24
suffix = 4
copies = [1, 4]
passages = [6, 5]
pool = 16
extra = 4
held_out = 6
held_out_prose = 6
[teacher]
{NET}[student]
{NET}[scout]
{NET}"""


def test_a_study_runs_resumes_and_reports(tmp_path: Path) -> None:
    config = tmp_path / "small.toml"
    config.write_text(PLAN)
    command = ["run", str(config), "--output", str(tmp_path / "out"), "--workers", "1"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    assert "1 teachers and 6 students to train, 1 processes" in first.output
    plan = read_plan(config)
    folder = memorization.folder_of(plan, tmp_path / "out")
    summary = json.loads((folder / "memorization.json").read_text())
    assert [r["label"] for r in summary["models"]][:5] == ["base (untouched)", "base of T", "T", "B", "S"]
    assert summary["finished"] == [6, 6]
    assert summary["rule"]["unexplained"] == 0
    assert all(sum(p["regions"].values()) == 11 for p in summary["pairs"])
    rows = list(csv.DictReader((folder / "examples.csv").read_text().splitlines()))
    assert len(rows) == 11 and len({r["id"] for r in rows}) == 11
    page = (folder / "report.html").read_text()
    assert "one teacher, one seed" in page and "Memorized sets" in page
    assert all(r["id"] in page for r in rows), "eleven passages are fewer than the page shows"
    shown = CliRunner().invoke(app, ["strings", str(config), "--output", str(tmp_path / "out")])
    assert shown.exit_code == 0, shown.output
    strings = list(csv.DictReader((folder / "t0-strings.csv").read_text().splitlines()))
    assert {r["id"] for r in strings} == {r["id"] for r in rows}
    assert not any(r["prefix"][:20] in page for r in strings), "strings are never on the page"
    assert all(r["prefix"].startswith(("Account of ", "Patient ", "Licence for ")) for r in strings)
    why = json.loads((folder / "t0-student_filtered-0.json").read_text())["none"]
    assert "nothing is predicted" in why
    kept = (folder / "t0-student-0.json").read_bytes()
    (folder / "t0-hard_student-0.json").unlink()
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.output
    assert "0 teachers and 1 students to train" in again.output
    assert (folder / "t0-student-0.json").read_bytes() == kept
    begun = (folder / "inputs.json").read_text()
    (folder / "inputs.json").write_text(begun.replace(json.loads(begun)["texts"], "0" * 64))
    other = CliRunner().invoke(app, command)
    assert other.exit_code == 2 and "not what this study began with: the texts" in other.output
    (folder / "inputs.json").write_text(begun)
    (folder / "t0-baseline-0.json").unlink()
    with pytest.raises(RunError, match="no teacher with a baseline and a student"):
        memorization.write_results(plan, config, folder)


def test_wrong_calls_are_refused_with_one_line(tmp_path: Path) -> None:
    config = tmp_path / "small.toml"
    config.write_text(PLAN)
    missing = CliRunner().invoke(app, ["strings", str(config), "--output", str(tmp_path / "nowhere")])
    assert missing.exit_code == 2 and "run the study first" in missing.output
    for extra, said in (
        (["--seed", "5"], "has no teacher 5; its teachers: 0"),
        (["--grid", "flower"], "a memorization study reads its configuration file alone"),
    ):
        found = CliRunner().invoke(app, ["run", str(config), "--output", str(tmp_path), *extra])
        assert found.exit_code == 2
        assert said in found.output


WORDS = [
    "the",
    "old",
    "red",
    "boat",
    "sails",
    "past",
    "a",
    "small",
    "green",
    "island",
    "while",
    "seven",
    "grey",
    "birds",
    "follow",
    "its",
    "long",
    "white",
    "wake",
    "home",
    "again",
]


def sentences() -> list[str]:
    """Twelve different lines of eighteen words."""
    return [" ".join(WORDS[(i * 5 + j * (i + 1)) % len(WORDS)] for j in range(18)) for i in range(12)]


def folders(tmp_path: Path) -> dict[str, str]:
    """A tokenizer, an untouched model and two that learned the lines by heart, as Hugging Face folders; two text folders."""
    lines = sentences()
    trained = tokens.bpe([" ".join(WORDS)] * 5, 330)
    backend = json.dumps(trained.to_json()["tokenizer"])
    size = language.Size(vocabulary=trained.vocabulary, width=48, layers=1, heads=2, context=24)
    learned = [trained.encode(line)[:16] for line in lines[:8]]
    rows = Rows(torch.tensor(learned), torch.full((8,), 16))
    found = {}
    for name, epochs in (("base", 0), ("teacher", 150), ("student", 150)):
        model = language.build(size, 1)
        distill.train(model, rows, Lesson.text(rows), Training(epochs, 1e-2, 8, weight_decay=0.0), 0)
        found[name] = str(tmp_path / name)
        model.save_pretrained(found[name])
        fast = PreTrainedTokenizerFast(tokenizer_object=Backend.from_str(backend), bos_token="<bos>")
        fast.save_pretrained(found[name])
    for name, text in (("text", [*lines[:8], lines[0], lines[0]]), ("held_out", lines[8:])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lines.txt").write_text("\n".join(text))
        found[name] = str(tmp_path / name)
    return found


@pytest.mark.parametrize("baseline", [False, True])
def test_two_folders_of_your_own_are_audited_by_one_command(tmp_path: Path, baseline: bool) -> None:
    where = folders(tmp_path)
    config = tmp_path / "own.toml"
    own = f'teacher = "{where["teacher"]}"\nstudents = ["{where["student"]}"]\ntext = "{where["text"]}"\n'
    own += f'held_out = "{where["held_out"]}"\nrecord = "line"\nprefix = 8\nsuffix = 8\n'
    own += f'baseline = "{where["base"]}"\nbase = "{where["base"]}"\n' if baseline else ""
    config.write_text(f'kind = "memorization"\n[own]\n{own}')
    found = CliRunner().invoke(app, ["run", str(config), "--output", str(tmp_path / "out")])
    assert found.exit_code == 0, found.output
    folder = memorization.folder_of(read_plan(config), tmp_path / "out")
    summary = json.loads((folder / "memorization.json").read_text())
    rates = {r["model"]: (r["train"]["count"], r["train"]["of"], r["held_out"]["count"]) for r in summary["models"]}
    assert rates["teacher"] == rates["student"] == (8, 8, 0)
    assert summary["copies"] == [1, 3], "a line that stands three times in the text is one example"
    if baseline:
        assert rates["base"] == rates["baseline"] == (0, 8, 0)
        pair = summary["pairs"][0]
        assert pair["inherited"]["count"] == pair["inherited"]["of"] == 8
    else:
        assert summary["pairs"] == [] and summary["headline"]["equal"] == {}
    page = (folder / "report.html").read_text()
    assert "leak shown" in page
    assert not any(line[:25] in page for line in sentences()), "strings of the text are never shown unasked"
    shown = CliRunner().invoke(app, ["strings", str(config), "--output", str(tmp_path / "out")])
    assert shown.exit_code == 0, shown.output
    found_strings = list(csv.DictReader((folder / "t0-strings.csv").read_text().splitlines()))
    assert len(found_strings) == 8
    assert {"".join((r["prefix"], r["suffix"])).strip()[:20] for r in found_strings} <= {s[:20] for s in sentences()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prefix": 40, "suffix": 40}, "lower prefix and suffix"),
        ({"teacher": "nobody/nothing"}, "is no folder, and the hub gave nothing"),
        ({"text": "nowhere"}, "holds no .txt file"),
    ],
)
def test_own_models_that_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], said: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    where = folders(tmp_path)
    own = {"teacher": where["teacher"], "students": [where["student"]], "text": where["text"], "record": "line", "prefix": 8}
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in {**own, "suffix": 8, **change}.items())
    config = tmp_path / "own.toml"
    config.write_text(f'kind = "memorization"\n[own]\n{lines}\n')
    found = CliRunner().invoke(app, ["run", str(config), "--output", str(tmp_path / "out")])
    assert found.exit_code == 2, found.output
    assert said in found.output
