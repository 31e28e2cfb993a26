"""The planted secrets themselves, wherever they stand: the upper bound of every recogniser, never a main result.

Decided here (specs: swing, section 4); secrets come from ``fedkd.canary``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedkd.errors import ConfigError
from fedkd.spans import Found, Span, occurrences

READS = frozenset({"text"})


@dataclass(frozen=True)
class Config:
    """What is known to be private."""

    secrets: tuple[str, ...] = ()
    """strings that are flagged at token or digit boundaries; none = nothing is private"""
    confidence: float = 1.0
    """in [0, 1]"""

    def __post_init__(self) -> None:
        if "" in self.secrets:
            raise ConfigError("secrets holds an empty string; valid: strings of at least one character")
        if not 0 <= self.confidence <= 1:
            raise ConfigError(f"confidence = {self.confidence}; valid: 0 to 1")


def find(config: Config, texts: Sequence[str]) -> Found:  # one list of spans per text
    """Every occurrence of every secret."""
    found = occurrences(texts, dict.fromkeys(config.secrets, config.confidence))
    return [[Span(s.start, s.end, "digits" if s.kind == "digits" else "secret", s.confidence) for s in row] for row in found]
