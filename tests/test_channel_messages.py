"""Messages replayed: what a receiver holds of each client, differences added back, averages, and damaged transcripts."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fedkd.channel_messages import Traffic, count, last_average, replay
from fedkd.finished import open_finished
from tests.audited_runs import opened, recorded
from tests.toy import refusal


def test_an_average_is_the_weighted_mean_of_the_uploads_before_it(tmp_path: Path) -> None:
    run = opened(tmp_path, method_name="fedavg")
    rounds = list(replay(run))
    assert [r.number for r in rounds] == [0, 1, 2, 3]
    assert rounds[0].average == {}
    sizes = run.data.sizes / run.data.sizes.sum()
    for before, after in itertools.pairwise(rounds):
        for name in run.setting.model.names:
            mean = sum(sizes[c] * before.up[c].params[name].astype(np.float64) for c in range(4))
            np.testing.assert_allclose(after.average[name], mean, atol=1e-6)
            np.testing.assert_array_equal(after.up[2].base[name], after.average[name])
    last = last_average(run, rounds[-1].average)
    name = run.setting.model.names[0]
    mean = sum(sizes[c] * rounds[-1].up[c].params[name].astype(np.float64) for c in range(4))
    np.testing.assert_allclose(last[name], mean, atol=1e-6)


@pytest.mark.slow
def test_differences_are_added_to_what_is_public(tmp_path: Path) -> None:
    """With a huge clip and no noise the differences sum to the trained models: initial values, then the last average."""
    changes = {"method_args": 'knowledge = "heads"', "mechanism_name": "user_clip_noise",
               "mechanism_args": "clip = 1e6, noise_multiplier = 1e-9, insecure_seeded_noise = true"}  # fmt: skip
    run = opened(tmp_path / "noised", **changes)
    first, second = list(replay(run))[:2]
    for name in run.setting.model.names:
        sent = first.up[1]
        np.testing.assert_allclose(sent.params[name] - run.setting.initial()[name], sent.kinds["weights"][name], atol=1e-6)
        np.testing.assert_allclose(second.up[1].params[name], second.average[name] + second.up[1].kinds["weights"][name])
        np.testing.assert_array_equal(second.up[1].base[name], second.average[name])
    plain = next(iter(replay(opened(tmp_path / "plain", method_args='knowledge = "heads"'))))
    np.testing.assert_allclose(first.up[1].params["block1.1.weight"], plain.up[1].params["block1.1.weight"], atol=1e-5)


def test_traffic_counts_messages_and_bytes(tmp_path: Path) -> None:
    run = opened(tmp_path)
    found: dict[tuple[str, str], Traffic] = {}
    rounds = list(replay(run))
    for r in rounds:
        count(found, r)
    rows = found["up", "labels"]
    assert rows.bytes == 4 * rows.messages // 4 * run.data.sizes.sum()
    assert (rows.first, rows.last) == (0, max(r.number for r in rounds if r.cut))
    assert ("down", "labels") not in found


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, Path]:
    return recorded(tmp_path, num_server_rounds=2)


def test_a_missing_round_or_a_damaged_file_is_said(damaged: tuple[Path, Path]) -> None:
    run = open_finished(*damaged)
    file = damaged[0] / "transcript" / "1" / "up-2.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert "up-2.safetensors cannot be read" in refusal(lambda: list(replay(run)))
    shutil.rmtree(damaged[0] / "transcript" / "1")
    assert "the run's messages are not complete" in refusal(lambda: list(replay(run)))
    shutil.rmtree(damaged[0] / "transcript")
    assert 'record = "messages"' in refusal(lambda: open_finished(*damaged))


def test_values_that_are_not_finite_are_said(damaged: tuple[Path, Path]) -> None:
    file = damaged[0] / "transcript" / "0" / "up-1.safetensors"
    arrays = load_file(file)
    arrays["features/z"][0, 0] = np.nan
    save_file(arrays, file)
    assert "features/z holds values that are not finite" in refusal(lambda: list(replay(open_finished(*damaged))))
