"""The distillation loop: what each position learns from, padding, schedules, and cached teachers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from fedkd import distill, language
from fedkd.distill import Lesson, Rows, Training
from fedkd.errors import ConfigError
from fedkd.losses import kl

SIZE = language.Size(vocabulary=11, width=8, layers=1, heads=2, context=9)
ROWS = Rows(torch.randint(1, 11, (6, 9), generator=torch.Generator().manual_seed(0)), torch.tensor([9, 9, 9, 5, 9, 7]))
PLAIN = Training(epochs=1, learning_rate=0.01, batch_size=2, weight_decay=0.0)


def model(seed: int = 0) -> PreTrainedModel:
    return language.build(SIZE, seed)


def weights(m: PreTrainedModel) -> Tensor:
    return torch.cat([p.detach().flatten() for p in m.parameters()])


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    return kl.loss(kl.Config(temperature=1.0, squared=False), student, teacher, None)


def soft(teacher: Tensor, weight: Tensor | float = 1.0) -> Lesson:
    ones = torch.ones(ROWS.real.shape)
    return Lesson(0 * ones, ones * weight, teacher)


def gradient(lesson: Lesson, rows: Rows = ROWS) -> Tensor:
    m = model()
    index = torch.arange(len(rows))
    distill._loss(m, rows.tokens, rows.real, lesson, index, divergence).backward()
    return grads(m)


def grads(m: PreTrainedModel) -> Tensor:
    return torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None])


def test_text_is_the_mean_cross_entropy_over_real_positions() -> None:
    m = model()
    logits = m(ROWS.tokens[:, :-1]).logits
    each = F.cross_entropy(logits.transpose(1, 2), ROWS.tokens[:, 1:], reduction="none")
    mean = (each * ROWS.real).sum() / ROWS.real.sum()
    got = distill._loss(m, ROWS.tokens, ROWS.real, Lesson.text(ROWS), torch.arange(6), None)
    assert float(got.detach()) == pytest.approx(float(mean.detach()), abs=1e-6)
    assert int(ROWS.real.sum()) == 6 * 8 - 4 - 2
    assert distill.perplexity(m, ROWS) == pytest.approx(math.exp(float(mean.detach())), rel=1e-5)


def test_a_student_that_equals_its_teacher_has_nothing_to_learn() -> None:
    teacher = distill.teacher_logits(model(), ROWS)
    assert float(gradient(soft(teacher)).abs().max()) < 1e-7
    assert float(gradient(soft(distill.teacher_logits(model(1), ROWS))).abs().max()) > 1e-3


def test_g_masked_positions_teach_no_hard_label() -> None:
    hidden = torch.zeros(ROWS.real.shape, dtype=torch.bool)
    hidden[:, 3] = True
    lesson = Lesson((~hidden).float()[:, :4], torch.zeros(6, 4))
    changed = ROWS.tokens.clone()
    changed[:, 4] = (changed[:, 4] % 10) + 1  # the labels of position 3, and with them the input of later positions
    only_label = Rows(torch.where(torch.arange(9) == 4, changed, ROWS.tokens), ROWS.lengths)
    first, other = model(), model()
    a = distill._loss(first, ROWS.tokens[:, :5], ROWS.real[:, :4], lesson, torch.arange(6), None)
    b = distill._loss(other, only_label.tokens[:, :5], ROWS.real[:, :4], lesson, torch.arange(6), None)
    assert torch.equal(a, b), "with the row cut behind it, a masked label changes nothing"
    a.backward()
    b.backward()
    assert torch.equal(grads(first), grads(other))


def test_padding_changes_nothing() -> None:
    other = ROWS.tokens.clone()
    other[3, 5:] = 7
    lesson = Lesson.text(ROWS)
    assert torch.equal(gradient(lesson), gradient(lesson, Rows(other, ROWS.lengths)))


def test_hard_and_soft_parts_add_up() -> None:
    teacher = distill.teacher_logits(model(1), ROWS)
    ones = torch.ones(ROWS.real.shape)
    mixed = gradient(Lesson(0.25 * ones, 0.75 * ones, teacher))
    parts = 0.25 * gradient(Lesson.text(ROWS)) + 0.75 * gradient(soft(teacher))
    assert torch.allclose(mixed, parts, atol=1e-6)


def test_o_both_sides_without_the_square_scale_the_gradient_by_the_squared_temperature() -> None:
    size = torch.full(ROWS.real.shape, 20.0)
    small = distill.teacher_logits(model(1), ROWS)
    small = small - small.mean(dim=-1, keepdim=True)
    ones = torch.ones(ROWS.real.shape)
    whole = gradient(soft(small))
    shared = gradient(Lesson(0 * ones, ones, small / 20.0, size))
    assert float((shared * 400 - whole).norm() / whole.norm()) < 0.1


def test_training_repeats_and_learns() -> None:
    first, again, other = model(), model(), model()
    before = distill.perplexity(first, ROWS)
    training = Training(epochs=30, learning_rate=0.01, batch_size=2)
    seen: list[tuple[int, int]] = []
    distill.train(first, ROWS, Lesson.text(ROWS), training, 0, said=lambda step, of: seen.append((step, of)))
    distill.train(again, ROWS, Lesson.text(ROWS), training, 0)
    distill.train(other, ROWS, Lesson.text(ROWS), training, 1)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    assert distill.perplexity(first, ROWS) < before / 2
    assert seen[-1] == (90, 90)
    assert not first.training


def test_a_lesson_without_soft_weight_is_plain_text_bit_for_bit() -> None:
    first, other = model(), model()
    ones = torch.ones(ROWS.real.shape)
    distill.train(first, ROWS, Lesson.text(ROWS), PLAIN, 0)
    distill.train(other, ROWS, Lesson(ones, 0 * ones, torch.randn(6, 8, 11, generator=torch.Generator())), PLAIN, 0, divergence)
    assert torch.equal(weights(first), weights(other))


def test_the_rate_rises_then_falls_to_a_tenth() -> None:
    training = Training(epochs=1, learning_rate=1.0, warm_up=0.05)
    rates = [training.rate(step, 100) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert Training(epochs=3, batch_size=4).steps(9) == 9


def test_cached_logits_are_the_models_and_may_lie_in_a_file(tmp_path: Path) -> None:
    m = model()
    kept = distill.teacher_logits(m, ROWS, tmp_path / "t.npy", chunk=4)
    with torch.no_grad():
        assert torch.allclose(kept, m(ROWS.tokens[:, :-1]).logits, atol=1e-6)
    assert torch.equal(kept, distill.teacher_logits(m, ROWS, chunk=4))
    assert np.load(tmp_path / "t.npy", mmap_mode="r").shape == (6, 8, 11)


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ConfigError, match="need a divergence"):
        distill.train(model(), ROWS, soft(torch.zeros(6, 8, 11)), PLAIN, 0)
    with pytest.raises(RuntimeError, match="the loss is nan at step 0"):
        distill.train(model(), ROWS, soft(torch.full((6, 8, 11), torch.nan)), PLAIN, 0, divergence)
    for field, value in (("epochs", -1), ("learning_rate", 0.0), ("batch_size", 0), ("warm_up", 1.0), ("final", 0.0)):
        with pytest.raises(ConfigError, match="are needed"):
            replace(PLAIN, **{field: value})
