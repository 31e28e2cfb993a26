"""What Flower ships to nodes: the apps and the library, no test, no simulation, no result."""

from __future__ import annotations

import ast
import shutil
import subprocess
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

from simulations.grids.flower import private_environment, staged_app, tool

ROOT = Path(__file__).resolve().parents[2]


def listed(*folders: str) -> list[str]:
    """Files of the repository as they are now."""
    done = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


def build(app: Path, target: Path) -> Path:
    command = [tool("flwr"), "build", "--app", str(app)]
    environment = private_environment(target / "home")
    subprocess.run(command, cwd=target, env=environment, check=True, capture_output=True, timeout=120)
    (made,) = target.glob("*.fab")
    return made


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a checkout with everything that lies around in one (without a virtual environment's 50,000 files)."""
    target = tmp_path_factory.mktemp("bundle")
    app = target / "checkout"
    for name in (*listed(), ".gitignore"):
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, app / name)
    for name in ("runs/a/b/config.toml", "runs/a/b/rounds.jsonl", ".venv/lib/x.py", "fedkd/__pycache__/x.py", "notes.md"):
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text("")
    return build(app, target)


@pytest.fixture(scope="module")
def names(bundle: Path) -> set[str]:
    with zipfile.ZipFile(bundle) as archive:
        return set(archive.namelist())


def test_the_bundle_is_small(bundle: Path) -> None:
    assert bundle.stat().st_size < 2**20


def left_out(name: str) -> bool:
    """Whether a file is of a central study: such patterns name no folder, so ``*`` reaches no plug-in."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["fab-exclude"]
    return any(fnmatch(name, p) and name.count("/") == p.count("/") for p in patterns)


def test_it_carries_every_module_of_the_apps_and_their_configurations(names: set[str]) -> None:
    files = {n for n in listed("clients", "server", "fedkd", "configs") if n.endswith((".py", ".json", ".toml"))}
    dropped = {n for n in files if n.rpartition("/")[2].startswith("test_") or n.endswith("_test.py")}
    assert not dropped, "Flower never ships files that are named like tests"
    assert {n for n in files if not left_out(n)} == {n for n in names if n in files}


def test_nothing_in_it_imports_what_is_left_out(names: set[str]) -> None:
    """Apps and every plug-in run from the bundle alone, imports inside functions included."""
    missing = {n[:-3].replace("/", ".") for n in listed("fedkd") if n.endswith(".py") and left_out(n)}
    assert len(missing) > 20
    for name in sorted(n for n in names if n.endswith(".py")):
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            wanted = {a.name for a in node.names} if isinstance(node, ast.Import) else set()
            if isinstance(node, ast.ImportFrom):
                wanted = {module, *(f"{module}.{a.name}" for a in node.names)}
            assert not wanted & missing, f"{name} imports {wanted & missing}"


def test_it_carries_nothing_else(names: set[str]) -> None:
    tops = {n.partition("/")[0] for n in names}
    assert {"clients", "server", "fedkd", "configs", "pyproject.toml"} <= tops
    assert not tops & {"tests", "simulations", "benchmarks", "docs", "runs", "shared", ".venv"}
    assert not [n for n in names if n.endswith((".jsonl", ".safetensors", ".html", ".npy"))]
    assert "fedkd/__pycache__/x.py" not in names


def test_the_run_wrapper_submits_the_same_bundle(bundle: Path, tmp_path: Path) -> None:
    staged = build(staged_app(tmp_path), tmp_path)
    with zipfile.ZipFile(staged) as ours, zipfile.ZipFile(bundle) as theirs:
        tracked = set(theirs.namelist())
        assert tracked <= set(ours.namelist()), "the copy lacks a file of the app"
        assert all(ours.read(n) == theirs.read(n) for n in tracked if not n.startswith(".info"))
