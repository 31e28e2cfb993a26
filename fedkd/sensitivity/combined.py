"""Several recognisers at once by noisy-or: private unless every one of them is wrong, p = 1 - prod(1 - confidence).

Decided here (specs: swing, section 4); it treats the members as independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from fedkd import plugins
from fedkd.config import parse_args
from fedkd.errors import ConfigError
from fedkd.spans import Found, Likelihood, Span

READS = frozenset({"text"})


@dataclass(frozen=True)
class Config:
    """Who is asked."""

    members: tuple[str, ...] = ("regex",)
    """recognisers of text in fedkd/sensitivity, each once, at least one; none of them "combined" """
    args: tuple[str, ...] = ()
    """the Config of each member as the inside of a TOML inline table; empty = their defaults"""

    def __post_init__(self) -> None:
        if not self.members or len(set(self.members)) < len(self.members) or "combined" in self.members:
            raise ConfigError(f"members = {self.members}; valid: different recognisers of text, at least one, not combined")
        if self.args and len(self.args) != len(self.members):
            raise ConfigError(f"args holds {len(self.args)} texts for {len(self.members)} members; valid: one each, or none")


def find(config: Config, texts: Sequence[str]) -> Found:  # one list of spans per text, not overlapping
    """Pieces of text with one joint confidence each; the kind is that of the most confident member.

    Raises: ConfigError for a member that does not exist or does not read text, or for its args.
    """
    found = [_member(name, args, texts) for name, args in zip(config.members, config.args or [""] * len(config.members))]
    return [_joined(rows) for rows in zip(*found, strict=True)]


def combine(likelihoods: Sequence[npt.ArrayLike]) -> Likelihood:  # n arrays [..] -> [..]
    """Noisy-or of likelihoods of one shape, for estimators that read arrays."""
    miss = np.prod([1.0 - np.asarray(p, dtype=np.float64) for p in likelihoods], axis=0)
    return np.asarray(1.0 - miss, dtype=np.float32)


def _member(name: str, args: str, texts: Sequence[str]) -> Found:
    module = plugins.find("sensitivity", name)
    if set(module.READS) != {"text"}:
        raise ConfigError(f"members: {name} reads {', '.join(sorted(module.READS))}, not text; combine its arrays instead")
    return list(module.find(parse_args(args, module.Config, f"sensitivity.args: {name}"), texts))


def _joined(rows: Sequence[Sequence[Span]]) -> list[Span]:
    edges = sorted({edge for spans in rows for span in spans for edge in (span.start, span.end)})
    joined = []
    for start, end in pairwise(edges):
        over = [
            max((s for s in spans if s.start <= start and end <= s.end), key=lambda s: s.confidence, default=None)
            for spans in rows
        ]
        hits = [span for span in over if span is not None]
        if hits:
            kind = max(hits, key=lambda s: s.confidence).kind
            joined.append(Span(start, end, kind, 1.0 - float(np.prod([1.0 - s.confidence for s in hits]))))
    return joined
