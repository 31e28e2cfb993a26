"""The command: a configuration is run with its messages recorded, a folder is opened; exit codes and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.simulations.test_cli import CONFIG, call


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("audit")
    (root / "tiny-fedd2s.toml").write_text(CONFIG.format(name="fedd2s").replace("150", "300"))
    return root


@pytest.fixture(scope="module")
def audited(place: Path) -> tuple[Path, str]:
    """(folder of the run, what the command said); each process of the tests makes its own."""
    result = call("audit", place / "tiny-fedd2s.toml", "--output", place / "out", "--options", "permutations = 20")
    assert result.exit_code == 0, result.output
    (folder,) = (place / "out" / "tiny-fedd2s").iterdir()
    return folder, result.output


def test_a_configuration_is_run_and_audited_and_what_was_added_is_said(audited: tuple[Path, str]) -> None:
    folder, said = audited
    for key in ('record="messages"', "audit.holdout=0.5", "audit.canaries=12"):
        assert f"added for the audit: {key}" in said
    assert said.splitlines()[-1].startswith(str(folder / "audit"))
    content = json.loads((folder / "audit" / "audit.json").read_text())
    assert content["config"]["permutations"] == 20
    assert content["run"]["name"] == "tiny-fedd2s"


def test_a_finished_run_is_not_run_again_and_its_folder_is_audited_too(place: Path, audited: tuple[Path, str]) -> None:
    folder = audited[0]
    before = (folder / "summary.json").stat().st_mtime_ns
    (folder / "audit" / "audit.json").unlink()
    again = call("audit", place / "tiny-fedd2s.toml", "--output", place / "out", "--options", "permutations = 20")
    assert again.exit_code == 0, again.output
    first = (folder / "audit" / "audit.json").read_bytes()
    opened = call("audit", folder, "--options", "permutations = 20")
    assert opened.exit_code == 0, opened.output
    assert (folder / "audit" / "audit.json").read_bytes() == first
    assert (folder / "summary.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--options", "attackers = 3"), "attackers"),
        (("--options", "candidates = 1"), "candidates = 1"),
        (("--set", "nonsense=1"), "nonsense"),
        (("--set", "audit.holdout=0.0"), "audit.holdout = 0.5"),
    ],
)
def test_what_cannot_be_audited_is_a_usage_error(place: Path, arguments: tuple[str, ...], said: str) -> None:
    result = call("audit", place / "tiny-fedd2s.toml", "--output", place / "other", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_folders_are_audited_as_they_are(audited: tuple[Path, str], tmp_path: Path) -> None:
    changed = call("audit", audited[0], "--set", "seed=1")
    assert changed.exit_code == 2
    assert "a run folder is audited as it is" in changed.stderr
    empty = call("audit", tmp_path)
    assert empty.exit_code == 2
    assert "is not a run folder" in empty.stderr
