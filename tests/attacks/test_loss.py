"""The loss attack against hand arithmetic."""

import numpy as np
import pytest

from fedkd.attacks import loss


def test_mean_and_sum_over_real_tokens_only() -> None:
    """Row 0 has two tokens (mean -1.5, sum -3), row 1 three (mean -2, sum -6); padding may hold anything."""
    logprob = np.array([[-1.0, -2.0, np.nan], [-1.0, -2.0, -3.0]])
    assert loss.score(loss.Config(), target_logprob=logprob, lengths=[2, 3]) == pytest.approx([-1.5, -2.0])
    total = loss.score(loss.Config(reduce="sum"), target_logprob=logprob, lengths=[2, 3])
    assert total == pytest.approx([-3.0, -6.0])


def test_labels_are_single_tokens() -> None:
    assert loss.score(loss.Config(), target_logprob=[-0.1, -2.0]) == pytest.approx([-0.1, -2.0])


@pytest.mark.parametrize(
    ("logprob", "lengths", "line"),
    [
        ([0.5, 0.1], None, "above 0"),
        ([[-1.0, np.nan]], None, "NaN"),
        ([[-1.0, -1.0]], [3], "lengths"),
        ([[-1.0, -1.0]], [0], "lengths"),
        ([[-1.0, -1.0]], [1, 1], "lengths"),
        (np.zeros((2, 0)), None, "T >= 1"),
        (np.zeros((2, 2, 2)), None, "T >= 1"),
    ],
)
def test_refusals(logprob, lengths, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        loss.score(loss.Config(), target_logprob=logprob, lengths=lengths)


def test_unknown_reduction_is_named() -> None:
    with pytest.raises(ValueError, match="valid: mean, sum"):
        loss.score(loss.Config(reduce="max"), target_logprob=[-1.0])
