"""What an attacker repeats is what the senders did: features, averages, mechanisms and the order of rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedkd import replay
from fedkd.config import Experiment
from fedkd.finished import Finished, open_finished
from fedkd.mechanisms.pool import coarse
from server.run_folder import run_id
from tests.small_runs import run, small

NOISE = 'clip = 1.0, noise_scale = 0.1, insecure_seeded_noise = true, pass_through = ["labels", "weights"]'
FEDD2S = {"method_name": "fedd2s", "method_args": "kd_after_drop = 'follow'", "record": "messages"}


def opened(experiment: Experiment) -> Finished:
    return open_finished(run(experiment), Path(experiment.output) / "state" / run_id(experiment))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return opened(small(tmp_path_factory.mktemp("plain"), **FEDD2S))


@pytest.fixture(scope="module")
def permuted(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    args = "insecure_seeded_noise = true"
    return opened(small(tmp_path_factory.mktemp("permute"), **FEDD2S, mechanism_name="permute", mechanism_args=args))


def test_a_clients_own_blocks_give_the_features_that_it_sent(plain: Finished) -> None:
    for cut, round in replay.rounds_with_features(plain):
        for sent in replay.uploads(plain, round):
            np.testing.assert_array_equal(replay.features(plain, sent.blocks, cut, sent.x), sent.z)
            np.testing.assert_array_equal(sent.labels, sent.true_labels)


def test_every_round_of_the_schedule_is_found_with_its_cut(plain: Finished) -> None:
    """MLP of two blocks, three rounds, "late" and "follow": the last block of the cut leaves at 0.75 R."""
    found = replay.rounds_with_features(plain)
    trace = [plain.setting.module.trace(plain.setting, t)["cut"] for t in range(3)]
    assert found == [(k, t) for t, k in enumerate(trace)]
    assert len(found) == 3


def test_averaged_blocks_are_the_weighted_mean_of_the_uploads(plain: Finished) -> None:
    """sum K_n w_n / sum K_n in float64, for rounds whose average is in a broadcast and for the last one."""
    for cut, round in replay.rounds_with_features(plain):
        sent = list(replay.uploads(plain, round))
        weights = np.array([len(s.true_labels) for s in sent], np.float64)
        blocks = replay.averaged(plain, round)
        assert set(plain.setting.model.names_upto(cut)) <= set(blocks)
        for name in plain.setting.model.names_upto(cut):
            mean = np.tensordot(weights, np.stack([s.blocks[name] for s in sent]).astype(np.float64), 1) / weights.sum()
            np.testing.assert_allclose(blocks[name], mean, atol=1e-6)


def test_permuted_rows_are_put_back_where_the_seed_is_known(plain: Finished, permuted: Finished) -> None:
    """In round 0 both runs trained alike, so each row must carry its own sample's features again."""
    for before, after in zip(replay.uploads(plain, 0), replay.uploads(permuted, 0), strict=True):
        np.testing.assert_array_equal(before.z, after.z)
        np.testing.assert_array_equal(before.labels, after.labels)
    wire, true = replay.order_sent(permuted, 0, permuted.data.client(0))
    assert wire.tolist() == list(range(len(true)))
    assert true.tolist() != sorted(true.tolist())


def test_an_order_from_the_clients_secret_is_not_guessed(permuted: Finished) -> None:
    plugin = permuted.setting.mechanism
    secret = replace(plugin, config=replace(plugin.config, insecure_seeded_noise=False))
    setting = replace(permuted.setting, mechanism=secret, mechanisms=(secret,))
    with pytest.raises(replay.SecretOrder):
        replay.order_sent(permuted._replace(setting=setting), 0, permuted.data.client(0))


def with_mechanism(run: Finished, name: str, args: str) -> Finished:
    from fedkd import setting as settings

    e = replace(run.setting.experiment, mechanism_name=name, mechanism_args=args)
    return run._replace(setting=settings.build(e, run.data.shape, run.data.classes))


def test_the_attackers_rows_pass_the_senders_own_mechanism(plain: Finished) -> None:
    z = np.random.default_rng(0).random((30, 8), np.float32)
    np.testing.assert_array_equal(replay.as_sent(plain, 0, z, 0, 0), z)
    pooled = with_mechanism(plain, "pool", "group = 4")
    np.testing.assert_array_equal(replay.as_sent(pooled, 0, z, 0, 0), coarse(z, 4))
    permuting = with_mechanism(plain, "permute", "")
    np.testing.assert_array_equal(replay.as_sent(permuting, 0, z, 0, 0), z)


@pytest.mark.parametrize("seeded", [True, False])
def test_the_attackers_noise_has_the_law_but_not_the_draws_of_the_sender(plain: Finished, seeded: bool) -> None:
    """z = C u + 0.1 C n with |u| <= 1: the difference of two draws has standard deviation 0.1 sqrt 2, and no two are equal."""
    noisy = with_mechanism(plain, "clip_noise", NOISE if seeded else NOISE.replace("true", "false"))
    z = np.random.default_rng(0).random((2000, 8), np.float32)
    first, second = (replay.as_sent(noisy, 0, z, 0, draw) for draw in (0, 1))
    assert (first - second).std() == pytest.approx(0.1 * np.sqrt(2), rel=0.05)
    np.testing.assert_array_equal(first, replay.as_sent(noisy, 0, z, 0, 0))
    clipped = z / np.maximum(1.0, np.linalg.norm(z, axis=1, keepdims=True))
    assert (first - clipped).std() == pytest.approx(0.1, rel=0.05)
