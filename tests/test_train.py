"""Local training against torch.optim, on one flat vector whose neighbours never matter; Adam; evaluation; staging."""

from __future__ import annotations

import dataclasses
import gc
import math
import weakref
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fedkd.executors import loop
from fedkd.jobs import local_job
from fedkd.train import (
    CHUNK,
    Adam,
    FlatVector,
    Job,
    descend,
    evaluate,
    logits,
    resident,
    sgd,
    stage,
    starting,
    to_numpy,
    to_tensors,
)
from fedkd.types import Split
from tests.toy import toy_clients, toy_setting

CPU = torch.device("cpu")


def linear_job(rows: int = 11, epochs: int = 3, extra: tuple[int, ...] = (), **options: float) -> Job:
    """Least squares on a 7x3 matrix and a bias; ``extra`` trainable vectors of these sizes have a loss of their own."""
    generator = torch.Generator().manual_seed(5)
    params = {"w": torch.randn(3, 7, generator=generator), "b": torch.randn(3, generator=generator)}
    others = {f"e{i}": torch.linspace(-1, 2, n) for i, n in enumerate(extra)}
    x, target = torch.randn(rows, 7, generator=generator), torch.randn(rows, 3, generator=generator)

    def loss(p: Mapping[str, Tensor], x: Tensor, y: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        total = (F.linear(x, p["w"], p["b"]) - targets["t"]).square().sum(1)
        return total + sum(((p[n] ** 2).sum() for n in others), torch.zeros(()))

    order = np.stack([np.random.Generator(np.random.PCG64(e)).permutation(rows) for e in range(epochs)])
    values = {"learning_rate": 0.02, "momentum": 0.9, "weight_decay": 0.01, "batch_size": 4, **options}
    return Job(
        client=0, params={**others, **params, "frozen": torch.ones(2)}, trainable=(*others, "w", "b"), x=x,
        y=torch.zeros(rows, dtype=torch.int64), loss=loss, order=order, targets={"t": target}, **values,
    )  # fmt: skip


def by_torch(job: Job) -> dict[str, Tensor]:
    """The same training with torch.optim.SGD on separate tensors."""
    leaves = {n: job.params[n].clone().requires_grad_(True) for n in job.trainable}
    optimizer = torch.optim.SGD(
        leaves.values(), lr=job.learning_rate, momentum=job.momentum, weight_decay=job.weight_decay, foreach=False
    )
    params = {**job.params, **leaves}
    for epoch in job.order:
        for start in range(0, len(epoch), job.batch_size):
            rows = torch.tensor(epoch[start : start + job.batch_size])
            optimizer.zero_grad()
            job.loss(params, job.x[rows], job.y[rows], {n: t[rows] for n, t in job.targets.items()}).mean().backward()
            optimizer.step()
    return {n: t.detach() for n, t in params.items()}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_sgd_is_torch_sgd_to_the_last_bits(momentum: float, weight_decay: float) -> None:
    """9 steps (3 epochs of 4 + 4 + 3 rows): within 4 units in the last place of the largest weight."""
    job = linear_job(momentum=momentum, weight_decay=weight_decay)
    ours, theirs = sgd(job), by_torch(job)
    for name in job.trainable:
        assert (theirs[name] - job.params[name]).abs().max() > 1e-2, "the weights really moved"
        limit = 4 * np.spacing(np.float32(theirs[name].abs().max()))
        assert (ours[name] - theirs[name]).abs().max() <= limit
    assert torch.equal(ours["frozen"], job.params["frozen"])


def test_training_leaves_the_job_alone_and_repeats() -> None:
    job = linear_job()
    before = {n: t.clone() for n, t in job.params.items()}
    first, second = sgd(job), sgd(job)
    assert all(torch.equal(job.params[n], before[n]) for n in before), "a copy is trained"
    assert all(torch.equal(first[n], second[n]) for n in first), "a fresh momentum buffer each time"
    assert not any(t.requires_grad for t in first.values())


@given(extra=st.lists(st.integers(1, 70), max_size=4))
@settings(deadline=None, max_examples=25)
def test_neighbours_in_the_flat_vector_never_change_a_tensors_bits(extra: list[int]) -> None:
    """The vector is padded per tensor and as a whole, so vectorised loops treat a tensor the same wherever it lies."""
    alone, together = sgd(linear_job()), sgd(linear_job(extra=tuple(extra)))
    assert torch.equal(alone["w"], together["w"])
    assert torch.equal(alone["b"], together["b"])


@given(sizes=st.lists(st.integers(1, 100), min_size=1, max_size=5))
@settings(deadline=None, max_examples=25)
def test_flat_vector_is_aligned_and_padded(sizes: list[int]) -> None:
    values = {f"t{i}": torch.full((n,), float(i)) for i, n in enumerate(sizes)}
    flat = FlatVector(values, CPU)
    assert flat.values.numel() % 64 == 0
    for name, view in flat.views.items():
        assert (view.data_ptr() - flat.values.data_ptr()) % 64 == 0
        assert torch.equal(view, values[name])
        assert view.is_leaf
        assert view.requires_grad
    flat.values.add_(1)
    assert all(torch.equal(v, values[n] + 1) for n, v in flat.views.items()), "views, not copies"


def test_no_rows_no_step_and_no_epochs_no_step() -> None:
    """A mean over no rows is not a number: a client without data keeps its parameters."""
    empty = dataclasses.replace(
        linear_job(), x=torch.empty(0, 7), y=torch.empty(0, dtype=torch.int64), order=np.empty((3, 0), np.int64),
        targets={"t": torch.empty(0, 3)},
    )  # fmt: skip
    still = dataclasses.replace(linear_job(), order=np.empty((0, 11), np.int64))
    for job in (empty, still):
        assert all(torch.equal(v, job.params[n]) for n, v in sgd(job).items())


def test_learning_rate_zero_moves_nothing_but_batch_norm_buffers() -> None:
    setting = toy_setting("local", model_args='norm = "batch"')
    job = local_job(setting, 0, toy_clients()[0], setting.initial(), learning_rate=0.0)
    trained = sgd(job)
    moved = {n for n in trained if not torch.equal(trained[n], job.params[n])}
    assert moved == set(setting.model.names) - set(setting.model.parameter_names)


def test_loop_yields_in_order_and_isolates_a_job_that_raises() -> None:
    def fails(*_: object) -> Tensor:
        raise ValueError("broken")

    jobs = [linear_job(), dataclasses.replace(linear_job(), loss=fails), linear_job()]
    outcomes = list(loop.run(jobs))
    assert [job is given for (job, _), given in zip(outcomes, jobs, strict=True)] == [True] * 3
    assert isinstance(outcomes[1][1], ValueError)
    assert torch.equal(outcomes[2][1]["w"], sgd(jobs[0])["w"])


def test_loop_reuses_buffers_and_no_outcome_notices() -> None:
    """Jobs of two shapes in turn, one of them without steps: each outcome is kept while the next ones are trained."""
    still = dataclasses.replace(linear_job(), order=np.empty((0, 11), np.int64))
    jobs = [linear_job(), linear_job(extra=(5,)), linear_job(), still, linear_job(momentum=0.0), linear_job(weight_decay=0.0)]
    outcomes = [out for _, out in list(loop.run(jobs))]
    for job, out in zip(jobs, outcomes, strict=True):
        assert isinstance(out, dict)
        alone = sgd(job)
        assert all(torch.equal(out[n], alone[n]) for n in alone)


def test_a_vector_fits_the_same_names_and_shapes_alone() -> None:
    values = {"a": torch.ones(3), "b": torch.zeros(2, 2)}
    flat = FlatVector(values, CPU)
    assert flat.fits({n: v + 1 for n, v in values.items()})
    others = ({"b": values["b"], "a": values["a"]}, {"a": values["a"]}, {**values, "c": torch.ones(1)},
              {"a": torch.ones(3), "b": torch.zeros(4)})  # fmt: skip
    assert not any(flat.fits(other) for other in others)
    before = flat.views
    flat.load({n: v + 1 for n, v in values.items()})
    assert all(torch.equal(before[n], v) and torch.equal(flat.views[n], v + 1) for n, v in values.items())


@given(
    size=st.integers(1, 5000), momentum=st.sampled_from([0.0, 0.5, 0.9]), decay=st.sampled_from([0.0, 1e-3, 0.3]),
    rate=st.floats(1e-4, 1.0), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_the_one_pass_has_the_bits_of_separate_operations(
    size: int, momentum: float, decay: float, rate: float, seed: int
) -> None:
    """Three steps of any vector, its padding included; the operations are those that a GPU runs."""
    job = dataclasses.replace(linear_job(), momentum=momentum, weight_decay=decay, learning_rate=rate)
    generator = torch.Generator().manual_seed(seed)
    flat = FlatVector({"a": torch.randn(size, generator=generator), "b": torch.randn(3, generator=generator)}, CPU)
    values, velocity = flat.values.clone(), torch.zeros_like(flat.values)
    for step in range(3):
        flat.grads.copy_(torch.randn(len(values), generator=generator))
        grads = flat.grads.clone()
        if decay:
            grads.add_(values, alpha=decay)
        velocity = velocity.mul_(momentum).add_(grads) if step and momentum else grads
        values.add_(velocity, alpha=-rate)
        descend(flat, job, first=step == 0)
        assert torch.equal(flat.values, values)


def test_adam_is_torch_adam_and_goes_on_from_its_state() -> None:
    """20 steps on a quadratic; ours is rebuilt from plain arrays half-way, as after a resume."""
    generator = torch.Generator().manual_seed(1)
    start, target = torch.randn(9, generator=generator), torch.randn(9, generator=generator)
    theirs = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([theirs], lr=0.05, foreach=False)
    params = {"p": start.clone()}
    adam = Adam(params, 0.05)
    for step in range(20):
        if step == 10:
            saved = adam.state()
            assert saved["step"].dtype == np.int64
            assert int(saved["step"]) == 10
            params = to_tensors({"p": to_numpy(params["p"])}, CPU)
            adam = Adam(params, 0.05, saved)
        optimizer.zero_grad()
        (theirs - target).pow(4).sum().backward()
        optimizer.step()
        adam.step([4 * (params["p"] - target) ** 3])
    assert (theirs - start).abs().max() > 0.3
    assert torch.allclose(params["p"], theirs.detach(), rtol=0, atol=2e-6)


def test_adam_does_not_write_into_the_arrays_it_was_given() -> None:
    params = {"p": torch.ones(3)}
    adam = Adam(params, 0.1)
    adam.step([torch.ones(3)])
    saved = adam.state()
    copy = {n: v.copy() for n, v in saved.items()}
    Adam(params, 0.1, saved).step([torch.ones(3)])
    assert all(np.array_equal(saved[n], copy[n]) for n in saved)


def test_evaluate_is_accuracy_and_mean_nll() -> None:
    """NumPy oracle: -log softmax at the label, averaged in float64."""
    setting = toy_setting("local")
    data = toy_clients()[2]
    params = to_tensors(setting.initial(), CPU)
    x, y = stage(data.train, CPU)
    out = setting.model.forward(params, x)[1].numpy().astype(np.float64)
    log_p = out - np.log(np.exp(out).sum(1, keepdims=True))
    accuracy, loss = evaluate(setting.model, params, x, y)
    assert accuracy == (out.argmax(1) == data.train.y).mean()
    assert loss == pytest.approx(-log_p[np.arange(len(y)), data.train.y].mean(), abs=1e-6)
    assert all(math.isnan(v) for v in evaluate(setting.model, params, x[:0], y[:0]))


def test_logits_come_in_fixed_chunks_of_the_clients_own_rows() -> None:
    model = toy_setting("local", model_name="mlp", model_args="hidden = [3]", shape=(2,)).model
    params = to_tensors(model.initial(0), CPU)
    x = torch.randn(2 * CHUNK + 5, 2, generator=torch.Generator().manual_seed(0))
    parts = [model.forward(params, x[i : i + CHUNK])[1] for i in range(0, len(x), CHUNK)]
    assert torch.equal(logits(model, params, x), torch.cat(parts))


def test_what_a_cohort_shares_becomes_a_tensor_once_and_leaves_with_it() -> None:
    array = np.arange(6, dtype=np.float32)
    own = starting({"w": array}, CPU)["w"]
    array[0] = 7.0
    assert own[0] == 0.0, "an array that can be written is copied at each call"
    assert starting({"w": array}, CPU)["w"] is not own
    array.flags.writeable = False
    shared = starting({"w": array}, CPU)["w"]
    assert starting({"w": array}, CPU)["w"] is shared
    assert shared.tolist() == [7.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    gone = weakref.ref(shared)
    del array, shared
    gc.collect()
    assert gone() is None


def test_no_job_changes_what_its_cohort_shares() -> None:
    setting = toy_setting("fedavg", learning_rate=0.5)
    first = {n: v.copy() for n, v in setting.initial().items()}
    for value in first.values():
        value.flags.writeable = False
    data = toy_clients()[:2]
    alone = [sgd(local_job(setting, 0, d, setting.initial())) for d in data]
    together = [sgd(local_job(setting, 0, d, first)) for d in data]
    for a, b in zip(alone, together, strict=True):
        assert all(torch.equal(a[n], b[n]) for n in a)
    assert not torch.equal(together[0]["classifier.weight"], torch.from_numpy(setting.initial()["classifier.weight"]))


def test_stage_copies_and_widens_labels() -> None:
    data = toy_clients()[0]
    x, y = stage(data.train, CPU)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    x.zero_()
    assert np.asarray(data.train.x).any()


def test_resident_rows_are_copied_once_and_leave_with_their_split() -> None:
    """What ``stage`` does on a GPU, here on the CPU: the same tensors while the split lives, nothing afterwards."""
    data = toy_clients()[0]
    split = Split(data.train.x.copy(), data.train.y.copy(), data.train.ids)
    first, again = resident(split, CPU), resident(split, CPU)
    assert first[0] is again[0] and first[1] is again[1]
    assert torch.equal(first[0], stage(split, CPU)[0]) and stage(split, CPU)[0] is not first[0]
    other = Split(split.x, split.y, split.ids)
    assert resident(other, CPU)[0] is not first[0]
    gone = weakref.ref(first[0])
    del first, again, split
    gc.collect()
    assert gone() is None


@pytest.mark.gpu
def test_on_a_gpu_rows_stay_there() -> None:
    split, cuda = toy_clients()[0].train, torch.device("cuda")
    assert stage(split, cuda)[0] is stage(split, cuda)[0]
