"""What of FedD2S is neutral to what (specification section 3): equalities bit for bit under one seed; refusals; options."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

from fedkd.methods.fedd2s import cut, level
from fedkd.types import Arrays
from tests.toy import ROUNDS, SIZES, History, federate, refusal, same, toy_clients, toy_setting

NO_KD = 'knowledge = "none", head_ce_weight = 0'


@functools.cache
def run(args: str = "", method: str = "fedd2s", sizes: tuple[int, ...] = SIZES, **keys: Any) -> History:
    return federate(toy_setting(method, args, **keys), toy_clients(sizes))


def same_models(left: History, right: History) -> bool:
    """f_n of every client in every round, bit for bit."""
    return all(same(a[n], b[n]) for a, b in zip(left.models, right.models, strict=True) for n in a)


def same_traffic(left: History, right: History) -> bool:
    """Every upload and broadcast, bit for bit."""
    pairs = [
        (a, b)
        for ours, theirs in ((left.uploads, right.uploads),)
        for x, y in zip(ours, theirs, strict=True)
        for a, b in ((x[n].kinds, y[n].kinds) for n in x)
    ]
    pairs += [
        (part_a, part_b)
        for x, y in zip(left.broadcasts, right.broadcasts, strict=True)
        for n in x
        for part_a, part_b in ((x[n].shared, y[n].shared), (x[n].own, y[n].own))
    ]
    return all(a.keys() == b.keys() and all(same(a[k], b[k]) for k in a) for a, b in pairs)


def averages(state: Arrays) -> Arrays:
    return {n: v for n, v in state.items() if n.startswith("avg/")}


# ----- I18: the neutral table -------------------------------------------------------------------------------------------
def test_i18_fedavg_row() -> None:
    """average, knowledge none, schedule none, top L+1, mu = 0 is methods/fedavg.py: models, uploads, broadcasts, averages."""
    ours, fedavg = run(f'{NO_KD}, schedule = "none"'), run(method="fedavg")
    assert same_models(ours, fedavg)
    assert same_traffic(ours, fedavg)
    assert all(same(averages(a), averages(b)) for a, b in zip(ours.server, fedavg.server, strict=True))


def test_i18_fedavg_then_local_row() -> None:
    """[["L+1", .75], [0, 1.0]] is FedAvg to .75 R, then Local, absentees included."""
    keys = {"num_server_rounds": 8, "fraction_train": 0.5}
    ours = run(f'{NO_KD}, schedule = [["L+1", 0.75], [0, 1.0]]', **keys)
    fedavg = run("local_share = 0.25", method="fedavg", **keys)
    assert same_models(ours, fedavg)
    assert same_traffic(ours, fedavg)


@pytest.mark.parametrize("knowledge", ["features", "heads", "class_means"])
def test_i18_client_weight_0_is_knowledge_none_in_weights_and_bytes(knowledge: str) -> None:
    """lam_c = 0: nothing of the knowledge part is uploaded either. With "stop" this is share-late + aux."""
    ours = run(f'knowledge = "{knowledge}", kd_weight_client = 0')
    none = run('knowledge = "none"')
    assert same_models(ours, none)
    assert same_traffic(ours, none)
    assert all(same(a[n], b[n]) for a, b in zip(ours.states, none.states, strict=True) for n in a)
    assert not same_models(ours, run(NO_KD)), "the auxiliary head does something"


def test_i18_share_late_without_heads_is_mu_0() -> None:
    """mu = 0 and no knowledge build no head at all: share-late holds model parameters alone."""
    history = run(NO_KD)
    assert set(history.states[-1][0]) == set(history.setting.model.names)
    assert {k for uploads in history.uploads for u in uploads.values() for k in u.kinds} == {"weights"}


@pytest.mark.parametrize("schedule", ["late", "none", "equal", "fixed"])
def test_i18_local_row_any_schedule(schedule: str) -> None:
    """average false, knowledge none, mu = 0 is methods/local.py under any schedule."""
    ours = run(f'average = false, {NO_KD}, schedule = "{schedule}"')
    assert same_models(ours, run(method="local"))
    assert not any(u.kinds for uploads in ours.uploads for u in uploads.values())


@pytest.mark.parametrize("knowledge", ["features", "class_means"])
def test_i2_kd_only_with_zero_weights_is_local_bit_for_bit(knowledge: str) -> None:
    """I2: average false, lam_c = 0, mu = 0; several rounds, partial participation (acceptance 5)."""
    ours = run(f'average = false, knowledge = "{knowledge}", kd_weight_client = 0, head_ce_weight = 0')
    assert same_models(ours, run(method="local"))


@pytest.mark.parametrize("args", ['schedule = "none", top_level = 4', 'schedule = "late", dropping_set = ["L+1"]'])
def test_i18_stop_and_follow_agree_where_no_block_below_the_classifier_leaves(args: str) -> None:
    stop, follow = (run(f'{args}, kd_after_drop = "{after}"') for after in ("stop", "follow"))
    assert same_models(stop, follow)
    assert same_traffic(stop, follow)


def test_i5_three_ways_to_drop_nothing() -> None:
    """I5: "equal" with tau = 0, "equal" with D = () and "none", bit for bit."""
    none = run('schedule = "none"')
    for args in ('schedule = "equal", rounds_per_drop = 0', 'schedule = "equal", dropping_set = []'):
        assert same_models(run(args), none)
        assert same_traffic(run(args), none)


def test_i18_the_reversed_list_is_shallow_to_deep() -> None:
    """Six rounds, four levels: equal is 4,4,3,2,2,1 and its reverse 1,2,2,3,4,4."""
    named = run('schedule = "shallow_to_deep", kd_after_drop = "follow"')
    listed = run('schedule = [[1, 0.16], [2, 0.5], [3, 0.66], [4, 1.0]], kd_after_drop = "follow"')
    assert [level(named.setting, t) for t in range(ROUNDS)] == [1, 2, 2, 3, 4, 4]
    assert same_models(named, listed)


@pytest.mark.parametrize(
    ("neutral", "reference"),
    [
        ("target_max_age = 99", ""),
        ("upload_fraction = 1.0", ""),
        ("head_pool = 0", "head_pool = 4"),  # 8x8 images: no feature map is above 4x4
        ("kd_after_drop = 'stop', warm_heads = false", ""),  # one head: nothing to keep warm
        ("min_class_count = 0, knowledge = 'class_means'", "min_class_count = 1, knowledge = 'class_means'"),
        ("server_warmup_factor = 1, server_epochs = 6, schedule = 'none'", None),
    ],
)
def test_neutral_values_change_nothing(neutral: str, reference: str | None) -> None:
    if reference is None:  # three epochs times a factor of two in the first of two rounds
        left, right = run(neutral, num_server_rounds=2), run("schedule = 'none'", num_server_rounds=2)
    else:
        left, right = run(neutral), run(reference)
    assert same_models(left, right)


def test_client_balanced_is_neutral_where_clients_are_equal() -> None:
    equal = (16, 16, 16, 16)
    assert same_models(run("client_balanced = true", sizes=equal), run(sizes=equal))
    assert not same_models(run("client_balanced = true"), run()), "with unequal clients it is not"


@pytest.mark.parametrize(
    "args",
    [
        "kd_weight_client = 0.5", "kd_weight_server = 0", "head_ce_weight = 0.5", "head_ce_weight = 0", 'kd_target = "both"',
        "temperature = 1.0", "temperature_squared = false", "server_ce = false", "server_epochs = 1",
        "server_warmup_factor = 1", "server_lr = 0.01", "server_batch = 16", "client_balanced = true",
        'upload_labels = "sampled"', 'upload_labels = "none", server_ce = false', "upload_fraction = 0.5",
        "target_max_age = 1", "shared_init = false", 'kd_after_drop = "follow", head_pool = 1',
        'knowledge = "heads"', 'knowledge = "class_means"',
        'schedule = "later"', 'schedule = "equal"', 'kd_after_drop = "follow"', "average = false", "top_level = 3",
        'dropping_set = ["L+1"]', 'schedule = "fixed", fixed_level = 2', 'schedule = "equal", rounds_per_drop = 1',
        'schedule = "equal", min_cut = 2', 'kd_after_drop = "follow", warm_heads = false',
    ],
)  # fmt: skip
def test_every_option_does_something(args: str) -> None:
    """No field is dead: each moves a bit of some client's model against the run without it."""
    first, _, last = args.rpartition(", ")
    reference = first if last in ("warm_heads = false", "rounds_per_drop = 1", "head_pool = 1", "min_cut = 2") else ""
    assert not same_models(run(args, fraction_train=0.5), run(reference, fraction_train=0.5))


def test_min_class_count_suppresses_small_classes() -> None:
    history = run('knowledge = "class_means", schedule = "none"', num_server_rounds=1)
    for n, upload in history.uploads[0].items():
        counts = np.bincount(history.clients[n].train.y, minlength=5)
        assert upload.kinds["class_means"]["n"].tolist() == np.where(counts >= 5, counts, 0).tolist()
    assert any(0 < c < 5 for n in history.uploads[0] for c in np.bincount(history.clients[n].train.y, minlength=5))


def test_shared_init_false_gives_each_client_its_own_start() -> None:
    setting = toy_setting(args="shared_init = false")
    assert not same(setting.initial(0), setting.initial(1))
    assert same(setting.initial(), toy_setting().initial())


# ----- refusals ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("args", "field"),
    [
        ('knowledge = "heads", average = false', 'knowledge = "heads"'),
        ("server_ce = false, kd_weight_server = 0", "server_ce"),
        ('upload_labels = "none"', "upload_labels"),
        ("kd_weight_client = -1", "kd_weight_client"),
        ("kd_weight_client = nan", "kd_weight_client"),
        ("kd_weight_server = inf", "kd_weight_server"),
        ("min_class_count = -1", "min_class_count"),
        ("head_pool = -1", "head_pool"),
        ("target_max_age = -1", "target_max_age"),
        ("temperature = 0.0", "temperature"),
        ("temperature = nan", "temperature"),
        ("server_lr = 0.0", "server_lr"),
        ("server_batch = 0", "server_batch"),
        ("server_epochs = 0", "server_epochs"),
        ("server_warmup_factor = 0", "server_warmup_factor"),
        ("min_cut = 0", "min_cut"),
        ("min_cut = 4", "min_cut"),
        ("head_ce_weight = 1.5", "head_ce_weight"),
        ("head_ce_weight = nan", "head_ce_weight"),
        ("upload_fraction = 0.0", "upload_fraction"),
        ("upload_fraction = 1.1", "upload_fraction"),
        ('schedule = "soon"', "schedule"),
        ('schedule = "shallow_to_deep"', "kd_after_drop"),
        ("dropping_set = [3]", "dropping_set"),
        ("top_level = 7", "top_level"),
        ('knowledge = "logits"', "knowledge"),
        ("colour = 1", "colour"),
    ],
)
def test_i9_impossible_combinations_name_the_field(args: str, field: str) -> None:
    assert field in refusal(lambda: toy_setting(args=args))


def test_batch_norm_is_refused_with_the_fix() -> None:
    assert "group" in refusal(lambda: toy_setting(model_args='norm = "batch"'))
    assert toy_setting(model_args='norm = "group"').model.blocks == 3


def test_refusals_of_unused_features_options_do_not_fire() -> None:
    """Without features there are no labels to send: the combination is harmless."""
    assert toy_setting(args='knowledge = "heads", upload_labels = "none"')


# ----- options of the exchange ------------------------------------------------------------------------------------------
def test_sampled_labels_come_from_the_soft_label_that_is_sent() -> None:
    """Drawn from softmax(p_i), p_i as uploaded: classes that p_i excludes are never sent, and raw labels are not read."""
    history = run('upload_labels = "sampled", schedule = "none"')
    drawn = [u.kinds for uploads in history.uploads for u in uploads.values()]
    p = torch.cat([torch.tensor(k["soft_labels"]["p"]).softmax(1) for k in drawn]).numpy()
    y = np.concatenate([k["labels"]["y"] for k in drawn])
    probability, expected = p[np.arange(len(y)), y], (p**2).sum(1)
    # E p(Y) = sum_c p_c^2 for Y ~ p; a term lies in [0, 1], so the mean of n has sd <= 1 / (2 sqrt(n))
    assert abs(probability.mean() - expected.mean()) < 4 / (2 * np.sqrt(len(probability)))
    raw = np.concatenate([history.clients[n].train.y for uploads in history.uploads for n in uploads])
    assert (y != raw).mean() > 0.05


def test_a_share_of_rows_goes_up_under_wire_ids_and_teachers_come_home() -> None:
    """upload_fraction = 0.5: ceil(K_n / 2) rows, ids 0..m-1, rows of the samples that "pending" names."""
    history = run("upload_fraction = 0.5, schedule = 'none'", fraction_train=1.0)
    data = history.clients[2]
    for t in (0, 1, 3):
        kinds, state = history.uploads[t][2].kinds, history.states[t][2]
        assert len(kinds["ids"]["i"]) == 13 == len(state["pending"])
        where = np.searchsorted(data.train.ids, state["pending"])
        assert np.array_equal(data.train.ids[where], state["pending"])
        assert np.array_equal(kinds["labels"]["y"], data.train.y[where])
        answered = history.broadcasts[t + 1][2].own["soft_labels"]
        got = history.states[t + 1][2]
        mapped = np.searchsorted(data.train.ids, state["pending"][answered["i"]])
        assert np.array_equal(got["q"][mapped], answered["q"])
        assert (got["q_round"][mapped] == t).all(), "made in the round of the upload"
    assert (history.states[1][2]["q_round"] == -1).sum() == 26 - 13, "samples that were not sent have no teacher yet"


def test_teachers_older_than_target_max_age_are_not_used() -> None:
    """Client 0 takes part in rounds 0, 1 and 4. What waits for it in round 4 was made in round 1, three rounds before; the
    q that it holds itself is of round 0. In round 1 its teacher is one round old."""
    present = {0: [0, 1], 1: [0, 1], 2: [1], 3: [1], 4: [0, 1], 5: [1]}
    for limit, expected in ((0, True), (1, False), (2, False), (3, True)):
        setting = toy_setting(args=f"schedule = 'none', target_max_age = {limit}")
        history = federate(setting, sample=lambda t: present[t], rounds=5)
        inputs = [(history.states[t - 1][0], history.broadcasts[t][0], history.clients[0]) for t in (1, 4)]
        assert [bool(setting.module.prepare(setting, *given).targets) for given in inputs] == [True, expected]
        assert set(history.states[4][0]["q_round"]) == {1}


def test_a_pause_in_knowledge_keeps_teachers_on_both_sides() -> None:
    """Cut 3, then none, then 3 again: the q that waits on the server and the q at home survive the pause."""
    args = 'schedule = [["L+1", 0.33], [0, 0.66], ["L", 1.0]], kd_after_drop = "follow"'
    history = run(args, fraction_train=1.0)
    assert [cut(history.setting, t) for t in range(6)] == [3, 3, 0, 0, 3, 3]
    for n in range(4):
        assert f"q/{n}" in history.server[3]
        assert "soft_labels" not in history.broadcasts[2][n].own
        assert np.array_equal(history.broadcasts[4][n].own["soft_labels"]["q"], history.server[1][f"q/{n}"])
        assert same(
            {k: history.states[3][n][k] for k in ("q", "q_round")}, {k: history.states[1][n][k] for k in ("q", "q_round")}
        )


def test_after_the_end_of_knowledge_nothing_of_it_is_kept() -> None:
    """Default "stop", ten rounds, cut 0 from round 8: no q on either side, no server head, no optimizer state."""
    history = run(num_server_rounds=10)
    assert [cut(history.setting, t) for t in (7, 8)] == [3, 0]
    assert any(n.startswith("q/") for n in history.server[6])
    assert set(history.server[7]) == {n for n in history.server[7] if n.startswith("avg/") or n == "last"}
    trained = set(history.uploads[8])
    assert all("q" not in history.states[8][n] for n in trained)


def test_heads_rest_when_they_are_not_in_the_loss() -> None:
    """After the end of knowledge L_n is CE alone: the client's head keeps its bits (no weight decay either)."""
    history = run(num_server_rounds=10, fraction_train=1.0)
    for n in range(len(SIZES)):
        assert np.array_equal(history.states[7][n]["head3.weight"], history.states[9][n]["head3.weight"])
        assert not np.array_equal(history.states[6][n]["head3.weight"], history.states[7][n]["head3.weight"])
    cold = run('kd_after_drop = "follow", warm_heads = false', num_server_rounds=10, fraction_train=1.0)
    assert np.array_equal(cold.states[0][0]["head1.weight"], cold.states[7][0]["head1.weight"])
    warm = run('kd_after_drop = "follow"', num_server_rounds=10, fraction_train=1.0)
    assert not np.array_equal(warm.states[0][0]["head1.weight"], warm.states[7][0]["head1.weight"])


def test_server_head_loss_is_reported_while_features_come() -> None:
    history = run(num_server_rounds=10)
    losses = [extra["server_head_loss"] for extra in history.extra]
    assert all(loss is not None and 0 < loss < 3 for loss in losses[:8])
    assert losses[8:] == [None, None]
    assert losses[7] is not None
    assert losses[0] is not None
    assert losses[7] < losses[0]
