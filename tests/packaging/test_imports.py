"""What can be imported without torch, Flower and Ray: statistics, attacks, reports and their command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "torchvision", "flwr", "flwr_datasets", "ray", "datasets", "transformers", "opacus")


def loaded(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after ``code``."""
    program = f"{code}\nimport sys\nprint('LOADED', *{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}
    )
    return set(done.stdout.rpartition("LOADED ")[2].split())


def test_the_light_modules_load_nothing_heavy() -> None:
    code = "import fedkd, fedkd.metrics, fedkd.attacks, fedkd.cli, fedkd.report, fedkd.config, fedkd.plugins, fedkd.prepare"
    got = loaded(code)
    assert "fedkd" in got
    assert not got & set(HEAVY)
    assert "matplotlib" not in got


def test_every_attack_is_arithmetic_on_scores() -> None:
    got = loaded("from fedkd import plugins\nfor n in plugins.available('attacks'): plugins.find('attacks', n)")
    assert not got & set(HEAVY)


@pytest.mark.parametrize("module", ["simulations.run", "simulations.doctor", "simulations.progress", "simulations.catalogue"])
def test_the_command_line_starts_without_torch(module: str) -> None:
    assert not loaded(f"import {module}") & {"torch", "flwr", "ray"}
