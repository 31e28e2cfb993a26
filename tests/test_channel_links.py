"""Evidence of labels and links of messages: loops as oracles, and the truth behind renamed rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedkd.channel_links import Evidence, between_sets, distances, label_evidence, true_ids
from fedkd.channel_messages import replay
from fedkd.finished import Finished
from tests.audited_runs import opened


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return opened(tmp_path_factory.mktemp("links"), num_clients=3)


def evidence(run: Finished) -> Evidence:
    found = Evidence(run.setting, run)
    for r in replay(run):
        found.read(r)
    return found


def test_the_distance_of_two_sets_is_that_of_a_loop() -> None:
    stream = np.random.default_rng(0)
    first, second = ([stream.normal(size=(n, 3)) for n in sizes] for sizes in ((2, 5, 1), (4, 1, 3)))
    expected = [[np.mean([min(np.linalg.norm(a - b) for b in other) for a in one]) for other in second] for one in first]
    np.testing.assert_allclose(between_sets(first, second), expected)


def test_raw_labels_are_the_histogram_and_bias_evidence_is_what_rose(run: Finished) -> None:
    first = next(iter(replay(run)))
    found = label_evidence(run.setting, first.cut, first.up[1])
    np.testing.assert_array_equal(found["labels up"], np.bincount(run.data.client(1).train.y, minlength=10))
    sent = first.up[1]
    rose = np.maximum(sent.params["classifier.bias"] - sent.base["classifier.bias"], 0)
    np.testing.assert_allclose(found["weights up"], rose, atol=1e-7)
    assert found["soft labels up"].sum() == pytest.approx(len(run.data.client(1).train))


def test_heads_tell_labels_from_the_second_round_on(tmp_path: Path) -> None:
    run = opened(tmp_path, method_args='knowledge = "heads"')
    first, second = list(replay(run))[:2]
    assert "heads up" not in label_evidence(run.setting, first.cut, first.up[0])
    assert label_evidence(run.setting, second.cut, second.up[0])["heads up"].shape == (10,)
    assert set(evidence(run).mass) == {"heads up", "weights up"}


def test_every_channel_of_consecutive_rounds_is_linked(run: Finished) -> None:
    found = evidence(run)
    linked = {x.channel for x in found.links}
    assert linked == {"features up", "soft labels up", "weights up"}
    assert [x.round for x in found.links if x.channel == "weights up"] == [1, 2, 3]
    for link in found.links:
        assert link.distance.shape == (3, 3)
        assert np.isfinite(link.distance).all()


def test_rows_are_matched_to_their_nearest_row_one_round_later(run: Finished) -> None:
    rounds = list(replay(run))
    found = evidence(run).row_links
    assert {x.client for x in found} == {0, 1, 2}
    link = next(x for x in found if (x.client, x.round) == (1, 1))
    before, after = (rounds[t].up[1].kinds["features"]["z"].astype(np.float64) for t in (0, 1))
    hits = 0.0
    for i, row in enumerate(before):
        distance = np.linalg.norm(after - row, axis=1)
        near = np.flatnonzero(distance <= distance.min() + 1e-12)
        hits += (i in near) / len(near)
    assert link.rows == len(before)
    assert link.hits == pytest.approx(hits, abs=1.0)


def test_the_updates_distance_is_one_minus_their_cosine(run: Finished) -> None:
    before, after = list(replay(run))[:2]
    found = distances(before, after, [0, 1, 2])["weights up"]
    names = sorted(set(before.up[0].params) & set(after.up[1].params) & set(after.up[1].base))
    a, b = (np.concatenate([(s.params[n] - s.base[n]).ravel().astype(np.float64) for n in names])
            for s in (before.up[0], after.up[1]))  # fmt: skip
    assert found[0, 1] == pytest.approx(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)


@pytest.mark.parametrize("seeded", ["true", "false"])
def test_the_auditor_knows_renamed_rows_and_the_wire_does_not(tmp_path: Path, seeded: str) -> None:
    """Permuted rows: the wire says 0, 1, ...; the secret order gives each row its sample, whose label it carries."""
    run = opened(tmp_path, num_clients=3, num_server_rounds=2, mechanism_name="permute",
                 mechanism_args=f"insecure_seeded_noise = {seeded}")  # fmt: skip
    first = next(iter(replay(run)))
    kinds, train = first.up[1].kinds, run.data.client(1).train
    np.testing.assert_array_equal(kinds["ids"]["i"], np.arange(len(train)))
    ids = true_ids(run, 0, 1, kinds)
    assert ids is not None
    assert sorted(ids) == list(train.ids)
    np.testing.assert_array_equal(kinds["labels"]["y"], train.y[np.searchsorted(train.ids, ids)])
    if seeded == "false":
        (run.store.folder / "1" / "secret").unlink()
        assert true_ids(run, 0, 1, kinds) is None
        assert not (run.store.folder / "1" / "secret").exists(), "an audit makes no secret"
