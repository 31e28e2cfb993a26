"""Partitions: disjoint, ascending, repeatable, as skewed as asked, bounded; splits: stratified, sized by n alone."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.errors import ConfigError
from fedkd.partition import CONFIGS, config_of, dirichlet_sizes, partition, quotas, split, split_sizes

LABELS = np.random.default_rng(0).integers(0, 10, 2000).astype(np.int32)
GROUPS = (np.arange(2000) % 23 * 7).astype(np.int32)
ARGS = {"iid": "", "dirichlet": "alpha = 0.5", "pathological": "classes_per_client = 3", "natural": ""}


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Import flwr-datasets once, so that no test's time includes it (here it takes 5 to 15 s)."""
    partition("iid", "", LABELS[:2], None, 1, 1, 0)


@pytest.mark.parametrize("name", CONFIGS)
def test_lists_are_disjoint_ascending_repeatable_and_large_enough(name: str) -> None:
    parts = partition(name, ARGS[name], LABELS, GROUPS, 20, 15, seed=3)
    rows = np.concatenate(parts)
    assert len(parts) == 20
    assert len(np.unique(rows)) == len(rows)
    assert all((np.diff(part) > 0).all() and len(part) >= 15 for part in parts)
    again = partition(name, ARGS[name], LABELS, GROUPS, 20, 15, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    other = partition(name, ARGS[name], LABELS, GROUPS, 20, 15, seed=4)
    assert any(not np.array_equal(a, b) for a, b in zip(parts, other, strict=True))
    if name in ("iid", "dirichlet"):
        assert len(rows) == len(LABELS)


def test_speed() -> None:
    start = time.process_time()
    partition("dirichlet", "alpha = 0.1", LABELS, None, 20, 20, seed=0)
    assert time.process_time() - start < 0.5


def test_no_noise_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    for name, args in ARGS.items():
        partition(name, args, LABELS, GROUPS, 5, 1, 0)
    assert capfd.readouterr() == ("", "")


def test_iid_sizes_differ_by_one_and_all_classes_are_there() -> None:
    parts = partition("iid", "", LABELS, None, 7, 1, 0)
    assert {len(p) for p in parts} == {285, 286}
    assert all(len(np.unique(LABELS[p])) == 10 for p in parts)


def test_alpha_rules_the_classes_per_client() -> None:
    present = {
        alpha: np.mean([len(np.unique(LABELS[p])) for p in partition("dirichlet", f"alpha = {alpha}", LABELS, None, 20, 5, 0)])
        for alpha in (0.1, 0.5, 100.0)
    }
    assert present[0.1] < 6 < present[0.5] < present[100.0] == 10


@given(alpha=st.sampled_from([0.05, 0.5, 3.0]), clients=st.integers(1, 30), seed=st.integers(0, 2**63 - 1))
@settings(max_examples=15, deadline=None)
def test_sizes_are_those_of_the_partitioner(alpha: float, clients: int, seed: int) -> None:
    """The quick draw of sizes equals what DirichletPartitioner itself does under the same seed."""
    import datasets
    from flwr_datasets.partitioner import DirichletPartitioner

    labels = LABELS[:200]
    partitioner = DirichletPartitioner(
        clients, "label", alpha, min_partition_size=0, self_balancing=False, shuffle=False, seed=seed
    )
    partitioner.dataset = datasets.Dataset.from_dict({"label": labels})
    expected = [len(partitioner.load_partition(n)) for n in range(clients)]
    per_class = np.bincount(labels, minlength=10)
    assert dirichlet_sizes(alpha, per_class[per_class > 0], clients, seed).tolist() == expected


def test_pathological_clients_have_exactly_their_classes_and_all_classes_are_used() -> None:
    for k in (1, 3, 10):
        parts = partition("pathological", f"classes_per_client = {k}", LABELS, None, 20, 1, 0)
        assert [len(np.unique(LABELS[p])) for p in parts] == [k] * 20
        assert len(np.unique(LABELS[np.concatenate(parts)])) == 10


def test_natural_clients_are_groups() -> None:
    parts = partition("natural", "", LABELS, GROUPS, 23, 1, 0)
    assert [np.unique(GROUPS[p]).tolist() for p in parts] == [[7 * n] for n in range(23)]
    some = partition("natural", "", LABELS, GROUPS, 5, 1, 0)
    assert len({int(GROUPS[p[0]]) for p in some}) == 5
    assert all(len(np.unique(GROUPS[p])) == 1 for p in some)


def test_natural_leaves_out_groups_that_are_too_small() -> None:
    groups = np.repeat([1, 2, 3], [5, 1, 4])
    parts = partition("natural", "", LABELS[:10], groups, 2, 4, 0)
    assert [len(p) for p in parts] == [5, 4]
    with pytest.raises(ConfigError, match="reached 1 samples in 1 draws, min-client-samples asks for 2"):
        partition("natural", "", LABELS[:10], groups, 3, 2, 0)
    with pytest.raises(ConfigError, match="reached 0 samples"):
        partition("natural", "", LABELS[:10], groups, 4, 1, 0)


def test_500_clients_at_alpha_001_end_in_bounded_time() -> None:
    start = time.process_time()
    with pytest.raises(ConfigError, match=r"smallest of 500 clients reached 0 samples in 800 draws, .* asks for 2"):
        partition("dirichlet", "alpha = 0.01", LABELS, None, 500, 2, seed=0)
    assert time.process_time() - start < 10


def test_the_smallest_size_of_the_best_draw_is_named() -> None:
    sizes = [min(map(len, partition("dirichlet", "alpha = 0.3", LABELS, None, 20, 1, s))) for s in range(5)]
    with pytest.raises(ConfigError, match="min-client-samples asks for 90") as caught:
        partition("dirichlet", "alpha = 0.3", LABELS, None, 20, 90, seed=0)
    reached = int(str(caught.value).split("reached ")[1].split()[0])
    assert max(sizes) <= reached < 90


@pytest.mark.parametrize(
    ("name", "args", "clients", "least", "message"),
    [
        ("dirichlet", "alpha = 0", 5, 1, "alpha = 0.0; it must be above 0"),
        ("dirichlet", "alpha = -1.0", 5, 1, "alpha = -1.0"),
        ("dirichlet", "alpha = nan", 5, 1, "alpha = nan"),
        ("dirichlet", "beta = 1", 5, 1, "valid fields: alpha = 0.5"),
        ("pathological", "classes_per_client = 0", 5, 1, "valid: 1 to 10 classes"),
        ("pathological", "classes_per_client = 11", 5, 1, "valid: 1 to 10 classes"),
        ("iid", "", 2001, 1, "num-clients = 2001, but there are 2000 samples"),
        ("iid", "", 0, 1, "num-clients = 0"),
        ("iid", "", 20, 101, "min-client-samples = 101 .* can reach 100"),
        ("natural", "", 5, 1, "needs a data set with natural client ids"),
        ("shards", "", 5, 1, "valid values: iid, dirichlet, pathological, natural"),
    ],
)
def test_refusals(name: str, args: str, clients: int, least: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        partition(name, args, LABELS, None, clients, least, 0)


def test_a_class_that_cannot_be_divided_is_a_config_error() -> None:
    labels = np.array([0] * 50 + [1], dtype=np.int32)
    with pytest.raises(ConfigError, match="Label: 1"):
        partition("pathological", "classes_per_client = 2", labels, None, 5, 1, 0)


def test_an_empty_client_is_refused_even_with_minimum_zero() -> None:
    with pytest.raises(ConfigError, match="asks for 1"):
        partition("dirichlet", "alpha = 0.001", LABELS, None, 100, 0, 0)


def test_one_client_and_one_sample() -> None:
    for name in ("iid", "dirichlet"):
        assert partition(name, "", LABELS[:1], None, 1, 1, 0)[0].tolist() == [0]


def test_config_of_gives_the_defaults() -> None:
    assert config_of("dirichlet", "") == CONFIGS["dirichlet"]()


@given(labels=st.lists(st.integers(0, 4), max_size=60), seed=st.integers(0, 100), client=st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_split_is_disjoint_sorted_and_complete(labels: list[int], seed: int, client: int) -> None:
    y = np.array([0, 1, *labels], dtype=np.int32)
    indices = np.arange(len(labels)) + 2  # positions in a longer table
    train, val, test = split(y, indices, seed, client)
    for part in (train, val, test):
        assert (np.diff(part) > 0).all()
    assert sorted(np.concatenate([train, val, test]).tolist()) == indices.tolist()
    n = len(labels)
    assert (len(train), len(test), len(val)) == split_sizes(n)
    if n >= 4:
        assert len(test) >= 1
        assert len(train) >= 1


@given(n=st.integers(0, 10_000))
def test_split_sizes_are_70_5_25(n: int) -> None:
    train, test, val = split_sizes(n)
    assert train + test + val == n
    assert train >= (n > 0)
    assert abs(val - n / 20) <= 0.5
    assert n == 1 or abs(test - n / 4) <= 0.5


@given(counts=st.lists(st.integers(2, 40), min_size=1, max_size=6), seed=st.integers(0, 50))
@settings(max_examples=100, deadline=None)
def test_split_is_stratified(counts: list[int], seed: int) -> None:
    """A class of two or more gives a quarter of its samples to test, within one; while places last, it keeps one."""
    y = np.repeat(np.arange(len(counts)), counts)
    train, val, test = split(y, np.arange(len(y)), seed, 0)
    for c, count in enumerate(counts):
        assert abs((y[test] == c).sum() - count * len(test) / len(y)) < 1
        assert (y[train] == c).sum() >= 1
    assert len(val) == split_sizes(len(y))[2]


def test_a_pair_never_goes_to_test_and_val_both() -> None:
    """Five classes of two: test takes three samples, val one; without the rule a class could lose both."""
    y = np.repeat(np.arange(5), 2)
    for seed in range(30):
        train, val, test = split(y, np.arange(10), seed, 0)
        assert (len(val), len(test), len(np.unique(y[train]))) == (1, 3, 5)


def test_ties_between_classes_favour_none() -> None:
    """Four classes of one size, one test sample each in three of them: every class is left out by some seed."""
    y = np.repeat(np.arange(4), 3)
    tested = [set(y[split(y, np.arange(12), seed, 0)[2]].tolist()) for seed in range(60)]
    assert {len(classes) for classes in tested} == {3}
    assert len({frozenset(classes) for classes in tested}) == 4


def test_single_samples_of_a_class_train() -> None:
    y = np.array([0] * 12 + [1, 2, 3, 4])
    for seed in range(20):
        train, _, _ = split(y, np.arange(16), seed, 0)
        assert {12, 13, 14, 15} <= set(train.tolist())


def test_split_depends_on_seed_and_client_and_repeats() -> None:
    draws = [split(LABELS, np.arange(100), seed, client)[2].tolist() for seed, client in ((0, 0), (0, 0), (1, 0), (0, 1))]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert draws[0] != draws[3]


@given(counts=st.lists(st.integers(0, 30), min_size=1, max_size=8), total=st.integers(0, 100))
def test_quotas_are_within_one_of_proportional(counts: list[int], total: int) -> None:
    shares = quotas(np.array(counts), total, np.full(len(counts), 1000))
    assert shares.sum() == (total if sum(counts) else 0)
    for count, share in zip(counts, shares, strict=True):
        assert sum(counts) == 0 or abs(share - total * count / sum(counts)) < 1
    capped = quotas(np.array(counts), total, np.full(len(counts), 3))
    assert capped.tolist() == np.minimum(shares, 3).tolist()
