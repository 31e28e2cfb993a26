"""Find a plug-in by its module name: ``find("losses", "swing")`` is ``fedkd/losses/swing.py``.

No registry and no decorator: the folder listing is the catalogue.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from fedkd.errors import ConfigError

SLOTS = ("methods", "losses", "models", "data", "sensitivity", "mechanisms", "attacks", "executors")


def available(slot: str) -> list[str]:
    """Names of the plug-ins in a slot, sorted.

    Raises: ConfigError for a slot that does not exist.
    """
    if slot not in SLOTS:
        raise ConfigError(f"unknown plug-in slot {slot!r}; slots: {', '.join(SLOTS)}")
    package = importlib.import_module(f"fedkd.{slot}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def find(slot: str, name: str) -> ModuleType:
    """The module ``fedkd.<slot>.<name>``.

    Raises: ConfigError listing what exists, where the name is unknown.
    """
    names = available(slot)
    if name not in names:
        raise ConfigError(f"unknown {slot} plug-in {name!r}; available: {', '.join(names) or 'none'}")
    return importlib.import_module(f"fedkd.{slot}.{name}")
