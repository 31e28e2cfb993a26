"""Laws of every file in ``fedkd/sensitivity``: a new file is tested before its author writes a test.

``READS`` says what a file looks at. {"text"}: ``find(config, texts)`` gives spans. Else: ``likelihood(config, *, arrays)``,
whose arrays come from `ARRAYS`; a new array name needs one entry there.
"""

from __future__ import annotations

import dataclasses
import inspect
from types import ModuleType

import numpy as np
import pytest
import torch

from fedkd import plugins
from fedkd.losses import kl, swing
from fedkd.plugins import field_docs
from fedkd.spans import Likelihood, Span, to_tokens

NAMES = plugins.available("sensitivity")
TEXTS = [
    "",
    "The id of Kabemi is 482913.",
    "no digit here",
    "mail me: a@b.org, 90210",
    "482913 again",
    "\u00e9\u00e8 4111 1111 1111 1111",
]
STREAM = np.random.default_rng(0)
SHAPE = (4, 6)
ARRAYS = {
    "labels": STREAM.integers(0, 9, SHAPE),
    "counts": np.arange(9) ** 3,
    "teacher_loss": STREAM.exponential(size=SHAPE),
    "reference_loss": STREAM.exponential(size=SHAPE) * 4,
}


@pytest.fixture(params=NAMES)
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = plugins.find("sensitivity", request.param)
    if request.param == "ner":  # its model is a large optional package: the laws are held with a recogniser of one name
        monkeypatch.setattr(found, "recogniser", lambda config: names_of)
    return found


def names_of(text: str) -> list[Span]:
    at = text.find("Kabemi")
    return [] if at < 0 else [Span(at, at + len("Kabemi"), "PERSON", 0.85)]


def reads_text(module: ModuleType) -> bool:
    return set(module.READS) == {"text"}


def arrays_of(module: ModuleType) -> dict[str, np.ndarray]:
    return {name: ARRAYS[name] for name in module.READS}


def likelihoods(module: ModuleType, texts: list[str]) -> list[Likelihood]:
    """One likelihood per character of each text, or the array estimator's rows."""
    if reads_text(module):
        offsets = [[(i, i + 1) for i in range(len(text))] for text in texts]
        return [to_tokens(s, o) for s, o in zip(module.find(module.Config(), texts), offsets, strict=True)]
    return list(module.likelihood(module.Config(), **arrays_of(module)))


def test_the_folder_has_its_files() -> None:
    assert {"constant", "oracle", "regex", "gap", "frequency", "combined"} <= set(NAMES)


def test_config_is_frozen_with_defaults_and_docstrings(module: ModuleType) -> None:
    assert dataclasses.is_dataclass(module.Config)
    assert module.Config.__dataclass_params__.frozen
    assert module.Config() == module.Config()
    assert set(field_docs(module.Config)) == {f.name for f in dataclasses.fields(module.Config)}


def test_a_file_reads_text_or_named_arrays(module: ModuleType) -> None:
    assert module.READS
    if reads_text(module):
        assert list(inspect.signature(module.find).parameters) == ["config", "texts"]
        return
    parameters = inspect.signature(module.likelihood).parameters.values()
    assert {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} == set(module.READS) <= set(ARRAYS)


def test_likelihoods_are_float32_in_the_unit_interval(module: ModuleType) -> None:
    rows = likelihoods(module, TEXTS)
    lengths = [len(text) for text in TEXTS] if reads_text(module) else [SHAPE[1]] * SHAPE[0]
    assert [row.shape for row in rows] == [(length,) for length in lengths]
    for row in rows:
        assert row.dtype == np.float32
        assert (row >= 0).all() and (row <= 1).all()


def test_spans_lie_inside_their_text(module: ModuleType) -> None:
    if not reads_text(module):
        return
    found = module.find(module.Config(), TEXTS)
    assert len(found) == len(TEXTS)
    for text, spans in zip(TEXTS, found, strict=True):
        for span in spans:
            assert isinstance(span, Span) and span.kind
            assert 0 <= span.start < span.end <= len(text)
            assert 0 <= span.confidence <= 1
    assert module.find(module.Config(), []) == []


def test_inputs_are_not_changed_and_calls_repeat(module: ModuleType) -> None:
    before, texts = {name: value.copy() for name, value in ARRAYS.items()}, list(TEXTS)
    first, second = likelihoods(module, texts), likelihoods(module, texts)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert texts == TEXTS and all(np.array_equal(ARRAYS[name], before[name]) for name in before)


def test_a_text_without_anything_private_is_public(module: ModuleType) -> None:
    if reads_text(module):
        assert module.find(module.Config(), ["Shall I compare thee to a summer's day?"]) == [[]]


def test_a_zero_likelihood_makes_swing_plain_distillation_bit_for_bit(module: ModuleType) -> None:
    """Where a file's likelihood is 0 the term is that of ``kl`` at T_lo, with every default of swing in force."""
    p = np.concatenate([*likelihoods(module, TEXTS), np.zeros(3, dtype=np.float32)])
    source = torch.Generator().manual_seed(0)
    student, teacher, noise = (torch.randn(len(p), 7, generator=source) for _ in range(3))
    terms = swing.loss(swing.Config(kd_weight=1.0), student, teacher, None, torch.from_numpy(p), noise)
    plain = kl.loss(kl.Config(1.0, squared=False), student, teacher, None)
    quiet = torch.from_numpy(p == 0)
    assert torch.equal(terms[quiet], plain[quiet])
    assert not torch.equal(terms, plain) or quiet.all()
