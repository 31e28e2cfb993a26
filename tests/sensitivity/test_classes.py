"""Named classes are private, others are not."""

from __future__ import annotations

import numpy as np
import pytest

from fedkd.errors import ConfigError
from fedkd.sensitivity import classes


def test_named_labels_get_the_confidence() -> None:
    found = classes.likelihood(classes.Config((2, 7), 0.9), labels=[[2, 3], [7, 0]])
    np.testing.assert_allclose(found, [[0.9, 0], [0.9, 0]], atol=1e-7)
    assert not classes.likelihood(classes.Config(), labels=[0, 1]).any()


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="private"):
        classes.Config((-1,))
    with pytest.raises(ConfigError, match="confidence"):
        classes.Config((1,), 1.5)
