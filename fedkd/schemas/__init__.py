"""The versioned JSON schemas of every file that a run folder holds, as package data.

``round``, ``client`` and ``failure`` describe one line of ``rounds.jsonl``, ``clients.jsonl`` and ``failures.jsonl``;
``config`` describes ``config.toml`` with nested tables flattened to dotted keys. Whoever writes a JSON file puts
``"schema": version(name)`` into it, so that a reader can tell an old file from a broken one.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any


def names() -> list[str]:
    """Every schema, by the name that ``load`` takes: the files of this folder."""
    files = (path.name for path in resources.files("fedkd.schemas").iterdir())
    return sorted(name.removesuffix(".json") for name in files if name.endswith(".json"))


def load(name: str) -> dict[str, Any]:
    """The JSON schema called ``name`` (draft 2020-12), a fresh copy.

    Raises: KeyError for an unknown name, listing the names that exist.
    """
    schema: dict[str, Any] = json.loads(_text(name))
    return schema


def version(name: str) -> int:
    """The version that a file of this kind carries in its ``schema`` field.

    Raises: KeyError for an unknown name, listing the names that exist.
    """
    return int(load(name)["version"])


@cache
def _text(name: str) -> str:
    if name not in names():
        raise KeyError(f"no schema {name!r}; there are: {', '.join(names())}")
    return resources.files("fedkd.schemas").joinpath(f"{name}.json").read_text(encoding="utf-8")
