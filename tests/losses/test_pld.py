"""Plackett-Luce distillation against its definition in NumPy, and the properties that its abstract names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.losses import ce, pld

STREAM = np.random.default_rng(6)
STUDENT, TEACHER = (torch.from_numpy(3 * STREAM.standard_normal((11, 5))) for _ in range(2))
LABELS = torch.from_numpy(STREAM.integers(0, 5, 11))


def oracle(config: pld.Config, row: int) -> float:
    """Sum over ranks of the teacher's weight times -log P(the student picks this class among those left)."""
    student, teacher = STUDENT[row].numpy(), TEACHER[row].numpy()
    weights = np.exp(teacher / config.temperature) / np.exp(teacher / config.temperature).sum()
    ranking = sorted(range(5), key=lambda c: -teacher[c])
    if config.order == "label_first":
        ranking = sorted(ranking, key=lambda c: c != int(LABELS[row]))
    return float(sum(w * (np.log(np.exp(student[ranking[k:]]).sum()) - student[c])
                     for k, (c, w) in enumerate((c, weights[c]) for c in ranking)))  # fmt: skip


@pytest.mark.parametrize("config", [pld.Config(), pld.Config(temperature=4.0), pld.Config("label_first", 2.0)])
def test_equals_the_oracle(config: pld.Config) -> None:
    expected = [oracle(config, row) for row in range(11)]
    np.testing.assert_allclose(pld.loss(config, STUDENT, TEACHER, LABELS).numpy(), expected, rtol=1e-9)


def test_weights_that_are_sure_leave_cross_entropy() -> None:
    """The paper: it subsumes weighted cross-entropy. A teacher sure of the label weights the first choice alone."""
    sure = torch.nn.functional.one_hot(LABELS, 5).double() * 1e3
    torch.testing.assert_close(pld.loss(pld.Config(), STUDENT, sure, None), ce.loss(ce.Config(), STUDENT, None, LABELS))


def test_convex_and_translation_invariant() -> None:
    other = STUDENT.flip(0)
    ends = (pld.loss(pld.Config(), s, TEACHER, None) for s in (STUDENT, other))
    assert (pld.loss(pld.Config(), (STUDENT + other) / 2, TEACHER, None) <= sum(ends) / 2).all()
    torch.testing.assert_close(
        pld.loss(pld.Config(), STUDENT + 7, TEACHER, None), pld.loss(pld.Config(), STUDENT, TEACHER, None)
    )


def test_the_teachers_order_is_better_than_its_reverse_and_wide_gaps_are_best() -> None:
    at = [pld.loss(pld.Config(), scale * TEACHER, TEACHER, None) for scale in (-1, 1, 50)]
    assert (at[0] > at[1]).all() and (at[1] > at[2]).all()


def test_ties_rank_by_index() -> None:
    flat, student = torch.zeros(1, 3), torch.tensor([[2.0, 1.0, 0.0]])
    assert pld.loss(pld.Config(), student, flat, None) < pld.loss(pld.Config(), student.flip(-1), flat, None)


def test_missing_inputs_and_bad_temperature_are_refused() -> None:
    with pytest.raises(ConfigError, match="temperature"):
        pld.Config(temperature=0.0)
    with pytest.raises(ConfigError, match="pld needs teacher logits"):
        pld.loss(pld.Config(), STUDENT, None, None)
    with pytest.raises(ConfigError, match="needs labels"):
        pld.loss(pld.Config("label_first"), STUDENT, TEACHER, None)
