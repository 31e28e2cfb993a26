"""From signals to scores: every attack that a channel allows, per round and over all rounds, with its control.

A round's score compares a candidate's own client with other clients' messages of that round; the score of a run is the mean
over the rounds in which its client took part (decided here; an average of a stronger and a weaker round is what a receiver
without labels can do). The control scores each candidate against *another* client's message in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedkd import controls
from fedkd.attacks import calibrated_loss, loss, updates
from fedkd.channel_signals import FEATURES, HEADS, HEADS_DOWN, PERSONAL, SOFT, WEIGHTS, WEIGHTS_DOWN, Values
from fedkd.intervals import Floats, Ints

Score = Callable[[Floats, Floats, Ints], Floats]
"""(own [n], others [S, n], client [n]) -> [n]"""


@dataclass(frozen=True)
class Attack:
    """A way to turn a signal of a channel into a score."""

    name: str
    """as in the rows of the result"""
    channel: str
    signal: str
    score: Score
    least: int = 0
    """other clients that it needs"""
    cumulative: bool = False
    """whether a round's signal already holds the rounds before it: then the last one counts alone"""


@dataclass(frozen=True)
class Scored:
    """An attack on a channel of this run."""

    attack: Attack
    rounds: tuple[int, ...]
    by_round: Floats
    """[T, N]; NaN where the candidate's client sent nothing"""
    control: Floats | None
    """[T, N] the same against another client's message; None where there are too few"""
    total: Floats
    """[N] mean over rounds, or the last round of a cumulative attack; NaN where its client never took part"""


def logprob(phi: Floats) -> Floats:
    """log p of log(p / (1 - p))."""
    return np.asarray(-np.logaddexp(0.0, -phi), dtype=np.float64)


def _loss(own: Floats, others: Floats, client: Ints) -> Floats:
    return loss.score(loss.Config(), target_logprob=logprob(own))


def _calibrated(own: Floats, others: Floats, client: Ints) -> Floats:
    outside = np.zeros(others.shape, dtype=np.bool_)
    return calibrated_loss.score(
        calibrated_loss.Config(), target_logprob=logprob(own), shadow_logprob=logprob(others), shadow_in=outside
    )


def _own(own: Floats, others: Floats, client: Ints) -> Floats:
    return own


def _z(own: Floats, others: Floats, client: Ints) -> Floats:
    return controls.pool_clients(own, others, client)


def _fedmia_loss(own: Floats, others: Floats, client: Ints) -> Floats:
    losses = -logprob(np.vstack([own[None], others])).T[:, :, None]
    return updates.score(updates.Config(variant="loss"), client=np.zeros(len(own), np.int64), client_loss=losses)


def _fedmia_cosine(own: Floats, others: Floats, client: Ints) -> Floats:
    cosines = np.vstack([own[None], others]).T[:, :, None]
    return updates.score(updates.Config(variant="cosine"), client=np.zeros(len(own), np.int64), update_cosine=cosines)


ATTACKS = (
    Attack("nearest_feature", FEATURES, "nearest_feature", _own),
    Attack("nearest_feature (z)", FEATURES, "nearest_feature", _z, 2),
    Attack("followed_row", FEATURES, "followed_row", _own, 0, True),
    Attack("followed_row (z)", FEATURES, "followed_row", _z, 2, True),
    Attack("nearest_soft_label", SOFT, "nearest_soft_label", _own),
    Attack("nearest_soft_label (z)", SOFT, "nearest_soft_label", _z, 2),
    *(
        Attack(name, channel, "phi", score, least)
        for channel in (WEIGHTS, HEADS, PERSONAL)
        for name, score, least in (
            ("loss", _loss, 0),
            ("calibrated_loss", _calibrated, 1),
            ("co-op lira", _z, 2),
            ("updates (loss)", _fedmia_loss, 2),
        )
    ),
    Attack("updates (cosine)", WEIGHTS, "update_cosine", _fedmia_cosine, 2),
    Attack("loss", WEIGHTS_DOWN, "phi", _loss),
    Attack("loss", HEADS_DOWN, "phi", _loss),
)


def scored(values: dict[tuple[str, str], Values], client: Ints) -> list[Scored]:
    """Every attack whose signal this run gave, in the order of ``ATTACKS``."""
    found = []
    for attack in ATTACKS:
        given = values.get((attack.channel, attack.signal))
        if given is None or min(len(o) for o in given.others) < attack.least:
            continue
        by_round = np.stack([_masked(attack, own, o, client) for own, o in zip(given.own, given.others, strict=True)])
        control = None
        if min(len(o) for o in given.others) > attack.least:
            control = np.stack([_masked(attack, o[0], o[1:], client) for o in given.others])
        seen = np.isfinite(by_round)
        total = np.where(seen, by_round, 0.0).sum(axis=0) / np.where(seen.any(axis=0), seen.sum(axis=0), np.nan)
        if attack.cumulative:
            total = by_round[len(by_round) - 1 - seen[::-1].argmax(axis=0), np.arange(by_round.shape[1])]
        found.append(Scored(attack, tuple(given.rounds), by_round, control, total))
    return found


def _masked(attack: Attack, own: Floats, others: Floats, client: Ints) -> Floats:
    """Scores of the candidates whose client took part, NaN for the rest."""
    there = np.isfinite(own) & np.isfinite(others).all(axis=0)
    out = np.full(len(own), np.nan)
    if there.any():
        out[there] = attack.score(own[there], others[:, there], client[there])
    return out
