"""Other seeds as shadows: who was in and out of each, what is refused, and a leak that a trained model shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from fedkd import channel_shadows, metrics
from fedkd.channel_candidates import draw, everyone
from fedkd.channel_shadows import answer, shadow_attack
from fedkd.channel_signals import PERSONAL, Reader, personal
from fedkd.finished import Finished, final_models, open_finished
from server.run_folder import run_id
from tests.audited_runs import RECORDED
from tests.small_runs import run, small
from tests.toy import refusal

SEEDS = 5
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Finished]:
    root, found = tmp_path_factory.mktemp("shadows"), []
    for seed in range(SEEDS):
        e = small(root, **{**RECORDED, "max_samples": 0, "num_server_rounds": 2, "num_clients": 3, "seed": seed})
        found.append(open_finished(run(e), root / "state" / run_id(e)))
    return found


def own_phi(one: Finished, candidates) -> np.ndarray:
    reader = Reader(one.setting, candidates, 2)
    personal(reader, final_models(one), 0)
    return reader.values[PERSONAL, "phi"].own[0]


def test_a_shadow_knows_every_row_and_what_it_trained_on(runs: Sequence[Finished]) -> None:
    held = everyone(runs[1].data)
    trained = np.concatenate([runs[1].data.client(n).train.ids for n in range(3)])
    assert set(held.ids[held.member]) == set(trained.tolist())
    assert len(held) == len(np.unique(held.ids)) == 1797
    candidates = draw(runs[0].data, 0, 10_000)
    rows = np.asarray(runs[0].data.arrays["rows"])[candidates.ids]
    phi, inside = answer(runs[1], rows, candidates.y)
    assert np.isfinite(phi).all()
    theirs = set(np.asarray(runs[1].data.arrays["rows"])[trained].tolist())
    np.testing.assert_array_equal(inside, [r in theirs for r in rows])
    wrong, _ = answer(runs[1], rows, (candidates.y + 1) % 10)
    assert np.isnan(wrong).all(), "a row with another label is not the candidate"


def test_scores_are_those_of_the_ratio_and_a_known_leak_is_caught(
    runs: Sequence[Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers with 3 more for whoever was in: the own model's too, so that members stand out."""
    real = channel_shadows.answer

    def leaky(shadow: Finished, rows: np.ndarray, labels: np.ndarray):
        phi, inside = real(shadow, rows, labels)
        return phi + 8.0 * inside, inside

    candidates = draw(runs[0].data, 0, 400)
    phi = own_phi(runs[0], candidates)
    plain = shadow_attack(runs[0], candidates, runs[1:], phi)
    assert plain.attack.name == "distill_lira (4 shadow federations)"
    assert plain.by_round.shape == (1, len(candidates))
    monkeypatch.setattr(channel_shadows, "answer", leaky)
    found = shadow_attack(runs[0], candidates, runs[1:], phi + 8.0 * candidates.member)
    assert metrics.auc_delong(found.total[candidates.member], found.total[~candidates.member]).low > 0.7
    blind = shadow_attack(runs[0], candidates, runs[1:], phi + 8.0 * np.random.default_rng(0).permutation(candidates.member))
    estimate = metrics.auc_delong(blind.total[candidates.member], blind.total[~candidates.member], 0.999)
    assert estimate.low <= 0.5


def test_shadows_that_do_not_fit_are_refused(runs: Sequence[Finished]) -> None:
    candidates = draw(runs[0].data, 0, 100)
    phi = own_phi(runs[0], candidates)
    assert "at least 4" in refusal(lambda: shadow_attack(runs[0], candidates, runs[1:4], phi))
    assert "repeat" in refusal(lambda: shadow_attack(runs[0], candidates, [*runs[1:4], runs[1]], phi))
    e = replace(runs[4].setting.experiment, local_epochs=7)
    other = runs[4]._replace(setting=replace(runs[4].setting, experiment=e))
    assert "another configuration" in refusal(lambda: shadow_attack(runs[0], candidates, [*runs[1:4], other], phi))
