"""Find a plug-in by its module name: ``find("losses", "swing")`` is ``fedkd/losses/swing.py``.

No registry and no decorator: the folder listing is the catalogue.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import textwrap
from types import ModuleType

from fedkd.errors import ConfigError

SLOTS = ("methods", "losses", "models", "data", "texts", "sensitivity", "mechanisms", "attacks", "executors")


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


def field_docs(config: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, inherited ones too, read from the sources (for ``list``)."""
    docs: dict[str, str] = {}
    for cls in filter(dataclasses.is_dataclass, reversed(config.__mro__)):
        body, name = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0], ""
        for node in body.body if isinstance(body, ast.ClassDef) else []:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name = node.target.id
            elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                docs[name] = str(node.value.value).strip()
                name = ""
            else:
                name = ""
    return docs
