"""Laws of every file in ``fedkd/losses``: a new file is tested before its author writes a test.

A loss says what it reads by ``USES``, a subset of {"teacher", "labels"}; where it says nothing it gets both. A loss
that reads the teacher alone is minimal, and 0, at student = teacher; one that reads labels alone is minimal at the sure
and right student; of one that reads both only the other laws are asked.
"""

from __future__ import annotations

import dataclasses
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional as F

from fedkd import plugins

NAMES = plugins.available("losses")
ROUNDING = 1e-5


@pytest.fixture(params=NAMES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return plugins.find("losses", request.param)


def uses(module: ModuleType) -> frozenset[str]:
    return frozenset(getattr(module, "USES", ("teacher", "labels")))


def case(rows: int, classes: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(rows, classes, generator=source, dtype=dtype) for _ in range(2))
    return student, teacher, torch.randint(0, classes, (rows,), generator=source)


def call(module: ModuleType, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """The loss at its default Config, given only what it says it uses."""
    reads = uses(module)
    return module.loss(module.Config(), student, teacher if "teacher" in reads else None, labels if "labels" in reads else None)


def test_the_folder_has_losses() -> None:
    assert {"ce", "kl", "jsd", "mse"} <= set(NAMES)


def test_config_is_a_frozen_dataclass_with_defaults(module: ModuleType) -> None:
    assert dataclasses.is_dataclass(module.Config)
    assert module.Config.__dataclass_params__.frozen
    assert module.Config() == module.Config()
    assert uses(module) <= {"teacher", "labels"}
    assert uses(module)


@pytest.mark.parametrize("name", NAMES)
@given(rows=st.integers(0, 5), classes=st.integers(1, 6), seed=st.integers(0, 2**31), scale=st.sampled_from([0, 1, 1e4]))
@settings(max_examples=25, deadline=None)
def test_one_finite_nonnegative_term_per_sample(name: str, rows: int, classes: int, seed: int, scale: float) -> None:
    module = plugins.find("losses", name)
    student, teacher, labels = case(rows, classes, seed)
    terms = call(module, student * scale, teacher * scale, labels)
    assert terms.shape == (rows,)
    assert terms.dtype == torch.float32
    assert torch.isfinite(terms).all()
    assert (terms >= -ROUNDING * max(1.0, scale)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(module: ModuleType, dtype: torch.dtype) -> None:
    student, teacher, labels = case(6, 5)
    student, teacher = student.to(dtype), teacher.to(dtype)
    terms = call(module, student, teacher, labels)
    assert terms.dtype == torch.float32
    assert torch.equal(terms, call(module, student.float(), teacher.float(), labels))


def test_float64_stays(module: ModuleType) -> None:
    assert call(module, *case(3, 4, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("name", [n for n in NAMES if len(uses(plugins.find("losses", n))) == 1])
def test_minimal_at_student_equal_teacher(name: str) -> None:
    module = plugins.find("losses", name)
    student, teacher, labels = case(64, 5)
    best = teacher if uses(module) == {"teacher"} else 50 * F.one_hot(labels, 5).float()
    at_best = call(module, best, teacher, labels)
    assert at_best.abs().max() < ROUNDING
    assert (call(module, student, teacher, labels) > at_best).all()


def test_no_gradient_reaches_the_teacher(module: ModuleType) -> None:
    student, teacher, labels = case(4, 5)
    student.requires_grad_()
    teacher.requires_grad_()
    call(module, student, teacher, labels).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


def test_inputs_are_not_changed(module: ModuleType) -> None:
    inputs = case(4, 5)
    before = [value.clone() for value in inputs]
    call(module, *inputs)
    assert all(torch.equal(a, b) for a, b in zip(before, inputs, strict=True))


def test_batch_order_is_irrelevant_and_samples_are_not_coupled(module: ModuleType) -> None:
    student, teacher, labels = case(7, 5)
    terms = call(module, student, teacher, labels)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    torch.testing.assert_close(call(module, student[order], teacher[order], labels[order]), terms[order])
    for row in range(7):
        alone = call(module, student[row : row + 1], teacher[row : row + 1], labels[row : row + 1])
        torch.testing.assert_close(alone, terms[row : row + 1])


def test_gradcheck(module: ModuleType) -> None:
    student, teacher, labels = case(3, 4, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: call(module, s, teacher, labels), (student,))


def test_vmap_equals_the_loop(module: ModuleType) -> None:
    clients = [case(4, 5, seed) for seed in range(3)]
    student, teacher, labels = (torch.stack(values) for values in zip(*clients, strict=True))
    stacked = vmap(lambda s, t, y: call(module, s, t, y))(student, teacher, labels)
    torch.testing.assert_close(stacked, torch.stack([call(module, *client) for client in clients]))
    total = grad(lambda s, t, y: call(module, s, t, y).sum())
    torch.testing.assert_close(vmap(total)(student, teacher, labels), torch.stack([total(*c) for c in clients]))
