"""The wheel: ``fedkd`` alone at the top, with its schemas, built without a network."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fedkd import __version__

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = target.glob("*.whl")
    assert wheel.name == f"fedkd-{__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < 2**20
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_fedkd_is_the_only_top_level_name(names: list[str]) -> None:
    tops = {n.partition("/")[0] for n in names}
    assert tops == {"fedkd", f"fedkd-{__version__}.dist-info"}


def test_every_module_and_schema_is_there_and_nothing_else(names: list[str]) -> None:
    listed = subprocess.run(["git", "ls-files", "fedkd"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wanted = {line for line in listed.splitlines() if (ROOT / line).is_file()}
    assert wanted <= set(names)
    assert {"fedkd/methods/fedd2s.py", "fedkd/losses/kl.py"} <= set(names)
    assert any(n.startswith("fedkd/schemas/") and n.endswith(".json") for n in names)
    assert not [n for n in names if "test" in n or n.endswith((".pyc", ".toml"))]


def test_the_console_script_and_the_licence_travel(names: list[str]) -> None:
    info = f"fedkd-{__version__}.dist-info"
    assert f"{info}/entry_points.txt" in names
    assert any(n.startswith(info) and n.endswith("LICENSE") for n in names)
