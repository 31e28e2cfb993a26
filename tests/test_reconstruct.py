"""Feature inversion of small runs: a leak is found where features travel, and what cannot be tested says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd import reconstruct
from fedkd.attacks.inversion import ssim
from fedkd.config import Experiment
from fedkd.errors import ConfigError
from fedkd.finished import Finished, open_finished
from fedkd.reconstruct import AVERAGED, EACH, Config, audit_features, public_rows
from fedkd.verdict import LEAK, MEASURED, NOT_TESTED, Row, verdict
from server.run_folder import run_id
from tests.small_runs import run, small

FAST = Config(public_rows=900, pool=50, epochs=6, hidden=48, shown=2, resamples=200)
FEDD2S: dict[str, Any] = {"method_name": "fedd2s", "method_args": "kd_after_drop = 'follow'", "record": "messages",
                          "model_name": "cnn_small", "model_args": "", "num_server_rounds": 4}  # fmt: skip
Found = tuple[list[dict[str, Any]], list[Row], dict[str, np.ndarray]]


def states(experiment: Experiment) -> Path:
    return Path(experiment.output) / "state" / run_id(experiment)


def audited(experiment: Experiment, config: Config = FAST) -> Found:
    return audit_features(run(experiment), states(experiment), config)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    experiment = small(tmp_path_factory.mktemp("plain"), **FEDD2S)
    return open_finished(run(experiment), states(experiment))


@pytest.fixture(scope="module")
def plain(finished: Finished) -> Found:
    return audit_features(finished.folder, finished.store.folder, FAST)


def test_every_cut_of_the_schedule_is_attacked_by_both_attackers(plain: Found) -> None:
    """CNN with three blocks, four rounds, "late" and "follow": cut 3 until 0.75 R, then 2 and 1 at the same boundary."""
    records, rows, _ = plain
    assert [(r["cut"], r["round"], r["attacker"]) for r in records] == [
        (3, 2, AVERAGED), (3, 2, EACH), (2, 3, AVERAGED), (2, 3, EACH),
    ]  # fmt: skip
    assert {r.target_group for r in rows} == {"cut 3", "cut 2"}
    assert {r.view for r in rows} == {"features up"}
    assert len(rows) == 4 * len(records)


def test_features_of_a_shallow_cut_give_the_images_away(plain: Found) -> None:
    records, rows, _ = plain
    for record in (r for r in records if r["cut"] == 2):
        assert record["gain_low"] > 0.1
        assert record["ssim"] > record["shuffled_ssim"] + 0.1
        assert record["rank_median"] <= 3
        assert record["top1_low"] > 10 / record["pool"]
        assert record["label_known"] is True
    shown = [r for r in rows if r.target_group == "cut 2" and r.statistic == "ssim"]
    assert [r.status for r in shown] == [LEAK, LEAK]
    assert verdict(shown[0]).startswith("leak shown: ssim 0.")
    assert {r.status for r in rows if r.statistic in ("ssim_gain", "rank_median")} == {MEASURED}


def test_records_hold_what_the_report_reads(plain: Found) -> None:
    wanted = {"cut", "mechanism", "attacker", "n", "ssim", "ssim_low", "ssim_high", "chance_ssim", "chance_low", "chance_high",
              "gain", "gain_low", "gain_high", "rank_median", "rank_low", "rank_high", "pool", "top1", "top1_low", "top1_high",
              "shuffled_ssim"}  # fmt: skip
    for record in plain[0]:
        assert wanted <= set(record)
        assert all(isinstance(v, int | float | str | bool) for v in record.values())
        for name in ("ssim", "gain", "top1"):
            assert record[f"{name}_low"] <= record[name] <= record[f"{name}_high"]


def test_pairs_follow_the_fixed_rule(plain: Found, finished: Finished) -> None:
    """Of the first two clients the row with the lowest sample id, whatever came of it."""
    _, _, pairs = plain
    assert set(pairs) == {f"cut{k}_{n}" for k in (2, 3) for n in ("true", "rebuilt", "chance")}
    x = np.stack([np.asarray(finished.data.client(n).train.x[0]) for n in range(2)])
    expected = public_rows(finished, FAST).to_images(x)[:, 0]
    for k in (2, 3):
        np.testing.assert_array_equal(pairs[f"cut{k}_true"], expected)
        assert all(pairs[f"cut{k}_{n}"].dtype == np.float32 for n in ("true", "rebuilt", "chance"))
        assert all(0 <= pairs[f"cut{k}_{n}"].min() <= pairs[f"cut{k}_{n}"].max() <= 1 for n in ("true", "rebuilt", "chance"))


def test_public_rows_belong_to_no_client_and_never_to_the_pool_too(finished: Finished) -> None:
    public = public_rows(finished, FAST)
    data = finished.data
    held = np.concatenate([np.concatenate([s.x for s in (c.train, c.val, c.test)]) for c in map(data.client, range(3))])
    owned = {row.tobytes() for row in held}
    assert not owned & {row.tobytes() for row in public.x}
    assert not {row.tobytes() for row in public.to_images(held)} & {row.tobytes() for row in public.pool}
    assert not {row.tobytes() for row in public.images} & {row.tobytes() for row in public.pool}
    assert len(public.y) == FAST.public_rows
    assert (np.bincount(public.pool_y) == FAST.pool - 1).all()
    assert (public.images.min(), public.images.max()) == (0.0, 1.0)


def test_where_rows_are_few_unseen_test_rows_are_public_and_others_stay_out(tmp_path: Path) -> None:
    few = {"num_server_rounds": 1, "max_samples": 1500, "extra_test": 20, "audit_holdout": 0.1}
    experiment = small(tmp_path, **{**FEDD2S, **few})
    found = open_finished(run(experiment), states(experiment))
    public = public_rows(found, Config())
    everything = 1797
    held = int(sum(found.data.meta["counts"][part] for part in ("train", "val", "test", "holdout")))
    assert held == 1500
    assert len(public.y) + len(public.pool_y) == everything - held
    assert np.bincount(public.pool_y).max() <= 12, "a third of what a class has"


def test_first_last_and_both_rounds_of_a_cut(finished: Finished) -> None:
    assert reconstruct.attacked(finished, Config(rounds="first")) == [(3, 0), (2, 3)]
    assert reconstruct.attacked(finished, Config(rounds="last")) == [(3, 2), (2, 3)]
    assert reconstruct.attacked(finished, Config(rounds="both")) == [(3, 0), (3, 2), (2, 3)]


def rebuilt_from(features: np.ndarray, finished: Finished, wrong: bool = False) -> tuple[np.ndarray, ...]:
    """(SSIM, SSIM of chance) on the second half of the public rows, where the attacker learns from the first."""
    public = public_rows(finished, FAST)
    half = len(public.y) // 2
    learn = public._replace(x=public.x[:half], images=public.images[:half], y=public.y[:half])
    made = features[:half][reconstruct._shuffled(learn.y, 0)] if wrong else features[:half]
    rebuilt = reconstruct._rebuild(finished, replace(FAST, epochs=40), 0, made, learn, features[half:], public.y[half:])
    means = np.stack([learn.images[learn.y == k].mean(axis=0) for k in range(10)])
    true = public.images[half:]
    return ssim(true, rebuilt.reshape(true.shape)), ssim(true, means[public.y[half:]])


def test_identity_constant_and_shuffled_features(finished: Finished) -> None:
    """Features that are the image: far above chance. Features that are constant, or of another image: at chance."""
    public = public_rows(finished, FAST)
    image = public.x.reshape(len(public.x), -1)
    own, chance = rebuilt_from(image, finished)
    assert own.mean() > 0.95 > chance.mean() + 0.1
    for features, wrong in ((np.ones_like(image), False), (image, True)):
        own, chance = rebuilt_from(features, finished, wrong)
        assert abs(own.mean() - chance.mean()) < 0.06


def test_noise_hides_and_permuted_rows_do_not(tmp_path: Path, plain: Found) -> None:
    """Clipped to 1 with noise of 10 in every number, a row says nothing; in another order it says the same."""
    noise = 'clip = 1.0, noise_scale = 10.0, insecure_seeded_noise = true, pass_through = ["labels", "weights"]'
    few = replace(FAST, attackers=(AVERAGED,))
    records, rows, _ = audited(small(tmp_path / "noise", **FEDD2S, mechanism_name="clip_noise", mechanism_args=noise), few)
    assert all(r["ssim_low"] < r["chance_high"] and r["mechanism"] == "clip_noise" for r in records)
    assert not [r for r in rows if r.statistic == "ssim" and r.status == LEAK]
    seeded = {"mechanism_name": "permute", "mechanism_args": "insecure_seeded_noise = true"}
    records, _, _ = audited(small(tmp_path / "order", **FEDD2S, **seeded), few)
    before = [r for r in plain[0] if r["attacker"] == AVERAGED]
    assert [r["ssim"] for r in records] == pytest.approx([r["ssim"] for r in before], abs=0.03)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method_args": 'knowledge = "heads"'}, "no row of features leaves a client"),
        ({"method_args": "average = false, kd_after_drop = 'follow', schedule = 'equal'"}, "no blocks travel"),
        ({"mechanism_name": "permute"}, "insecure_seeded_noise"),
        ({"max_samples": 1700}, "rows belong to no client"),
    ],
)
def test_what_is_not_tested_says_why(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    records, rows, pairs = audited(small(tmp_path, **{**FEDD2S, "num_server_rounds": 1, **changes}))
    assert (records, pairs) == ([], {})
    (row,) = rows
    assert row.status == NOT_TESTED and reason in row.reason
    assert verdict(row).startswith("not tested: ")


def test_labels_that_stay_at_home_are_not_used(tmp_path: Path) -> None:
    args = "kd_after_drop = 'follow', upload_labels = 'none', server_ce = false"
    records, _, _ = audited(small(tmp_path, **{**FEDD2S, "method_args": args}), replace(FAST, attackers=(AVERAGED,)))
    assert [r["label_known"] for r in records] == [False, False]


def test_options_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigError, match="attackers"):
        Config(attackers=("nobody",))
    with pytest.raises(ConfigError, match="attackers"):
        Config(attackers=())
    with pytest.raises(ConfigError, match="rounds"):
        Config(rounds="middle")  # type: ignore[arg-type]
