"""Adding a data set, a loss and a method: one file and one configuration each, exactly as the how-to pages say.

The pages' code blocks are put into a copy of the repository, and their commands are run there, by one interpreter, since
each start of torch takes seconds.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.small_runs import ROOT, copy_sources

PAGES = {"data": "add-a-data-set", "losses": "add-a-loss", "methods": "add-a-method"}
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)

DRIVER = """
import contextlib, io, json, runpy, sys
results = []
for command in json.loads(sys.stdin.read()):
    module, sys.argv = command[0], command
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    results.append({"command": command, "code": code, "said": said.getvalue()})
print(json.dumps(results))
"""


@dataclass(frozen=True)
class Page:
    """What a how-to page adds and runs."""

    files: dict[str, str]
    commands: list[list[str]]


def read(name: str) -> Page:
    """The blocks of a page: those with a file name, and the lines of its shell blocks."""
    blocks = BLOCK.findall((ROOT / "docs" / "how-to" / f"{name}.md").read_text())
    files = {file: text for _, file, text in blocks if file}
    lines = [line for kind, _, text in blocks if kind == "sh" for line in text.splitlines()]
    assert all(line.startswith("python -m ") for line in lines)
    return Page(files, [shlex.split(line)[2:] for line in lines])


@dataclass(frozen=True)
class Outcome:
    """Exit code and words of one command."""

    command: list[str]
    code: int
    said: str


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Outcome]]]:
    """The copy with the files of the three pages, and what their commands said."""
    root = copy_sources(tmp_path_factory.mktemp("copy") / "fedkd")
    pages = {slot: read(name) for slot, name in PAGES.items()}
    for page in pages.values():
        for file, text in page.files.items():
            assert not (root / file).exists(), f"{file} exists: the page would edit it"
            (root / file).write_text(text)
    commands = [command for page in pages.values() for command in page.commands]
    again = ["-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-v"]  # one process, several times
    quick = ["--set", "report=false"]  # one report says that a new plug-in can be shown
    commands = [[*c, *(again if c[0] == "pytest" else [] if "toy" in c[2] else quick)] for c in commands]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("FEDKD_OUTPUT", None)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], input=json.dumps(commands), cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = iter(json.loads(done.stdout))
    outcomes = {slot: [Outcome(**next(results)) for _ in page.commands] for slot, page in pages.items()}
    return root, outcomes


@pytest.mark.parametrize("slot", PAGES)
def test_a_page_adds_one_file_and_one_configuration_and_runs_both(slot: str) -> None:
    page = read(PAGES[slot])
    plugin, config = page.files
    assert plugin.startswith(f"fedkd/{slot}/")
    assert config.startswith("configs/")
    assert [c[0] for c in page.commands] == ["simulations", "pytest"]
    assert config in page.commands[0]
    assert page.commands[1][-1] == Path(plugin).stem


@pytest.mark.parametrize("slot", PAGES)
def test_the_new_plugin_runs(extended: tuple[Path, dict[str, list[Outcome]]], slot: str) -> None:
    root, outcomes = extended
    ran = outcomes[slot][0]
    assert ran.code == 0, ran.said
    name = Path(ran.command[2]).stem
    (folder,) = (root / "runs" / name).iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "completed"
    chance = 1 / len(json.loads((folder / "partition.json").read_text())["histogram"][0])
    assert summary["accuracy_mean"] > 1.5 * chance, "it learns something"
    assert (folder / "report.html").exists() == (slot == "data")


@pytest.mark.parametrize("slot", PAGES)
def test_the_laws_of_the_folder_pick_the_new_plugin_up(extended: tuple[Path, dict[str, list[Outcome]]], slot: str) -> None:
    tested = extended[1][slot][1]
    assert tested.code == 0, tested.said
    name = tested.command[tested.command.index("-k") + 1]
    passed = re.findall(rf"(tests/\S+{name}\S*) PASSED", tested.said)
    contract = {"data": "test_data", "losses": "test_losses", "methods": "test_methods"}[slot]
    assert len([p for p in passed if f"contracts/{contract}.py" in p]) >= 3
    assert any("test_every_plugin_is_named_by_a_configuration" in p for p in passed)
    assert any("test_every_configuration_builds_a_setting" in p for p in passed)


@pytest.mark.parametrize("slot", PAGES)
def test_the_code_on_the_page_is_as_clean_as_the_repositorys(tmp_path: Path, slot: str) -> None:
    (file, text), *_ = read(PAGES[slot]).files.items()
    (tmp_path / Path(file).name).write_text(text)
    ruff = Path(sys.executable).parent / "ruff"
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [ruff, *command, "--config", ROOT / "pyproject.toml", "--no-cache", tmp_path], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout
