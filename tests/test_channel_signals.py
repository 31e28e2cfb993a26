"""Signals: exact distances and divergences, own client first, and bits that depend on one client's candidates alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedkd import channel_signals as signals
from fedkd import metrics
from fedkd.channel_candidates import Candidates, draw
from fedkd.channel_messages import replay
from fedkd.channel_signals import FEATURES, SOFT, WEIGHTS, Reader, linear_head, nearest_soft_label
from fedkd.finished import Finished
from fedkd.transcripts import softmax
from tests.audited_runs import opened
from tests.toy import toy_setting


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return opened(tmp_path_factory.mktemp("signals"))


def reader(run: Finished, candidates: Candidates, references: int = 5) -> Reader:
    made = Reader(run.setting, candidates, references)
    for r in replay(run):
        made.read(r)
    return made


def test_a_members_feature_is_its_uploaded_row_and_a_strangers_is_not(run: Finished) -> None:
    candidates = draw(run.data, 0, 1000)
    found = reader(run, candidates).values
    own = found[FEATURES, "nearest_feature"].own[0]
    assert (-own[candidates.member]).max() < 1e-4
    assert np.median(-own[~candidates.member]) > 0.1
    soft = found[SOFT, "nearest_soft_label"].own[0]
    assert np.median(soft[candidates.member]) > np.median(soft[~candidates.member])


@pytest.mark.slow
def test_following_a_row_over_rounds_takes_out_its_noise(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Clipped rows with noise of half their length, fresh in each round: the sum over rounds tells more than one round."""
    args = 'pass_through = ["labels", "weights"], clip = 1.0, noise_scale = 0.5, insecure_seeded_noise = true'
    run = opened(tmp_path_factory.mktemp("noised"), method_args='schedule = "none"', num_server_rounds=8,
                 mechanism_name="clip_noise", mechanism_args=args)  # fmt: skip
    candidates = draw(run.data, 0, 1000)
    found = reader(run, candidates).values
    kept = found[FEATURES, "followed_row"]

    def auc(score: np.ndarray) -> float:
        return metrics.auc(score[candidates.member], score[~candidates.member])

    first = next(iter(replay(run)))
    assert kept.rounds == list(range(8))
    rows, train = candidates.of(1), first.up[1].kinds["features"]["z"].astype(np.float64)
    import torch

    params = {n: torch.tensor(v) for n, v in {**run.setting.initial(), **first.up[1].params}.items()}
    z = run.setting.model.forward(params, torch.tensor(candidates.x[rows]), (first.cut,))[0][first.cut].numpy()
    z = signals.as_sent(run.setting, z).astype(np.float64)
    np.testing.assert_allclose(kept.own[0][rows], (2 * z @ train.T - np.square(z).sum(1)[:, None]).max(1), atol=1e-4)
    assert auc(kept.own[7]) > auc(kept.own[0])
    assert auc(kept.own[7]) > auc(np.mean(found[FEATURES, "nearest_feature"].own, axis=0))


def test_other_clients_are_the_next_ones_and_never_the_own(run: Finished) -> None:
    """Column k of client c's candidates is client c + 1 + k: phi computed one model at a time, with plain NumPy for p."""
    import torch

    candidates = draw(run.data, 0, 1000)
    first = next(iter(replay(run)))
    made = Reader(run.setting, candidates, 2)
    made.read(first)
    kept = made.values[WEIGHTS, "phi"]
    assert kept.others[0].shape == (2, len(candidates))
    for column, step in ((kept.own[0], 0), (kept.others[0][0], 1), (kept.others[0][1], 2)):
        rows = candidates.of(3)
        params = {n: torch.tensor(v) for n, v in first.up[(3 + step) % 4].params.items()}
        p = softmax(run.setting.model.forward(params, torch.tensor(candidates.x[rows]))[1].numpy())
        p = p[np.arange(len(rows)), candidates.y[rows]]
        np.testing.assert_allclose(column[rows], np.log(p / (1 - p)), atol=1e-3)


def test_a_clients_signals_do_not_depend_on_other_clients_candidates(run: Finished) -> None:
    whole = draw(run.data, 0, 1000)
    rows = whole.of(1)
    alone = Candidates(whole.ids[rows], whole.x[rows], whole.y[rows], whole.client[rows], whole.member[rows])
    every, one = reader(run, whole).values, reader(run, alone).values
    assert every.keys() == one.keys() >= {(FEATURES, "nearest_feature"), (WEIGHTS, "phi"), (WEIGHTS, "update_cosine")}
    for key, kept in every.items():
        for t in range(len(kept.rounds)):
            np.testing.assert_array_equal(kept.own[t][rows], one[key].own[t])
            np.testing.assert_array_equal(kept.others[t][:, rows], one[key].others[t])


def test_the_cosine_is_that_of_autograd(run: Finished) -> None:
    import torch
    from torch.nn import functional as F

    candidates = draw(run.data, 0, 1000)
    first = next(iter(replay(run)))
    made = Reader(run.setting, candidates, 2)
    made.read(first)
    at = int(candidates.of(2)[0])
    sent, names = first.up[2], run.setting.model.parameter_names
    leaves = {n: torch.tensor(sent.base[n]).requires_grad_() for n in names}
    out = run.setting.model.forward(leaves, torch.tensor(candidates.x[at : at + 1]))[1]
    grads = torch.autograd.grad(F.cross_entropy(out, torch.tensor([int(candidates.y[at])])), [leaves[n] for n in names])
    gradient = np.concatenate([g.numpy().ravel() for g in grads]).astype(np.float64)
    update = signals.flat_update(sent, names).astype(np.float64)
    expected = -gradient @ update / np.linalg.norm(gradient) / np.linalg.norm(update)
    assert made.values[WEIGHTS, "update_cosine"].own[0][at] == pytest.approx(expected, abs=1e-4)


def test_a_linear_head_is_recovered_from_its_rows() -> None:
    stream = np.random.default_rng(0)
    z, w, b = stream.normal(size=(50, 6)), stream.normal(size=(6, 4)), stream.normal(size=4)
    np.testing.assert_allclose(linear_head(z, z @ w + b), np.vstack([w, b]), atol=1e-9)


def test_the_nearest_soft_label_is_that_of_a_loop() -> None:
    stream = np.random.default_rng(1)
    said, sent = softmax(stream.normal(size=(5, 3))), softmax(stream.normal(size=(7, 3)))
    labels, theirs = np.array([0, 1, 2, 0, 1]), np.array([0, 0, 1, 1, 1, 0, 0])
    kl = np.array([[(q * np.log(q / p)).sum() for q in sent] for p in said])
    np.testing.assert_allclose(nearest_soft_label(said, sent, labels, None), kl.min(axis=1), atol=1e-9)
    among = [kl[i][theirs == labels[i]].min() if (theirs == labels[i]).any() else kl[i].min() for i in range(5)]
    np.testing.assert_allclose(nearest_soft_label(said, sent, labels, theirs), among, atol=1e-9)


def test_what_mechanisms_do_without_chance_is_done_to_candidates_too() -> None:
    z = np.random.default_rng(2).normal(size=(4, 8)).astype(np.float32)
    features = {"method_args": 'knowledge = "features"'}
    pooled = toy_setting("fedd2s", features["method_args"], mechanism_name="pool", mechanism_args="group = 8")
    np.testing.assert_allclose(signals.as_sent(pooled, z), np.repeat(z.mean(axis=1, keepdims=True), 8, axis=1), atol=1e-6)
    noised = toy_setting("fedd2s", features["method_args"], mechanism_name="clip_noise",
                         mechanism_args='clip = 0.5, pass_through = ["labels", "weights"]')  # fmt: skip
    np.testing.assert_allclose(np.linalg.norm(signals.as_sent(noised, z), axis=1), 0.5, atol=1e-4)
    plain = toy_setting("fedd2s", features["method_args"])
    np.testing.assert_array_equal(signals.as_sent(plain, z), z)


def test_a_client_that_sent_nothing_has_no_signal(run: Finished) -> None:
    candidates = draw(run.data, 0, 1000)
    first = next(iter(replay(run)))
    made = Reader(run.setting, candidates, 5)
    made.read(replace(first, up={c: s for c, s in first.up.items() if c != 0}))
    kept = made.values[WEIGHTS, "phi"]
    assert np.isnan(kept.own[0][candidates.client == 0]).all()
    assert np.isfinite(kept.own[0][candidates.client != 0]).all()
    assert kept.others[0].shape[0] == 2
