"""What a protection's config refuses, in one line each, and its defaults; letters are those of specs, swing, section 12."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.plugins import field_docs
from fedkd.soft_targets import Protection, formal_gaps, protect

BAD: list[tuple[dict[str, Any], str]] = [
    ({"temperature_low": 0.0}, "temperature_low = 0.0; valid: above 0"),
    ({"temperature_high": math.inf}, "temperature_high = inf"),
    ({"temperature_low": 5.0, "temperature_high": 2.0}, "at least temperature_low"),
    ({"gamma": 0.0}, "gamma"),
    ({"theta": 0.0}, "theta = 0.0; valid: above 0, at most 1"),
    ({"theta": float("nan")}, "theta"),
    ({"epsilon_per_position": 0.0}, "epsilon_per_position = 0.0"),
    ({"noise_scale": -1.0}, "noise_scale"),
    ({"epsilon_elsewhere": 0.0}, "epsilon_elsewhere"),
    ({"top_k": -1}, "top_k"),
    ({"logit_range": -1.0}, "logit_range"),
    ({"noise_scale": 0.1, "epsilon_per_position": 10.0}, "both given"),
    ({"noise": "gaussian"}, "needs noise_scale"),
    ({"noise_scope": "all", "epsilon_elsewhere": 1e3}, "epsilon_elsewhere needs"),
    ({"noise": "none", "epsilon_elsewhere": 1e3}, "epsilon_elsewhere needs"),
    ({"sensitivity_bound": "clipped"}, "needs logit_range"),
    ({"noise_on": "logits"}, "needs noise_scale and logit_range"),
    ({"noise_on": "logits", "noise_scale": 1.0, "logit_range": 2.0, "epsilon_elsewhere": 9.0}, "has no epsilon"),
]


@pytest.mark.parametrize(("values", "message"), BAD, ids=str)
def test_bad_values_are_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Protection(**values)
    assert "\n" not in str(caught.value)


def test_missing_noise_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs unit draws"):
        protect(Protection(), torch.zeros(1, 2), torch.zeros(1))


def test_l_formal_gaps_name_each_missing_requirement() -> None:
    whole = Protection(logit_range=10.0, noise_scope="all")
    assert formal_gaps(whole) == []
    broken: list[dict[str, Any]] = [
        {"logit_range": 0.0}, {"noise": "none"}, {"noise_scope": "private"}, {"noise_key": "row"}, {"top_k": 5},
        {"noise_scope": "private", "epsilon_elsewhere": 1e3},
    ]  # fmt: skip
    for change in broken:
        gaps = " ".join(formal_gaps(replace(whole, **change)))
        assert all(name in gaps for name in change)


def test_defaults_are_the_specification() -> None:
    config = Protection()
    assert (config.temperature_low, config.temperature_high, config.schedule, config.gamma, config.theta) == (
        1,
        20,
        "linear",
        1,
        0.5,
    )
    assert (config.epsilon, config.noise, config.noise_scope, config.noise_key) == (10.0, "laplace", "private", "content")
    assert replace(config, noise_scale=0.1).epsilon is None
    assert set(field_docs(Protection)) == {f.name for f in fields(Protection)}
