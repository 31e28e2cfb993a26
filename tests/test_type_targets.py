"""Targets over a type: each rule against its definition, its neutral value and what it must not let through."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fedkd import type_targets as t
from fedkd.errors import ConfigError

GENERATOR = torch.Generator().manual_seed(3)
TEACHER = torch.log_softmax(3 * torch.randn(5, 2, 10, generator=GENERATOR), dim=-1)
PUBLIC = torch.log_softmax(torch.randn(5, 2, 10, generator=GENERATOR), dim=-1)
PRIOR = torch.softmax(torch.randn(10, generator=GENERATOR), dim=-1)


def vote(*rows: list[float]) -> Tensor:
    return torch.tensor(rows).log()


def test_of_type_is_the_softmax_over_the_types_symbols() -> None:
    logits = torch.tensor([[0.0, 9.0, math.log(3.0), 9.0]])
    assert torch.allclose(t.of_type(logits, torch.tensor([0, 2])).exp(), torch.tensor([[0.25, 0.75]]))


RULES: list[Callable[[], Tensor]] = [
    lambda: t.prior_mix(TEACHER, PRIOR, 0.7),
    lambda: t.gap_temperature(TEACHER, PUBLIC, 2.0),
    lambda: t.bounded_odds(TEACHER, PUBLIC, 0.5),
    lambda: t.name_marginal(torch.stack([TEACHER, PUBLIC])),
    lambda: t.consensus(torch.stack([TEACHER, PUBLIC]), torch.zeros(2, 5, 2, dtype=torch.bool)),
    lambda: t.cross_fit(torch.stack([TEACHER, PUBLIC]), torch.zeros(2, 5, 2, dtype=torch.bool)),
    lambda: t.counted(torch.ones(5, 2, 10), PRIOR, torch.randn(5, 2, 10, generator=GENERATOR), 1.0),
]


@pytest.mark.parametrize("rule", RULES)
def test_every_target_is_a_distribution_without_a_zero(rule: Callable[[], Tensor]) -> None:
    found = rule()
    assert found.shape == (5, 2, 10)
    assert torch.allclose(found.sum(-1), torch.ones(5, 2))
    assert float(found.min()) > 0


def test_neutral_values_are_the_teacher_or_the_public_model() -> None:
    assert torch.allclose(t.prior_mix(TEACHER, PRIOR, 0.0), TEACHER.exp(), atol=1e-5)
    assert torch.allclose(t.prior_mix(TEACHER, PRIOR, 1.0), PRIOR.expand(5, 2, 10))
    assert torch.allclose(t.gap_temperature(TEACHER, PUBLIC, 0.0), TEACHER.exp(), atol=1e-6)
    assert torch.allclose(t.bounded_odds(TEACHER, PUBLIC, 0.0), PUBLIC.exp(), atol=1e-6)
    assert torch.allclose(t.bounded_odds(TEACHER, PUBLIC, 99.0), TEACHER.exp(), atol=1e-6)
    assert torch.allclose(t.name_marginal(TEACHER[None]), TEACHER.exp(), atol=1e-5)


def odds(target: Tensor) -> Tensor:
    """Largest spread of the log-odds against the public model."""
    gap = target.log() - PUBLIC
    return gap.amax(-1) - gap.amin(-1)


def test_bounds_hold_for_every_pair_of_symbols() -> None:
    assert float(odds(TEACHER.exp()).max()) > 4
    assert float(odds(t.bounded_odds(TEACHER, PUBLIC, 0.5)).max()) == pytest.approx(1.0, abs=1e-4)
    assert float(odds(t.gap_temperature(TEACHER, PUBLIC, 4.0)).max()) < 2 / 4
    surprising = torch.log_softmax(20 * TEACHER, dim=-1)
    assert float(odds(t.gap_temperature(surprising, PUBLIC, 4.0)).max()) < 2 / 4


def test_a_name_marginal_is_the_mean_of_probabilities() -> None:
    found = t.name_marginal(vote([0.9, 0.1], [0.5, 0.5]))
    assert torch.allclose(found, torch.tensor([0.7, 0.3]))


def test_a_consensus_keeps_what_every_stranger_expects_and_nothing_of_one_person() -> None:
    common, secret = [0.6, 0.2, 0.2], [0.1, 0.1, 0.8]
    nobody = torch.zeros(3, 1, dtype=torch.bool)
    votes = vote(common, common, secret)[:, None]
    met = torch.tensor([[False], [False], [True]])
    assert torch.allclose(t.consensus(votes, met)[0], torch.tensor(common)), "its own fold is not asked"
    agreed = t.consensus(votes, nobody)[0]
    assert torch.allclose(agreed, torch.tensor([0.1, 0.1, 0.2]) / 0.4), "one alone pushes nothing up"
    assert torch.allclose(t.cross_fit(votes, met)[0], torch.tensor(common))
    mean = t.cross_fit(votes, nobody)[0]
    assert torch.allclose(mean, torch.tensor([1.3, 0.5, 1.2]) / 3)
    assert float(mean[2]) > float(agreed[2]) * 0.7


@pytest.mark.parametrize("rule", [t.consensus, t.cross_fit])
def test_a_person_whom_every_teacher_met_is_refused(rule: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(ConfigError, match="has not met the person"):
        rule(vote([0.5, 0.5], [0.5, 0.5])[:, None], torch.ones(2, 1, dtype=torch.bool))


def test_counts_are_smoothed_noised_and_cut() -> None:
    counts, prior, silent = torch.tensor([[8.0, 1.0, 0.0]]), torch.tensor([0.2, 0.3, 0.5]), torch.zeros(1, 3)
    assert torch.allclose(t.counted(counts, prior, silent, math.inf), torch.tensor([[8.2, 1.3, 0.5]]) / 10)
    noisy = t.counted(counts, prior, torch.tensor([[-1.0, -4.0, 2.0]]), 0.5)
    assert torch.allclose(noisy, torch.tensor([[6.2, 0.3, 4.5]]) / 11)
    assert torch.allclose(t.counted(counts, prior, silent, 1.0, at_least=10), prior[None], atol=1e-5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: t.prior_mix(TEACHER, PRIOR, 1.5), "weight = 1.5"),
        (lambda: t.gap_temperature(TEACHER, PUBLIC, -1.0), "slope = -1"),
        (lambda: t.bounded_odds(TEACHER, PUBLIC, -1.0), "bound = -1"),
        (lambda: t.counted(PRIOR, PRIOR, PRIOR, 0.0), "epsilon = 0"),
    ],
)
def test_values_out_of_range_are_refused(call: Callable[[], Tensor], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        call()
