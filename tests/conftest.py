"""One rule for every test: the global random generators of random, numpy and torch are left as they were found."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
import torch

hypothesis.settings.register_profile("fedkd", deadline=None)  # a busy machine is no failure; pytest's own timeout bounds a test
hypothesis.settings.load_profile("fedkd")


@pytest.fixture(autouse=True)
def global_generators_untouched() -> Iterator[None]:
    """Fails a test that draws from, or seeds, a global generator: results must come from keyed streams alone."""
    torch.set_num_threads(1)
    before, flower = _states(), "flwr" in sys.modules
    yield
    changed = {name for name, state in _states().items() if state != before[name]}
    if not flower and "flwr" in sys.modules:
        changed.discard("random")  # the first import of Flower draws a number
    assert not changed, f"the test changed the global generator of {', '.join(sorted(changed))}"


def _states() -> dict[str, object]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  (reads the legacy generator, draws nothing)
    return {
        "random": random.getstate(),
        "numpy": (kind, np.asarray(keys).tobytes(), tuple(rest)),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
