"""The command line end to end: known answers, exit codes, and clear lines for every bad file."""

import json
import re
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner

from fedkd.cli import app

RUNNER = CliRunner()


def run(*words: object):
    return RUNNER.invoke(app, [str(word) for word in words])


def planted(folder: Path, size: int = 4000, shift: float = 1.0, name: str = "scores.npz") -> Path:
    rng = np.random.default_rng(0)
    member = np.arange(size) % 2 == 0
    path = folder / name
    np.savez(path, id=np.arange(size), member=member, score=rng.normal(size=size) + shift * member)
    return path


def test_planted_file_gives_the_known_answer_as_text_and_json(tmp_path: Path) -> None:
    """Unit shift: AUC = Phi(1 / sqrt 2) = 0.760."""
    path, output = planted(tmp_path), tmp_path / "r.json"
    text = run("audit-scores", path, "--output", output)
    assert text.exit_code == 0
    assert "leak shown: tpr_at_fpr_0.01" in text.output
    content = json.loads(output.read_text())
    auc = next(row for row in content["rows"] if row["statistic"] == "auc")
    assert auc["low"] < 0.760 < auc["high"]
    schema = json.loads(resources.files("fedkd.schemas").joinpath("audit.json").read_text())
    jsonschema.validate(content, schema)
    printed = run("audit-scores", path, "--format", "json")
    assert json.loads(printed.output) == content


def test_audit_gate_report_in_a_row(tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    run("audit-scores", planted(tmp_path, 40_000), "--output", output, "--set", "seeds=3", "--set", "model=my student")
    gate = run("gate", output, "--junit", tmp_path / "g.xml", "--output", tmp_path / "g.json")
    assert gate.exit_code == 1
    assert gate.output.strip().endswith("gate: fail")
    assert json.loads((tmp_path / "g.json").read_text())["exit_code"] == 1
    assert (tmp_path / "g.xml").read_text().startswith("<?xml")
    page = run("report", output)
    assert page.exit_code == 0
    assert "Membership audit of my student" in (tmp_path / "r.html").read_text()
    other = run("report", output, "--output", tmp_path / "p.html")
    assert other.output.strip().endswith("p.html")


def test_gate_exit_codes(tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    run("audit-scores", planted(tmp_path, 40_000, 0.0), "--output", output)
    warned = run("gate", output, "--format", "json")
    assert warned.exit_code == 3
    assert json.loads(warned.output)["status"] == "warn"
    assert run("gate", output, "--fail-if", "auc.high > 0.4").exit_code == 1
    assert run("gate", output, "--fail-if", "auc.high >").exit_code == 2
    assert run("gate", output, "--set", "minimum_seeds=1", "--set", "nonsense=1").exit_code == 2
    content = json.loads(output.read_text())
    content["controls"] = [c for c in content["controls"] if c["name"] != "blind_baseline"]
    output.write_text(json.dumps(content))
    assert run("gate", output, "--set", "minimum_seeds=1").exit_code == 0


def test_trained_controls_are_read_from_files(tmp_path: Path) -> None:
    own, leaky = planted(tmp_path, 400, 1.0), planted(tmp_path, 400, 3.0, "leaky.npz")
    clean = planted(tmp_path, 400, 0.0, "clean.npz")
    text = run("audit-scores", own, "--leaky", leaky, "--clean", clean).output
    assert "known_leaky: caught (scores in leaky.npz" in text
    assert "known_clean: clean (scores in clean.npz" in text
    assert "inconclusive" in run("audit-scores", own, "--leaky", clean).output


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (["a,1,nan", "b,0,1"], "not finite"),
        (["a,1,1", "b,1,2"], "2 members and 0 non-members"),
        (["a,0,1", "b,0,2"], "0 members and 2 non-members"),
        (["a,1,1", "a,0,2"], "duplicate"),
        ([], "no rows"),
    ],
)
def test_bad_files_give_one_line_and_exit_code_2(tmp_path: Path, rows: list[str], line: str) -> None:
    path = tmp_path / "s.csv"
    path.write_text("id,member,score\n" + "".join(f"{row}\n" for row in rows))
    outcome = run("audit-scores", path)
    assert outcome.exit_code == 2
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("error: ")
    assert line in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_ten_rows_are_inconclusive_not_wrong(tmp_path: Path) -> None:
    outcome = run("audit-scores", planted(tmp_path, 10, 5.0), "--output", tmp_path / "r.json")
    assert outcome.exit_code == 0
    assert "not tested: inconclusive" in outcome.output
    assert run("gate", tmp_path / "r.json").exit_code == 3


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["audit-scores", "none.csv"], "no such file: none.csv"),
        (["gate", "none.json"], "no such file: none.json"),
        (["report", "none.json"], "no such file: none.json"),
        (["list", "toys"], "unknown plug-in slot 'toys'"),
    ],
)
def test_missing_things(words: list[str], line: str) -> None:
    outcome = run(*words)
    assert outcome.exit_code == 2
    assert line in outcome.stderr


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("{", "not a readable JSON"),
        ("[]", "no audit result"),
        ("{}", "no audit result"),
        ('{"rows": [], "schema": 9}', "9"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, content: str, line: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    for command in ("gate", "report"):
        outcome = run(command, path)
        assert outcome.exit_code == 2
        assert line in outcome.stderr


def test_a_folder_and_an_empty_file_are_named_as_such(tmp_path: Path) -> None:
    folder, empty = run("audit-scores", tmp_path), tmp_path / "e.csv"
    assert (folder.exit_code, f"{tmp_path} is a folder, not a file of scores" in folder.stderr) == (2, True)
    empty.write_text("")
    outcome = run("audit-scores", empty)
    assert (
        outcome.exit_code,
        "e.csv is empty; expected a first line with the columns id, member, score" in outcome.stderr,
    ) == (2, True)


def test_a_rule_about_a_statistic_that_no_row_has_says_which_there_are(tmp_path: Path) -> None:
    """A mistyped name must not read like a rule that found nothing."""
    output = tmp_path / "r.json"
    run("audit-scores", planted(tmp_path, 400, 0.0), "--output", output)
    said = run("gate", output, "--fail-if", "auk.low > 0.6")
    assert said.exit_code in (1, 3)
    assert "no row has the statistic auk; rows here have " in said.output
    assert ", auc" in said.output.partition("rows here have ")[2] or said.output.partition("rows here have ")[2].startswith(
        "auc"
    )


def test_the_gate_ends_with_what_decided(tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    run("audit-scores", planted(tmp_path, 400, 0.0), "--output", output)
    lines = run("gate", output, "--fail-if", "auc.high > 0.01").output.strip().splitlines()
    failing = [line for line in lines if line.startswith("fail ")]
    assert len(failing) == 2 and failing[0] == failing[1] == lines[-2], "where it stands and once more at the end"
    assert re.fullmatch(r"1 failed, \d+ warn, of \d+ checks", lines[-3])
    assert lines[-1] == "gate: fail"


@pytest.mark.parametrize("change", ["level", "=1", "level=2", "level=high", "fprs=[0.0]", "level=0.9, seed=1"])
def test_bad_options_are_refused(tmp_path: Path, change: str) -> None:
    assert run("audit-scores", planted(tmp_path, 100), "--set", change).exit_code == 2


def test_unwritable_output_is_one_line(tmp_path: Path) -> None:
    outcome = run("audit-scores", planted(tmp_path, 100), "--output", tmp_path / "none" / "r.json")
    assert outcome.exit_code == 2
    target = tmp_path / "none" / "r.json"
    assert f"cannot write {target}: No such file or directory (there is no folder {tmp_path / 'none'})" in outcome.stderr


def test_list_names_the_attacks() -> None:
    assert "lira" in json.loads(run("list", "attacks", "--format", "json").output)["attacks"]
    assert "attacks: calibrated_loss, distill_lira, exposure" in run("list", "attacks").output


def test_commands_work_where_torch_and_flower_cannot_be_imported(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'flwr', 'ray', 'pandas'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from fedkd.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
    )
    words = ["audit-scores", str(planted(tmp_path, 200)), "--output", str(tmp_path / "r.json")]
    for command in (words, ["report", str(tmp_path / "r.json")], ["list", "attacks"]):
        done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_million_rows_in_twenty_seconds_and_ten_million_at_all(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    member, score = rng.random(10**6) < 0.5, rng.normal(size=10**6)
    path = tmp_path / "m.csv"
    with path.open("w") as stream:
        stream.write("id,member,score\n")
        stream.writelines(f"x{i},{int(m)},{s:.6f}\n" for i, (m, s) in enumerate(zip(member, score, strict=True)))
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "fedkd.cli", "audit-scores", str(path)], check=False, timeout=120)
    seconds = time.monotonic() - start
    assert done.returncode == 0
    assert seconds <= 20, f"{seconds:.1f} s"
    big = planted(tmp_path, 10**7, 0.0, "big.npz")
    assert run("audit-scores", big).exit_code == 0
