"""Digits: 1,797 handwritten digits of 8x8 pixels that ship inside scikit-learn, so that tests and demos need no file.

Source: test set of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI, 1998), as in
``sklearn.datasets.load_digits``; the file is read with NumPy alone, as importing scikit-learn takes seconds.
Licence: BSD-3-Clause (scikit-learn), CC BY 4.0 (UCI).
"""

from __future__ import annotations

import gzip
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedkd.dataset import Spec, Table, find_files, read_checked

NAME = "digits.csv.gz"
MEAN = 0.3053
STD = 0.3760
"""Mean and standard deviation of all pixels after scaling to [0, 1]; fixed, so that a subset is scaled the same."""

SPEC = Spec(
    name="digits",
    shape=(1, 8, 8),
    classes=10,
    licence="BSD-3-Clause (scikit-learn), CC BY 4.0 (UCI)",
    source="scikit-learn load_digits; UCI Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998)",
    sha256={NAME: "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"},
    fetch="pip install scikit-learn",
)


@dataclass(frozen=True)
class Config:
    """Nothing to choose."""


def spec(config: Config) -> Spec:
    """What this set is; the same for every ``config``."""
    return SPEC


def places(config: Config, root: str) -> list[Path]:
    """Folders searched, in order: ``root`` where given, then scikit-learn's own data folder (not imported)."""
    found = importlib.util.find_spec("sklearn")
    package = [Path(found.origin).parent / "datasets" / "data"] if found is not None and found.origin else []
    return ([Path(root)] if root else []) + package


def load(config: Config, root: str) -> Table:
    """All 1,797 rows in the order of the file: x [1797, 1, 8, 8] float32 standardised, y [1797] int32.

    Raises: DataError where scikit-learn's file is missing or is not the pinned one.
    """
    raw = read_checked(SPEC, NAME, find_files(SPEC, places(config, root))[NAME])
    values = np.loadtxt(io.BytesIO(gzip.decompress(raw)), delimiter=",", dtype=np.float32)  # [1797, 65], last column = label
    x = (values[:, :-1].reshape(-1, *SPEC.shape) / np.float32(16) - np.float32(MEAN)) / np.float32(STD)
    return Table(x=np.ascontiguousarray(x), y=values[:, -1].astype(np.int32))
