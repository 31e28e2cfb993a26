"""The stacked population of benchmarks/private.py is the federation that the in-process grid runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import population
from fedkd import setting as settings
from fedkd.prepare import open_data, prepare
from fedkd.store import read_commit
from fedkd.vault import Vault
from server.run_folder import state_root_of
from tests.small_runs import run, small, summary
from tests.toy import refusal, toy_setting

HEADS = 'knowledge = "heads"'
FEDAVG = 'knowledge = "none", schedule = "none", head_ce_weight = 0.0'
FEDPER = f"{FEDAVG}, top_level = 2"
LOCAL = 'average = false, knowledge = "none", head_ce_weight = 0.0'
NOISE = "clip = 0.2, noise_multiplier = 0.3, insecure_seeded_noise = true"


@pytest.mark.parametrize(
    ("args", "mechanism", "keys"),
    [
        (HEADS, "none", {}),
        (HEADS, "user_clip_noise", {"fraction_train": 0.5, "local_epochs": 2}),
        (f'{HEADS}, head_ce_weight = 0.5, schedule = "equal", kd_after_drop = "follow"', "user_clip_noise", {}),
        (FEDAVG, "user_clip_noise", {"fraction_train": 0.5}),
        (FEDPER, "user_clip_noise", {}),
        (LOCAL, "none", {}),
    ],
    ids=["heads", "heads-half", "heads-follow", "fedavg-half", "fedper", "local"],
)
def test_weights_scores_and_releases_are_those_of_the_grid(
    args: str, mechanism: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    """Unequal sizes, several steps an epoch, and noise from the seed: the noise is keyed by the sums' bits, so that it must be
    small beside nothing else; without it the two agree to float32, with it as far as the keys of equal sums go."""
    changed = {
        "method_name": "fedd2s", "method_args": args, "num_clients": 6, "num_server_rounds": 8, "metrics": "home",
        "mechanism_name": mechanism, "mechanism_args": NOISE.replace("0.3", "0.0") if mechanism != "none" else "", **keys,
    }  # fmt: skip
    experiment = small(tmp_path, **changed)
    folder = run(experiment)
    data = open_data(prepare(experiment, state_root_of(experiment)))
    setting = settings.build(experiment, data.shape, data.classes)
    found = population.federate(setting, population.load(data), Vault(tmp_path / "stacked"))
    commit = read_commit(folder / "checkpoints")
    assert commit is not None and found.state.keys() == commit.state.keys()
    for name, value in commit.state.items():
        np.testing.assert_allclose(found.state[name], value, atol=2e-5, err_msg=name)
    own = summary(folder)["accuracy_clients"]
    for client, accuracy in own.items():
        assert float(found.test[int(client)]) == pytest.approx(accuracy, abs=0.05), "one row near the border may differ"
    assert found.accuracy == pytest.approx(summary(folder)["accuracy_mean"], abs=0.01)
    assert found.validation == pytest.approx(found.val_right / found.val_rows)


def test_releases_are_charged_and_noised_by_the_mechanism_itself(tmp_path: Path) -> None:
    """The same sums twice give the same noise; the ledger holds one entry a round with all clients of the sum."""
    changed = {"method_name": "fedd2s", "method_args": HEADS, "metrics": "home", "mechanism_name": "user_clip_noise"}
    experiment = small(tmp_path, **changed, mechanism_args=NOISE)
    data = open_data(prepare(experiment, state_root_of(experiment)))
    setting, people = settings.build(experiment, data.shape, data.classes), population.load(data)
    one, two = (population.federate(setting, people, Vault(tmp_path / name)) for name in "ab")
    assert all(np.array_equal(one.state[n], two.state[n]) for n in one.state)
    entries = Vault(tmp_path / "a").entries()
    assert [(e["channel"], e["round"], e["clients"]) for e in entries] == [("mean", t, [0, 1, 2]) for t in range(3)]
    assert max(one.clipped) > 0 and all(0 <= share <= 1 for share in one.heads)


def test_what_is_not_carried_is_refused(tmp_path: Path) -> None:
    empty = population.Population(*([population.Part(*([None] * 3))] * 3), [])  # type: ignore[list-item]
    for setting in (toy_setting("fedavg"), toy_setting("fedd2s"), toy_setting("fedd2s", HEADS)):
        assert "stacked population" in refusal(lambda s=setting: population.federate(s, empty, Vault(tmp_path)))
