"""Every plug-in with its Config fields, defaults and one-line meanings, read from the code."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from fedkd import plugins
from fedkd.plugins import field_docs


def catalogue(slots: Iterable[str]) -> list[dict[str, Any]]:
    """One row per field (one without a field for a plug-in that has none). Raises: ConfigError for an unknown slot."""
    rows: list[dict[str, Any]] = []
    for slot in slots:
        for name in plugins.available(slot):
            module = plugins.find(slot, name)
            first = (module.__doc__ or "").strip().splitlines()[0]
            rows.append({"slot": slot, "name": name, "field": "", "default": "", "meaning": first})
            config = getattr(module, "Config", None)
            if config is None:
                continue
            docs = field_docs(config)
            rows += [
                {
                    "slot": slot,
                    "name": name,
                    "field": f.name,
                    "default": "required" if f.default is dataclasses.MISSING else repr(f.default),
                    "meaning": docs.get(f.name, ""),
                }
                for f in dataclasses.fields(config)
            ]
    return rows
