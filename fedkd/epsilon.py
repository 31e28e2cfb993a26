"""From charged events to epsilon, by dp-accounting: exact Gaussian or PLD, and RDP; nothing here knows a mechanism.

An event is a Gaussian release whose noise is ``noise_multiplier`` times its L2 sensitivity *under the adjacency that its
mechanism names*, on a Poisson sample of rate ``rate``, ``times`` times. Sampled events are add/remove (specs: guarantees,
rule 4), so that dp-accounting's add/remove relation is right for both: an unsampled Gaussian release is the same pair of
normal laws under either relation once it is scaled by its own sensitivity. PLD: Koskela et al., 2019, arXiv 1906.03049; RDP:
Mironov, 2017, arXiv 1702.07476 and, for Poisson sampling, Mironov et al., 2019, arXiv 1908.10530.

Which figure holds when: PLD composes a schedule that is fixed beforehand; RDP is a filter, so that a budget checked with it
holds where who takes part depends on the data too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from fedkd.errors import ConfigError

INSTALL = "it needs dp-accounting: pip install 'fedkd[privacy]'"
ORDERS = (
    *(1 + x / 10 for x in range(8, 100)), *range(11, 64), 80, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 16384,
)  # fmt: skip
"""RDP orders: the usual ones but for the lowest, at which sampled events do not converge, then coarser ones."""


@dataclass(frozen=True, order=True)
class Event:
    """One kind of release and how often it was made."""

    noise_multiplier: float
    """standard deviation of the noise / L2 sensitivity, > 0"""
    rate: float = 1.0
    """Poisson sampling rate in (0, 1]; 1 = everything, no amplification"""
    times: int = 1
    """how often, >= 0"""

    def __post_init__(self) -> None:
        if not (0 < self.noise_multiplier < math.inf and 0 < self.rate <= 1 and self.times >= 0):
            raise ValueError(f"{self}: noise_multiplier above 0, rate in (0, 1] and times >= 0 are needed")

    def to_json(self) -> dict[str, Any]:
        """The form in a ledger."""
        return {"noise_multiplier": self.noise_multiplier, "rate": self.rate, "times": self.times}


def from_json(value: Mapping[str, Any]) -> Event:
    """The inverse of ``Event.to_json``. Raises: KeyError, ValueError for what is none."""
    return Event(float(value["noise_multiplier"]), float(value["rate"]), int(value["times"]))


def merged(events: Iterable[Event]) -> tuple[Event, ...]:
    """Equal releases counted together, in a fixed order: composition does not depend on the order."""
    times: Counter[tuple[float, float]] = Counter()
    for e in events:
        times[e.noise_multiplier, e.rate] += e.times
    return tuple(Event(z, q, n) for (z, q), n in sorted(times.items()) if n)


def check_installed() -> None:
    """Raises: ConfigError where dp-accounting is missing: a run that could not account must not start."""
    if find_spec("dp_accounting") is None:
        raise ConfigError(f"an epsilon cannot be computed: {INSTALL}")


def pld(events: Iterable[Event], delta: float) -> float:
    """Epsilon at ``delta`` of the composition of a schedule fixed beforehand; 0 for no event.

    Gaussian releases alone compose to one Gaussian release (1/z^2 adds up), whose epsilon is exact; otherwise PLD.
    """
    return _pld(merged(events), delta)


def rdp(events: Iterable[Event], delta: float, orders: tuple[float, ...] = ORDERS) -> float:
    """Epsilon at ``delta`` by Renyi DP: looser than ``pld`` and a filter; 0 for no event.

    At fractional ``orders`` of a sampled event dp-accounting gives an upper bound; at whole ones it is exact.
    """
    return _rdp(merged(events), delta, orders)


@lru_cache(maxsize=4096)
def _pld(events: tuple[Event, ...], delta: float) -> float:
    import dp_accounting
    from dp_accounting import pld as accountants

    if not events:
        return 0.0
    if all(e.rate == 1 for e in events):
        return float(dp_accounting.get_epsilon_gaussian(_one_gaussian(events), delta))
    accountant = accountants.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    for e in events:
        accountant.compose(_dp_event(e), e.times)
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=65536)
def _rdp(events: tuple[Event, ...], delta: float, orders: tuple[float, ...]) -> float:
    import dp_accounting
    from dp_accounting import rdp as accountants

    if not events:
        return 0.0
    accountant = accountants.RdpAccountant(orders, dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    for e in events:
        accountant.compose(_dp_event(e), e.times)
    return float(accountant.get_epsilon(delta))


def noise_for(wanted: float, delta: float, rate: float, times: int) -> float:
    """The smallest noise multiplier (to 0.1 %) at which ``times`` releases at ``rate`` spend at most ``wanted`` by ``pld``.

    Raises: ConfigError for an epsilon, delta, rate or number out of range.
    """
    if not (0 < wanted < math.inf and 0 < delta < 1 and 0 < rate <= 1 and times >= 1):
        raise ConfigError(
            f"noise for epsilon = {wanted}, delta = {delta}, rate = {rate}, {times} releases: each must be above 0"
        )
    low, high = 0.0, 1.0
    while pld((Event(high, rate, times),), delta) > wanted:
        low, high = high, 2 * high
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if pld((Event(middle, rate, times),), delta) <= wanted else (middle, high)
    return high


def _one_gaussian(events: tuple[Event, ...]) -> float:
    return 1 / math.sqrt(math.fsum(e.times / e.noise_multiplier**2 for e in events))


def _dp_event(event: Event) -> Any:
    import dp_accounting

    gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
    return gaussian if event.rate == 1 else dp_accounting.PoissonSampledDpEvent(event.rate, gaussian)
