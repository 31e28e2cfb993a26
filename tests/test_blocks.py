"""Checks and assembly that the model files share."""

from __future__ import annotations

import pytest
from torch import nn

from fedkd.blocks import assemble, group_norm, image_size
from fedkd.errors import ConfigError


def test_assemble_names_the_children() -> None:
    model = assemble([[nn.Flatten()], [nn.ReLU(), nn.Tanh()]], nn.Identity())
    assert [name for name, _ in model.named_children()] == ["block1", "block2", "classifier"]
    assert len(model.get_submodule("block2")) == 2


@pytest.mark.parametrize("shape", [(), (3,), (4, 4), (0, 4, 4), (1, 4, 3), (1, 1, 4, 4)])
def test_image_size_refuses_what_is_no_image_of_that_size(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="4x4"):
        image_size("some_model", shape, 10, least=4)
    assert image_size("some_model", (1, 4, 5), 10, least=4) == (1, 4, 5)


def test_group_norm_refuses_groups_that_do_not_divide() -> None:
    assert group_norm(4, 8).num_groups == 4
    with pytest.raises(ConfigError, match="groups = 3"):
        group_norm(3, 8)
