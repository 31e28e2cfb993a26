"""Digits against scikit-learn's own loader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from fedkd.data import digits


def test_equals_load_digits() -> None:
    from sklearn.datasets import load_digits

    table, expected = digits.load(digits.Config(), ""), load_digits()
    np.testing.assert_allclose(table.x.reshape(-1, 64) * digits.STD + digits.MEAN, expected.data / 16, atol=1e-6, rtol=0)
    assert np.array_equal(table.y, expected.target)
    assert np.bincount(table.y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_constants_standardise() -> None:
    x = digits.load(digits.Config(), "").x
    assert x.shape == (1797, 1, 8, 8)
    assert abs(float(x.mean())) < 1e-3
    assert abs(float(x.std()) - 1) < 1e-3


def test_root_comes_first(tmp_path: Path) -> None:
    source = digits.places(digits.Config(), "")[-1] / digits.NAME
    (tmp_path / digits.NAME).write_bytes(source.read_bytes())
    assert digits.places(digits.Config(), str(tmp_path))[0] == tmp_path
    assert len(digits.load(digits.Config(), str(tmp_path))) == 1797


def test_scikit_learn_is_not_imported() -> None:
    code = "import sys; from fedkd.data import digits as d; d.load(d.Config(), ''); sys.exit('sklearn' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60, check=False).returncode == 0
