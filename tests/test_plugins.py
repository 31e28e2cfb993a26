"""Finding plug-ins by module name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fedkd import plugins
from fedkd.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


def test_the_folder_listing_is_the_catalogue() -> None:
    for slot in plugins.SLOTS:
        files = sorted(p.stem for p in (ROOT / "fedkd" / slot).glob("*.py") if not p.stem.startswith("_"))
        assert plugins.available(slot) == files


def test_find_returns_the_module_of_that_name() -> None:
    assert plugins.find("losses", "kl").__name__ == "fedkd.losses.kl"


def test_an_unknown_plugin_lists_what_exists() -> None:
    with pytest.raises(ConfigError) as caught:
        plugins.find("losses", "kll")
    assert "'kll'" in str(caught.value)
    assert ", ".join(plugins.available("losses")) in str(caught.value)


@pytest.mark.parametrize("name", ["", "../config", "_hidden", "kl.py", "os"])
def test_names_that_are_no_plugin_import_nothing(name: str) -> None:
    before = set(sys.modules)
    with pytest.raises(ConfigError, match="available:"):
        plugins.find("losses", name)
    assert set(sys.modules) == before


def test_an_unknown_slot_lists_the_slots() -> None:
    with pytest.raises(ConfigError, match="slots: methods, losses, models"):
        plugins.available("optimizers")


def test_files_that_start_with_an_underscore_are_no_plugins(tmp_path: Path) -> None:
    package = tmp_path / "fedkd" / "losses"
    package.mkdir(parents=True)
    for name in ("__init__.py", "_shared.py", "one.py"):
        (package / name).write_text('"""x"""\n')
    for name in ("__init__.py", "plugins.py", "errors.py"):
        (tmp_path / "fedkd" / name).write_text((ROOT / "fedkd" / name).read_text())
    code = "from fedkd import plugins; print(plugins.available('losses'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['one']"
