"""Epsilon from charged events: equal to Opacus' accountant where both apply, and to the figures of the specification."""

from __future__ import annotations

import math
import warnings

import pytest

from fedkd import epsilon
from fedkd.epsilon import Event
from fedkd.errors import ConfigError
from fedkd.mechanisms import clip_noise

DELTA = 1e-5


@pytest.mark.parametrize(("sigma", "rate", "steps"), [(11.8, 16 / 70, 200), (3.5, 16 / 70, 200), (2.0, 0.05, 500)])
def test_rdp_equals_opacus(sigma: float, rate: float, steps: int) -> None:
    """Equal at whole orders; at fractional ones, where dp-accounting bounds the series from above, never below Opacus."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants import RDPAccountant
    theirs = RDPAccountant()
    theirs.history = [(sigma, rate, steps)]
    whole, events = tuple(range(2, 513)), [Event(sigma, rate, steps)]
    expected = theirs.get_epsilon(DELTA, alphas=list(whole))
    assert epsilon.rdp(events, DELTA, whole) == pytest.approx(expected, rel=1e-9)
    least = theirs.get_epsilon(DELTA, alphas=[o for o in epsilon.ORDERS if o <= 512])
    assert least * (1 - 1e-9) <= epsilon.rdp(events, DELTA) <= least * 1.001


@pytest.mark.parametrize(("sigma", "about"), [(11.8, 1), (3.5, 4), (2.05, 8)])
def test_seventy_examples_need_the_noise_of_the_specification(sigma: float, about: float) -> None:
    """70 examples, batch 16, 40 rounds of 5 steps: epsilon 1 / 4 / 8 needs sigma 11.8 / 3.5 / 2.05."""
    assert epsilon.pld([Event(sigma, 16 / 70, 200)], DELTA) == pytest.approx(about, rel=0.06)


def test_gaussian_releases_compose_exactly() -> None:
    """delta(eps) = Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu) with mu = sqrt(sum n / z^2)."""

    def phi(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    events = [Event(4.0, times=3), Event(7.0, times=2)]
    mu, e = math.sqrt(3 / 16 + 2 / 49), epsilon.pld(events, DELTA)
    assert phi(mu / 2 - e / mu) - math.exp(e) * phi(-mu / 2 - e / mu) == pytest.approx(DELTA, rel=1e-3)
    assert epsilon.rdp(events, DELTA) >= e
    assert epsilon.pld(reversed(events), DELTA) == e


def test_one_row_understates_what_all_rows_release() -> None:
    """K = 70, 30 rounds, 10 C: zCDP (rho + 2 sqrt(rho ln 1/delta)) gives the specification's 5.9 and 86; both bound PLD."""
    for rows, published in ((1, 5.9), (70, 86)):
        (event,) = clip_noise.joint(clip_noise.Config(), rows)
        rho = 30 / (2 * event.noise_multiplier**2)
        assert rho + 2 * math.sqrt(rho * math.log(1 / DELTA)) == pytest.approx(published, rel=0.01)
        exact = epsilon.pld([Event(event.noise_multiplier, times=30)], DELTA)
        assert 0.8 * published < exact < published


def test_nothing_spent_is_nothing_and_more_is_never_less() -> None:
    assert epsilon.pld([], DELTA) == epsilon.rdp([], DELTA) == epsilon.pld([Event(1.0, times=0)], DELTA) == 0
    spent = [epsilon.rdp([Event(2.0, 0.1, n)], DELTA) for n in (1, 10, 100)]
    assert spent == sorted(spent) and spent[0] > 0


@pytest.mark.parametrize("bad", [(0.0, 1.0, 1), (1.0, 0.0, 1), (1.0, 1.5, 1), (1.0, 1.0, -1), (math.inf, 1.0, 1)])
def test_what_is_no_release_is_refused(bad: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="are needed"):
        Event(*bad)


def test_an_event_survives_the_ledger() -> None:
    event = Event(1.25, 0.2, 7)
    assert epsilon.from_json(event.to_json()) == event
    assert epsilon.merged([event, event]) == (Event(1.25, 0.2, 14),)


@pytest.mark.parametrize(("wanted", "known"), [(1.0, 11.8), (4.0, 3.5), (8.0, 2.05)])
def test_noise_for_an_epsilon_is_that_of_the_specification_and_spends_no_more(wanted: float, known: float) -> None:
    """K = 70, batch 16, 40 epochs of 70 / 16 steps, delta 1e-5 (specs: guarantees)."""
    found = epsilon.noise_for(wanted, DELTA, 16 / 70, 175)
    assert found == pytest.approx(known, rel=0.04)
    assert epsilon.pld((Event(found, 16 / 70, 175),), DELTA) <= wanted


def test_noise_for_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="noise for epsilon = 0"):
        epsilon.noise_for(0.0, DELTA, 1.0, 1)
