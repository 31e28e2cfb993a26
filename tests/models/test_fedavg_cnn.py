"""The FedAvg CNN: parameter counts and sizes of the FedD2S specification, section 4."""

from __future__ import annotations

import pytest
import torch

from fedkd import rng
from fedkd.errors import ConfigError
from fedkd.models import fedavg_cnn


@pytest.mark.parametrize(
    ("shape", "classes", "parameters", "sizes"),
    [
        ((1, 28, 28), 62, 608_702, [4608, 1024, 512]),
        ((3, 32, 32), 10, 878_538, [6272, 1600, 512]),
        ((3, 32, 32), 100, 924_708, [6272, 1600, 512]),
    ],
)
def test_counts_of_the_specification(shape: tuple[int, ...], classes: int, parameters: int, sizes: list[int]) -> None:
    with rng.torch_scope(0):
        model = fedavg_cnn.build(fedavg_cnn.Config(), shape, classes)
    assert sum(p.numel() for p in model.parameters()) == parameters
    z, seen = torch.zeros(1, *shape), []
    for child in model.children():
        z = child(z)
        seen.append(z.numel())
    assert seen == [*sizes, classes]


def test_smallest_image() -> None:
    with rng.torch_scope(0):
        model = fedavg_cnn.build(fedavg_cnn.Config(), (1, 16, 16), 10)
    assert model(torch.zeros(1, 1, 16, 16)).shape == (1, 10)
    with pytest.raises(ConfigError, match="16x16"):
        fedavg_cnn.build(fedavg_cnn.Config(), (1, 15, 16), 10)


def test_padding_gives_the_network_of_the_paper() -> None:
    """McMahan et al., section 3: 1,663,370 parameters: 32 x 26 + 64 (25 x 32 + 1) + 512 (49 x 64 + 1) + 10 x 513."""
    with rng.torch_scope(0):
        model = fedavg_cnn.build(fedavg_cnn.Config(padding=2), (1, 28, 28), 10)
    assert sum(p.numel() for p in model.parameters()) == 1_663_370 == 32 * 26 + 64 * 801 + 512 * 3137 + 10 * 513
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    with pytest.raises(ConfigError, match="padding"):
        fedavg_cnn.Config(padding=3)
