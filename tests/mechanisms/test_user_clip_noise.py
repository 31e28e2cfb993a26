"""User-level clipping: the bound holds and is reached, the mean is what the formula says, skipped clients add zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedkd import clipping, outgoing, public
from fedkd.mechanisms import user_clip_noise
from fedkd.types import Arrays, Broadcast, Kinds, Upload
from fedkd.uploads import Uploads
from fedkd.vault import Vault
from tests.toy import refusal, toy_clients, toy_setting


def setting_of(args: str, method: str = "fedavg", method_args: str = "", **keys: Any) -> Any:
    return toy_setting(method, method_args, mechanism_name="user_clip_noise", mechanism_args=args, **keys)


def test_the_bound_is_never_exceeded_over_ten_thousand_records_and_reached() -> None:
    stream, largest = np.random.default_rng(0), 0.0
    for _ in range(10_000):
        scale = 10 ** stream.uniform(-6, 6)
        kinds: Kinds = {"weights": {"w": (scale * stream.normal(size=9)).astype(np.float32)},
                        "heads": {"h": (scale * stream.normal(size=4)).astype(np.float32)}}  # fmt: skip
        bound = float(10 ** stream.uniform(-3, 3))
        size = clipping.norm(clipping.clipped(kinds, bound))
        assert size <= bound
        largest = max(largest, size / bound)
    assert largest == pytest.approx(1, abs=2e-6)


def test_what_is_below_the_bound_is_the_same_object_and_what_is_not_finite_is_zero() -> None:
    kinds: Kinds = {"weights": {"w": np.ones(4, np.float32)}}
    assert clipping.clipped(kinds, 3.0) is kinds
    assert clipping.norm(clipping.clipped({"weights": {"w": np.array([np.nan, 1], np.float32)}}, 3.0)) == 0


def test_the_mean_is_the_last_release_plus_clipped_differences_over_the_expected_cohort(tmp_path: Any) -> None:
    """Without noise, by hand: two of three clients answered, the third adds zeros and the divisor stays 3."""
    setting = setting_of("clip = 0.5, noise_multiplier = 0.0")
    start = setting.initial()
    stream = np.random.default_rng(3)
    rows, expected = [], {n: np.zeros(v.shape) for n, v in start.items()}
    for client, scale in ((0, 1.0), (1, 1e-3)):
        moved = {n: (scale * stream.normal(size=v.shape)).astype(np.float32) for n, v in start.items()}
        kinds: Kinds = {"weights": {n: v + moved[n] for n, v in start.items()}}
        out = outgoing.upload(setting, 0, toy_clients()[client], {}, {}, kinds, Vault(tmp_path / str(client)))
        assert clipping.norm(out.kinds) <= 0.5
        rows.append(Upload(client, 1, out.kinds))
        size = clipping.norm({"weights": moved})
        for n in expected:
            expected[n] += moved[n] * min(1.0, 0.5 / size)
    uploads = Uploads(0, 3, setting.module.schema(setting, 0), rows=rows)
    mean = outgoing.combined(setting, 0, {}, uploads, Vault(tmp_path / "server")).mean("weights")
    assert mean is not None
    for n, v in start.items():
        np.testing.assert_allclose(mean[n], v + expected[n] / 3, atol=1e-5)
        assert mean[n].dtype == v.dtype


def test_sums_of_workers_and_single_uploads_give_the_same_bits() -> None:
    from fedkd import fixed_point

    setting = setting_of("insecure_seeded_noise = true")
    parts: list[Arrays] = [{n: np.full(v.shape, c + 1, np.float32) for n, v in setting.initial().items()} for c in range(2)]
    schema = setting.module.schema(setting, 0)
    single = Uploads(0, 3, schema, rows=[Upload(c, 9, {"weights": p}) for c, p in enumerate(parts)])
    summed = Uploads(0, 3, schema)
    for c, p in enumerate(parts):
        summed.add_sums({"weights": fixed_point.encode(p, 1)}, 9, [c])
    a, b = (user_clip_noise.combine(setting, 0, u, lambda: 1) for u in (single, summed))
    assert a.released == b.released


def test_the_noise_has_its_scale_is_fresh_per_round_and_lies_on_the_grid() -> None:
    setting = setting_of("clip = 0.5, noise_multiplier = 3.0")
    zero = {n: np.zeros_like(v) for n, v in setting.initial().items()}
    uploads = Uploads(0, 4, setting.module.schema(setting, 0), rows=[Upload(0, 1, {"weights": zero})])
    first, again, other = (user_clip_noise.combine(setting, t, uploads, lambda: 11) for t in (0, 0, 1))
    flat = np.concatenate([v.ravel() for v in first.means["weights"].values()])
    assert flat.std() == pytest.approx(3.0 * 0.5 / 4, rel=0.03)
    assert first.released == again.released != other.released
    np.testing.assert_array_equal(flat * 4 * 2.0**32, np.rint(flat * 4 * 2.0**32))


def test_replace_has_twice_the_sensitivity() -> None:
    one, two = (user_clip_noise.Config(adjacency=a).event[0].noise_multiplier for a in ("add/remove", "replace"))
    assert one == 2 * two


def test_dropped_layers_never_leave_and_heads_are_clipped_with_the_weights(tmp_path: Any) -> None:
    setting = setting_of("clip = 0.1", "fedd2s", 'knowledge = "heads"', num_server_rounds=10)
    data, late = toy_clients()[0], 9  # level 1, no knowledge
    sent = setting.module.schema(setting, late)
    assert list(sent) == ["weights"] and all(n.startswith("block1.") for n in sent["weights"])
    initial = public.initial(setting, 0, public.SUMMED)
    assert set(initial) == {"weights", "heads"}
    kinds: Kinds = {k: {n: v + 1 for n, v in a.items()} for k, a in initial.items()}
    out = outgoing.upload(setting, 0, data, {}, {}, kinds, Vault(tmp_path), Broadcast(0, 0, {}, {}))
    assert clipping.norm(out.kinds) == pytest.approx(0.1, rel=1e-5)


def test_bad_values_are_refused() -> None:
    assert "clip = 0.0; it must be above 0" in refusal(lambda: user_clip_noise.Config(clip=0.0))
    assert "a finite clip" in refusal(lambda: user_clip_noise.Config(clip=float("inf")))
    assert "budget = 1.0" in refusal(lambda: user_clip_noise.Config(noise_multiplier=0.0, budget=1.0))
    assert "delta = 1.0" in refusal(lambda: user_clip_noise.Config(delta=1.0))
