"""The constant likelihood."""

from __future__ import annotations

import numpy as np
import pytest

from fedkd.errors import ConfigError
from fedkd.sensitivity import constant


def test_the_shape_of_the_labels_and_nothing_else() -> None:
    found = constant.likelihood(constant.Config(0.25), labels=np.zeros((2, 3), dtype=int))
    assert found.shape == (2, 3) and (found == 0.25).all()
    assert not constant.likelihood(constant.Config(), labels=[1, 2]).any()


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_bad_values_are_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="valid: 0 to 1"):
        constant.Config(value)
