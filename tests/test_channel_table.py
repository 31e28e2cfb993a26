"""The table of channels: what travelled, who sees it, what acts on it; and a reason for each attack that was not run."""

from __future__ import annotations

import pytest

from fedkd.channel_attacks import ATTACKS
from fedkd.channel_links import Evidence
from fedkd.channel_messages import Traffic
from fedkd.channel_table import NO_MODEL, REASONS, THREATS, channels, not_run, unread
from fedkd.verdict import banned_in
from tests.toy import toy_setting

ROWS = 'pass_through = ["labels", "weights"]'
UP = {
    ("up", "features"): Traffic(4, 400, 0, 1),
    ("up", "weights"): Traffic(2, 50, 0, 2),
    ("down", "weights"): Traffic(1, 10, 1, 2),
}


def table(setting):
    return {c["channel"]: c for c in channels(setting, UP, [], Evidence(setting, None))}


def test_a_channel_says_its_kind_bytes_and_rounds() -> None:
    found = table(toy_setting("fedd2s", ""))
    assert list(found) == ["features up", "weights up", "weights down", "personal models"]
    assert found["features up"]["bytes_per_client_round"] == 100
    assert found["features up"]["rounds"] == [0, 1]
    assert {c["mechanism"] for c in found.values()} == {"none"}
    assert not any(c["covered"] for c in found.values())


@pytest.mark.parametrize(
    ("changes", "acts", "covered"),
    [
        ({"mechanism_name": "pool"}, {"features up"}, set()),
        ({"mechanism_name": "permute"}, {"features up"}, set()),
        ({"mechanism_name": "clip_noise", "mechanism_args": ROWS}, {"features up"}, {"features up"}),
    ],
)
def test_a_mechanism_acts_where_it_acts(changes, acts, covered) -> None:
    found = table(toy_setting("fedd2s", 'knowledge = "features"', **changes))
    assert {n for n, c in found.items() if c["mechanism"] != "none"} == acts
    assert {n for n, c in found.items() if c["covered"]} == covered


def test_noise_on_means_covers_what_comes_down_and_not_what_goes_up() -> None:
    found = table(toy_setting("fedavg", "", mechanism_name="user_clip_noise"))
    assert found["weights up"]["mechanism"] == found["weights down"]["mechanism"] == "user_clip_noise"
    assert (found["weights up"]["covered"], found["weights down"]["covered"]) == (False, True)
    found = table(toy_setting("fedavg", "", mechanism_name="dpsgd"))
    assert found["weights up"]["covered"] and found["weights down"]["covered"]


def test_a_channel_without_an_attack_says_why() -> None:
    found = table(toy_setting("fedd2s", ""))
    line = unread(found["features up"], [])
    assert line == {"threat_model": THREATS["features up"], "target_group": "all", "text": f"not tested: {NO_MODEL}"}
    ids = {**found["features up"], "channel": "ids up"}
    assert unread(ids, [])["text"] == f"not tested: {REASONS['ids up']}"
    assert unread({**ids, "channel": "labels up", "attacks": ["label_histogram"]}, []) is None


def test_every_attack_that_was_not_run_has_a_reason() -> None:
    setting = toy_setting("fedd2s", "")
    found = {r["attack"]: r["reason"] for r in not_run(setting, [], UP, "no canaries")}
    assert {f"{a.channel} | {a.name}" for a in ATTACKS} <= set(found)
    assert found["heads up | loss"] == "no heads travel up in this run"
    assert found["features up | nearest_feature"] == NO_MODEL
    assert found["exposure of label canaries"] == "no canaries"
    assert not banned_in(" ".join([*found.values(), *REASONS.values(), *THREATS.values()]))
