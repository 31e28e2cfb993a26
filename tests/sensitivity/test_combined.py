"""Noisy-or of recognisers by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fedkd.errors import ConfigError
from fedkd.sensitivity import combined, regex
from fedkd.spans import to_tokens


def test_noisy_or_where_members_overlap() -> None:
    """The six digits are flagged by both members, 1 - 0.1 * 0.5 = 0.95; " of" by one, the last number by none."""
    config = combined.Config(("regex", "oracle"), ("propagate = false", 'secrets = ["482913 of"], confidence = 0.5'))
    text = "x 482913 of 482"
    (row,) = combined.find(config, [text])
    found = to_tokens(row, [(i, i + 1) for i in range(len(text))])
    expected = [0.0] * 2 + [0.95] * 6 + [0.5] * 3 + [0.0] * 4
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert [s.kind for s in row] == ["digits", "secret"]


def test_one_member_is_that_member_token_by_token() -> None:
    texts = ["id 482913", "Order no. AB-12345 and a@b.org", ""]
    alone, joined = regex.find(regex.Config(), texts), combined.find(combined.Config(), texts)
    for text, a, b in zip(texts, alone, joined, strict=True):
        offsets = [(i, i + 1) for i in range(len(text))]
        np.testing.assert_allclose(to_tokens(a, offsets), to_tokens(b, offsets), atol=1e-7)


def test_arrays_combine_too() -> None:
    np.testing.assert_allclose(combined.combine([[0.5, 0.0], [0.5, 0.2]]), [0.75, 0.2], atol=1e-7)


def test_refusals() -> None:
    for members in ((), ("regex", "regex"), ("combined",)):
        with pytest.raises(ConfigError, match="members"):
            combined.Config(members)
    with pytest.raises(ConfigError, match="2 texts for 1 members"):
        combined.Config(args=("", ""))
    with pytest.raises(ConfigError, match="gap reads"):
        combined.find(combined.Config(("gap",)), ["a"])
    with pytest.raises(ConfigError, match="available: classes, combined"):
        combined.find(combined.Config(("presidio",)), ["a"])
    with pytest.raises(ConfigError, match=r"sensitivity\.args: regex: unknown field"):
        combined.find(combined.Config(args=("x = 1",)), ["a"])
