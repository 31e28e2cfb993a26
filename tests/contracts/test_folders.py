"""Laws of the tree: every plug-in is named by a configuration, every configuration builds, names and lengths of files."""

from __future__ import annotations

import re
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from fedkd import memorization_plan, plugins, swing_plan
from fedkd.config import experiment_from, read_config
from server.server_app import check_before_start
from tests.toy import has_compiler

ROOT = Path(__file__).resolve().parents[2]
EVERY = sorted((ROOT / "configs").glob("*.toml"))
PLANS = {"swing": swing_plan.read_plan, "memorization": memorization_plan.read_plan}
STUDIES = {p: str(kind) for p in EVERY if (kind := tomllib.loads(p.read_text()).get("kind"))}
CONFIGS = [p for p in EVERY if p not in STUDIES]
KEYS = {"methods": "method.name", "models": "model.name", "losses": "loss.name", "data": "data.name",
        "executors": "executor.name", "mechanisms": "mechanism.name"}  # fmt: skip
ALWAYS = {("losses", "kl"), ("losses", "ce"), ("mechanisms", "none")}
"""The default distillation loss, the loss on labels of every run, and no mechanism."""
FORBIDDEN = re.compile(r"(^|_)(utils?|helpers?|base|managers?|handlers?)(_|$)")


def sources() -> list[Path]:
    """Every Python file that belongs to the repository (or would, if it were added)."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:  # a copy without .git
        return [p for top in ("fedkd", "clients", "server", "simulations", "tests") for p in (ROOT / top).rglob("*.py")]
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


@pytest.mark.parametrize(("slot", "name"), [(slot, name) for slot in KEYS for name in plugins.available(slot)])
def test_every_plugin_is_named_by_a_configuration(slot: str, name: str) -> None:
    using = [p.stem for p in CONFIGS if read_config(p).get(KEYS[slot]) == name]
    assert using or (slot, name) in ALWAYS, f'add a file to configs/ with {KEYS[slot]} = "{name}"'


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_configuration_builds_a_setting(path: Path) -> None:
    experiment = experiment_from(read_config(path))
    if experiment.executor_name == "native" and not has_compiler():
        pytest.skip("no C compiler on this machine")
    assert experiment.name == path.stem
    assert experiment.label, "the label is the name in figures and tables"
    setting = check_before_start(replace(experiment, device="cpu"))
    assert setting.model.blocks >= 1
    assert 1 <= setting.cohort_size <= experiment.num_clients
    setting.module.schema(setting, 0)


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_every_study_is_a_valid_plan(path: Path) -> None:
    plan = PLANS[STUDIES[path]](path)
    assert plan.name == path.stem
    assert plan.tasks()


@pytest.mark.parametrize("path", EVERY, ids=lambda p: p.stem)
def test_a_configuration_is_short_and_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# "), "the first line says in words what this configuration is for"
    assert len(text.splitlines()) <= 25


def test_runs_with_one_label_on_one_data_set_are_one_configuration() -> None:
    flat = [read_config(p) for p in CONFIGS]
    labels = [(c["label"], c.get("data.name", "digits"), c.get("data.args", "")) for c in flat if c["name"] != "check"]
    assert len(set(labels)) == len(labels), "two rows of a table would carry the same name"


def test_no_file_has_more_than_400_lines() -> None:
    long = {str(p.relative_to(ROOT)): n for p in sources() if (n := len(p.read_text().splitlines())) > 400}
    assert not long


def test_no_module_is_named_after_nothing() -> None:
    assert FORBIDDEN.search("string_utils")
    assert not FORBIDDEN.search("database")
    assert not [str(p.relative_to(ROOT)) for p in sources() if FORBIDDEN.search(p.stem)]


def test_every_module_says_in_its_first_line_what_it_is() -> None:
    tops = ("fedkd", "clients", "server", "simulations")
    silent = [p for p in sources() if p.relative_to(ROOT).parts[0] in tops and not p.read_text().startswith('"""')]
    assert not silent
