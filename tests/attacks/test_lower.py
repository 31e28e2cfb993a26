"""What lower-casing costs."""

import pytest

from fedkd.attacks import lower


def test_a_text_that_loses_more_scores_higher() -> None:
    memorized, other = lower.score(lower.Config(), target_logprob=[-0.1, -2.0], lowered_logprob=[-3.0, -2.5])
    assert (memorized, other) == pytest.approx((2.9, 0.5))


def test_text_without_capitals_has_no_signal() -> None:
    assert lower.score(lower.Config(), target_logprob=[[-1.0, -2.0]], lowered_logprob=[[-1.0, -2.0]]) == pytest.approx([0.0])


def test_ratio_and_texts_of_other_lengths() -> None:
    signals = {"target_logprob": [[-1.0, -3.0, 0.0]], "lowered_logprob": [[-2.0, -4.0, -6.0]]}
    config = lower.Config(form="ratio")
    assert lower.score(config, **signals, lengths=[2], lowered_lengths=[3]) == pytest.approx([4.0 / 2.0])


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="2 lower-cased texts for 1 texts"):
        lower.score(lower.Config(), target_logprob=[-1.0], lowered_logprob=[-1.0, -2.0])
    with pytest.raises(ValueError, match="form = difference"):
        lower.score(lower.Config(form="ratio"), target_logprob=[0.0], lowered_logprob=[-1.0])
    with pytest.raises(ValueError, match="unknown form"):
        lower.score(lower.Config(form="other"), target_logprob=[-1.0], lowered_logprob=[-1.0])
