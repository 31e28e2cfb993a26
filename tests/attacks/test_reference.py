"""The reference attack: NLL(reference) - NLL(target)."""

import numpy as np
import pytest

from fedkd.attacks import reference


def test_difference_on_the_same_tokens() -> None:
    """Mean over two tokens: target -1, reference -2.5, so the gain is 1.5; padding is ignored in both."""
    own, base = np.array([[-0.5, -1.5, -9.0]]), np.array([[-2.0, -3.0, -1.0]])
    got = reference.score(reference.Config(), target_logprob=own, reference_logprob=base, lengths=[2])
    assert got == pytest.approx([1.5])
    got = reference.score(reference.Config(reduce="sum"), target_logprob=own, reference_logprob=base)
    assert got == pytest.approx([-11.0 + 6.0])


def test_the_same_model_gives_zero() -> None:
    logprob = -np.random.default_rng(0).exponential(size=(5, 4))
    assert reference.score(reference.Config(), target_logprob=logprob, reference_logprob=logprob) == pytest.approx([0.0] * 5)


def test_unequal_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="the reference scored 1 examples, the target 2"):
        reference.score(reference.Config(), target_logprob=[-1.0, -1.0], reference_logprob=[-1.0])
