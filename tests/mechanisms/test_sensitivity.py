"""What each mechanism says that one unit can move: never exceeded over 10^4 random cases, and reached where it is tight.

Neighbours are the mechanism's own: one example or user more or less (dpsgd, user_clip_noise), one replaced (user_clip_noise,
clip_noise, swing). ``none``, ``pool`` and ``permute`` bound nothing.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedkd import clipping, fixed_point, guarantees, noisy_sgd, plugins
from fedkd.fixed_point import SCALE
from fedkd.mechanisms import clip_noise, user_clip_noise
from fedkd.soft_targets import Protection, delta_1, protect
from fedkd.types import Kinds, Upload
from fedkd.uploads import Uploads
from tests.toy import refusal, toy_clients, toy_setting

CASES = 10_000


def test_every_mechanism_with_a_bound_is_here() -> None:
    bounded = {r.mechanism for r in guarantees.TABLE if r.unit != "-"}
    assert bounded == {"dpsgd", "user_clip_noise", "clip_noise", "swing"} <= set(plugins.available("mechanisms"))


def test_one_example_moves_a_steps_sum_by_at_most_the_clip_bound() -> None:
    """|sum over D - sum over D without its last example| <= C for batches of 1 to 4 and gradients of all sizes."""
    stream, largest = np.random.default_rng(1), 0.0
    sizes = 10 ** stream.uniform(-8, 8, (CASES, 4, 1))
    gradients = torch.from_numpy((stream.normal(size=(CASES, 4, 5)) * sizes).astype(np.float32))
    clip = 0.7
    for case in range(CASES):
        rows = gradients[case, : 1 + case % 4]
        whole = noisy_sgd.clipped_sum({"w": rows}, clip)[0]["w"]
        without = noisy_sgd.clipped_sum({"w": rows[:-1]}, clip)[0]["w"] if len(rows) > 1 else torch.zeros(5).double()
        largest = max(largest, float((whole - without).norm()))
    assert largest <= clip
    assert largest == pytest.approx(clip, rel=1e-9)


def test_one_user_moves_the_fixed_point_sums_by_at_most_the_clip_bound_and_another_in_its_place_by_twice_that() -> None:
    """Through the hook, on the grid on which the server adds; two opposite users reach 2C."""
    clip = 0.05
    args = f"clip = {clip}, noise_multiplier = 1.0"
    setting = toy_setting("fedavg", model_name="mlp", model_args="hidden = [2]", mechanism_name="user_clip_noise",
                          mechanism_args=args, metrics="home")  # fmt: skip
    shapes = {n: v.shape for n, v in setting.initial().items()}
    data, stream, sent = toy_clients()[0], np.random.default_rng(2), []
    for _ in range(CASES):
        scale = 10 ** stream.uniform(-5, 5)
        kinds: Kinds = {"weights": {n: (scale * stream.normal(size=s)).astype(np.float32) for n, s in shapes.items()}}
        out = user_clip_noise.upload(setting, 0, data, {}, {}, kinds, lambda: pytest.fail("a client draws no noise"))
        sent.append(np.concatenate([v.ravel() for v in fixed_point.encode(out.kinds["weights"], 1).values()]))
    moved = np.array(sent, np.float64) / SCALE
    norms = np.linalg.norm(moved, axis=1)
    assert norms.max() <= clip and norms.max() == pytest.approx(clip, rel=1e-5)
    assert np.linalg.norm(moved - np.roll(moved, 1, axis=0), axis=1).max() <= 2 * clip
    one: Kinds = {"weights": {n: np.full(s, 1.0, np.float32) for n, s in shapes.items()}}
    other: Kinds = {"weights": {n: -v for n, v in one["weights"].items()}}
    ends = [user_clip_noise.upload(setting, 0, data, {}, {}, k, lambda: 0).kinds for k in (one, other)]
    sums = [user_clip_noise.summed(Uploads(0, 2, rows=[Upload(0, 1, k)]))["weights"] for k in ends]
    apart = math.sqrt(sum(float(np.square((sums[0][n] - sums[1][n]) / SCALE).sum()) for n in shapes))
    assert apart <= 2 * clip and apart == pytest.approx(2 * clip, rel=1e-5)


def test_a_user_cannot_use_the_rounding_to_the_grid() -> None:
    """250,000 equal numbers just below the bound that all round up: without room for half a unit each they would pass it."""
    many, units = 250_000, 85_899
    clip = (units + 0.6) * math.sqrt(many) / SCALE
    kinds: Kinds = {"weights": {"w": np.full(many, (units + 0.507) / SCALE, np.float32)}}
    for bound, passed in ((clip, True), (clip - user_clip_noise.grid(many), False)):
        (sent,) = fixed_point.encode(clipping.clipped(kinds, bound)["weights"], 1).values()
        assert bool(np.linalg.norm(sent / SCALE) > clip) == passed
    said = refusal(lambda: toy_setting("fedavg", mechanism_name="user_clip_noise", mechanism_args="clip = 1e-9"))
    assert "is below the grid of the sums" in said


def test_one_record_moves_all_rows_by_at_most_the_joint_bound() -> None:
    """2 C sqrt(K) for K of 1 to 12 rows of all sizes, by the event that is charged; opposite rows reach it."""
    stream, clip, largest = np.random.default_rng(3), 0.3, 0.0
    sizes = 10 ** stream.uniform(-6, 6, (2, CASES, 12, 1))
    rows = (stream.normal(size=(2, CASES, 12, 4)) * sizes).astype(np.float32)
    bounded = clipping.clipped_rows(rows.reshape(-1, 4), clip).reshape(rows.shape)
    for k in range(1, 13):
        (event,) = clip_noise.joint(clip_noise.Config(clip=clip, noise_scale=1.0), k)
        charged = clip / event.noise_multiplier  # the L2 sensitivity that the accountant is told
        apart = np.linalg.norm((bounded[0] - bounded[1])[:, :k].reshape(CASES, -1), axis=1)
        assert apart.max() <= charged
        largest = max(largest, float(apart.max()) / charged)
        opposite = clipping.clipped_rows(np.full((k, 4), 9.0), clip) - clipping.clipped_rows(np.full((k, 4), -9.0), clip)
        assert np.linalg.norm(opposite) == pytest.approx(charged, rel=1e-5) and np.linalg.norm(opposite) <= charged
    assert largest > 0.9


def test_another_row_moves_a_soft_target_by_at_most_the_diameter() -> None:
    """2 tanh(R / 2T) in L1 through the clipping and softmax that release a row; two levels reach it."""
    reach, hot = 6.0, 4.0
    config = Protection(hot, hot, noise="none", logit_range=reach)
    stream = np.random.default_rng(4)
    z = torch.from_numpy(stream.normal(size=(2, CASES, 8)) * 10 ** stream.uniform(-2, 2, (2, CASES, 1)))
    one, other = (protect(config, logits, torch.zeros(CASES, dtype=torch.float64)) for logits in z)
    apart = (one - other).abs().sum(1)
    assert float(apart.max()) <= delta_1(reach, hot) + 1e-12
    high = torch.tensor([9.0] * 4 + [0.0] * 4).double()
    p, q = (protect(config, logits, torch.tensor(0.0)) for logits in (high, high.flip(0)))
    assert float((p - q).abs().sum()) == pytest.approx(delta_1(reach, hot), rel=1e-12)
