"""Log-probability per compressed byte."""

import zlib as compression

import pytest

from fedkd.attacks import zlib


def test_repetitive_text_is_discounted() -> None:
    """Equal loss: the text that compresses to fewer bytes is the easier one, so its score is lower."""
    sizes = [len(compression.compress(text.encode())) for text in ("a" * 200, "every word here differs from others " * 3)]
    easy, rich = zlib.score(zlib.Config(), target_logprob=[-1.0, -1.0], zlib_bytes=sizes)
    assert easy == pytest.approx(-1.0 / sizes[0])
    assert easy < rich


def test_sum_is_the_ratio_of_the_original() -> None:
    config = zlib.Config(reduce="sum")
    assert zlib.score(config, target_logprob=[[-1.0, -3.0]], zlib_bytes=[8]) == pytest.approx([-0.5])


@pytest.mark.parametrize("sizes", [[0], [-1], [5, 5], [float("nan")]])
def test_impossible_sizes_are_refused(sizes: list[float]) -> None:
    with pytest.raises(ValueError, match="positive compressed size"):
        zlib.score(zlib.Config(), target_logprob=[-1.0], zlib_bytes=sizes)
