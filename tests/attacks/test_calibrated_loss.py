"""Difficulty calibration uses, for each example, only models that did not see it."""

import numpy as np
import pytest

from fedkd.attacks import calibrated_loss


def test_models_that_saw_the_example_are_left_out() -> None:
    """Example 0: out models say -2 and -4, so -1 + 3 = 2. Example 1: only the last is out, so -1 + 6 = 5."""
    shadow = np.array([[-2.0, 0.0], [-4.0, 0.0], [0.0, -6.0]])
    inside = np.array([[False, True], [False, True], [True, False]])
    config = calibrated_loss.Config()
    got = calibrated_loss.score(config, target_logprob=[-1.0, -1.0], shadow_logprob=shadow, shadow_in=inside)
    assert got == pytest.approx([2.0, 5.0])


def test_too_few_out_models_are_refused() -> None:
    inside = np.array([[True, False], [True, False]])
    for least, line in ((1, "1 examples have fewer than 1"), (3, "2 examples have fewer than 3")):
        config = calibrated_loss.Config(minimum_references=least)
        with pytest.raises(ValueError, match=line):
            calibrated_loss.score(config, target_logprob=[-1.0, -1.0], shadow_logprob=np.zeros((2, 2)), shadow_in=inside)


@pytest.mark.parametrize(("shadow", "line"), [(np.zeros((2, 3)), "must be"), (np.full((2, 2), np.nan), "NaN")])
def test_malformed_references_are_refused(shadow: np.ndarray, line: str) -> None:
    inside = np.zeros((2, 2), dtype=bool)
    with pytest.raises(ValueError, match=line):
        calibrated_loss.score(calibrated_loss.Config(), target_logprob=[-1.0, -1.0], shadow_logprob=shadow, shadow_in=inside)
