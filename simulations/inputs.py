"""What a study was begun with: hashes of its texts and model folders, and versions; the plan's hash covers none of them.

``inputs.json`` in the study's folder is written before anything is trained. Going on with other texts or models is refused,
for one table would mix two studies; another version of a library is told, since bits may differ and nothing else should.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fedkd.dataset import file_sha256
from fedkd.errors import ConfigError
from fedkd.language import folder_of
from server.run_folder import write_json

FILE = "inputs.json"
LIBRARIES = ("torch", "transformers", "tokenizers")
READ = frozenset({".json", ".safetensors", ".bin", ".model", ".txt"})
"""Suffixes of what is read of a model's folder."""


def inputs_of(nets: Mapping[str, str], texts_sha256: str) -> dict[str, Any]:
    """The content of ``inputs.json``; ``nets``: model -> its folder or hub id, empty where it starts untrained.

    Raises: ConfigError for a model folder that cannot be had.
    """
    hashes: dict[str, dict[str, str]] = {}
    for name in {n for n in nets.values() if n}:
        place = folder_of(name)
        files = sorted(p for p in place.rglob("*") if p.is_file() and p.suffix in READ)
        hashes[name] = {p.relative_to(place).as_posix(): file_sha256(p) for p in files}
    folders = {net: hashes[name] for net, name in nets.items() if name}
    return {"schema": 1, "texts": texts_sha256, "folders": folders, "versions": {n: _version(n) for n in LIBRARIES}}


def bind(folder: Path, now: dict[str, Any], said: Callable[[str], None]) -> None:
    """Write ``inputs.json`` where there is none, else hold a study to it.

    Raises: ConfigError where texts or models are not those that the study began with.
    """
    file = folder / FILE
    try:
        begun = json.loads(file.read_text(encoding="utf-8"))
        old, folders, versions = begun["texts"], dict(begun["folders"]), dict(begun["versions"])
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob("s*.safetensors")):
            said(f"warning: {folder} was begun before inputs were recorded; today's are written down, unchecked")
        write_json(file, now)
        return
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{file} is damaged; remove {folder} to begin again") from None
    changed = ["the texts"] if old != now["texts"] else []
    for net in sorted({*folders, *now["folders"]}):
        one, other = folders.get(net, {}), now["folders"].get(net, {})
        differing = sorted(n for n in {*one, *other} if one.get(n) != other.get(n))
        changed += [f"{net}.folder ({differing[0]})"] if differing else []
    if changed:
        wrong = f"not what this study began with: {', '.join(changed)}"
        raise ConfigError(f"{wrong}; put them back as they were, or remove {folder} to begin again")
    for name, number in now["versions"].items():
        if versions.get(name) != number:
            said(f"warning: this study began with {name} {versions.get(name)}, now {number}: results may differ in bits")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
