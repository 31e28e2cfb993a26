"""Which layers are in the federation in which round: FedD2S' deep-to-shallow schedule as one table made before the run.

FedD2S, 2024, arXiv 2402.10846: layers leave the federation from deep to shallow. The times are decided here (the paper's
are not known to us). Two integers per round: the **level** s (blocks 1..s are averaged; L+1 is the classifier) and the
**cut** l (knowledge passes at the output of block l; 0 = none).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedkd.errors import ConfigError

NAMED = ("late", "later", "equal", "none", "fixed", "shallow_to_deep")
_EPS = 1e-9

Explicit = Sequence[tuple[int | str, float]]


@dataclass(frozen=True)
class Schedule:
    """Levels and cuts, one per round."""

    levels: tuple[int, ...]
    """s(t) in 0..L+1"""
    cuts: tuple[int, ...]
    """l(t) in 0..L"""
    top: int
    """the highest level that this run can reach"""

    @property
    def heads(self) -> tuple[int, ...]:
        """Cuts at which a head exists, ascending."""
        return tuple(sorted({c for c in self.cuts if c > 0}))


def boundary(fraction: float, rounds: int) -> int:
    """The round at which a fraction of the run has passed: ceil(a * R)."""
    return math.ceil(fraction * rounds - _EPS)


def build(
    schedule: str | Explicit,
    *,
    blocks: int,
    rounds: int,
    average: bool,
    fixed_level: int = 1,
    top_level: int = -1,
    dropping_set: str | Sequence[int | str] = "auto",
    kd_after_drop: str = "stop",
    rounds_per_drop: int = -1,
    min_cut: int = 1,
) -> Schedule:
    """The table of levels and cuts for L = ``blocks`` blocks and R = ``rounds`` rounds.

    Raises: ConfigError naming the field, where a level lies outside the model, a dropping set is not a slice from the
        top, fractions do not rise to 1, or "stop" meets a rising level.
    """
    top = _top(top_level, blocks, average)
    if isinstance(schedule, str):
        if schedule not in NAMED:
            raise ConfigError(f"schedule = {schedule!r}; valid: {', '.join(NAMED)} or a list of [level, fraction]")
        if rounds_per_drop != -1 and schedule not in ("equal", "shallow_to_deep"):
            raise ConfigError(f'rounds_per_drop = {rounds_per_drop} needs schedule = "equal", not {schedule!r}')
        if schedule == "fixed":
            levels = [_level(fixed_level, blocks, top, "fixed_level", low=1)] * rounds
        else:
            dropped = _dropping_set(dropping_set, blocks, top, min_cut)
            levels = _named(schedule, blocks, rounds, top, dropped, rounds_per_drop)
    else:
        if dropping_set != "auto":
            raise ConfigError('dropping_set must be "auto" with an explicit schedule: the list says what leaves')
        levels = _explicit(schedule, blocks, rounds, top)
    return Schedule(tuple(levels), _cuts(levels, blocks, kd_after_drop, min_cut), top)


def _top(top_level: int, blocks: int, average: bool) -> int:
    if top_level == -1:
        return blocks + 1 if average else blocks
    return _level(top_level, blocks, blocks + 1, "top_level", low=1)


def _level(value: int | str, blocks: int, top: int, where: str, low: int = 0) -> int:
    named = {"L+1": blocks + 1, "L": blocks}
    level = named.get(value) if isinstance(value, str) else value
    if not isinstance(level, int) or isinstance(level, bool) or not low <= level <= top:
        raise ConfigError(f'{where}: level {value!r} is outside {low}..{top} (L = {blocks} blocks; "L", "L+1" also work)')
    return level


def _dropping_set(value: str | Sequence[int | str], blocks: int, top: int, min_cut: int) -> int:
    """How many layers may leave, |D|."""
    if isinstance(value, str):
        if value != "auto":
            raise ConfigError(f'dropping_set = {value!r}; valid: "auto" or a list of layers from the top, e.g. ["L+1", "L"]')
        return max(0, top - max(1, min_cut))
    layers = sorted((_level(v, blocks, blocks + 1, "dropping_set", low=1) for v in value), reverse=True)
    if layers != list(range(top, top - len(layers), -1)):
        raise ConfigError(f"dropping_set = {list(value)} is not a contiguous slice that starts at the top level {top}")
    if layers and layers[-1] <= min_cut:
        raise ConfigError(f"dropping_set = {list(value)} contains a block <= min_cut = {min_cut}, which never leaves")
    return len(layers)


def _named(name: str, blocks: int, rounds: int, top: int, dropped: int, tau: int) -> list[int]:
    bottom = top - dropped
    if name == "none":
        return [top] * rounds
    if name in ("equal", "shallow_to_deep"):
        if tau < -1:
            raise ConfigError(f"rounds_per_drop = {tau}; valid: -1 (equal shares), 0 (never), 1, 2, ...")
        if tau == -1:
            drops = [min(dropped, t * (dropped + 1) // rounds) for t in range(rounds)]
        else:
            drops = [min(dropped, t // tau) if tau else 0 for t in range(rounds)]
        levels = [top - d for d in drops]
        return levels[::-1] if name == "shallow_to_deep" else levels
    first, second, span = (0.50, 0.75, 0.15) if name == "late" else (0.70, 0.85, 0.10)
    steps = [(first, blocks), (second, blocks)] if blocks == 1 else [(first, blocks)]
    steps += [(second + span * (k - 1) / max(1, blocks - 2), blocks - k) for k in range(1, blocks)]
    return [max(bottom, min(top, _after(steps, t, rounds, blocks + 1))) for t in range(rounds)]


def _after(steps: Sequence[tuple[float, int]], t: int, rounds: int, start: int) -> int:
    level = start
    for fraction, value in steps:
        if t >= boundary(fraction, rounds):
            level = value
    return level


def _explicit(schedule: Explicit, blocks: int, rounds: int, top: int) -> list[int]:
    pairs = list(schedule)
    if not pairs or any(not isinstance(p, tuple | list) or len(p) != 2 for p in pairs):
        raise ConfigError(f"schedule = {schedule!r} is not a list of [level, until which fraction of the rounds]")
    fractions = [p[1] for p in pairs]
    if not all(isinstance(f, int | float) and not isinstance(f, bool) for f in fractions):
        raise ConfigError(f"schedule: fractions {fractions} are not numbers")
    if not all(a < b for a, b in itertools.pairwise([0.0, *fractions])) or fractions[-1] != 1.0:
        raise ConfigError(f"schedule: fractions {fractions} must rise strictly and end at 1.0")
    levels = [_level(p[0], blocks, top, "schedule") for p in pairs]
    ends = [boundary(f, rounds) for f in fractions]
    return [levels[next(i for i, end in enumerate(ends) if t < end)] for t in range(rounds)]


def _cuts(levels: Sequence[int], blocks: int, kd_after_drop: str, min_cut: int) -> tuple[int, ...]:
    if kd_after_drop == "follow":
        cuts = tuple(min(level, blocks) for level in levels)
    else:
        if any(b > a for a, b in itertools.pairwise(levels)):
            raise ConfigError('kd_after_drop = "stop" cannot follow a rising level; use kd_after_drop = "follow"')
        first = min(levels[0], blocks)
        cuts = tuple(first if level >= first else 0 for level in levels)
    return tuple(cut if cut >= min_cut else 0 for cut in cuts)
