"""The surprise gap by hand: p = clip((log p_T - log p_ref) / 3), specs, swing, section 7."""

from __future__ import annotations

import numpy as np
import pytest

from fedkd.errors import ConfigError
from fedkd.sensitivity import gap


def test_clipped_scaled_gap() -> None:
    found = gap.likelihood(gap.Config(), teacher_loss=[0.5, 0.5, 0.5, 4.0], reference_loss=[0.5, 2.0, 9.0, 1.0])
    np.testing.assert_allclose(found, [0, 0.5, 1, 0], atol=1e-7)
    shifted = gap.likelihood(gap.Config(offset=1.0, width=2.0), teacher_loss=[0.0], reference_loss=[2.0])
    np.testing.assert_allclose(shifted, [0.5])
    assert gap.likelihood(gap.Config(), teacher_loss=[0.0], reference_loss=[np.inf]) == 1


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="width"):
        gap.Config(width=0.0)
    with pytest.raises(ConfigError, match="offset"):
        gap.Config(offset=float("nan"))
    with pytest.raises(ValueError, match="one shape"):
        gap.likelihood(gap.Config(), teacher_loss=[0.0], reference_loss=[0.0, 1.0])
    with pytest.raises(ValueError, match="NaN"):
        gap.likelihood(gap.Config(), teacher_loss=[np.nan], reference_loss=[0.0])
