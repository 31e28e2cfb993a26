"""Causal models of transformers behind the exact counter: shared caches against whole forward passes and brute force."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor
from transformers import MistralConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from fedkd import language, rng, signals
from fedkd.errors import ConfigError

DIGITS = torch.arange(10)
PREFIX = torch.tensor([82, 40, 31, 22, 17, 55])


def peaked(family: str = "gpt2", layers: int = 1) -> PreTrainedModel:
    """A model with opinions: an untrained one is almost uniform."""
    model = language.build(language.Size(family=family, width=32, layers=layers), 3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5.0)
    return model


def rescored(model: PreTrainedModel, prefix: Tensor, candidates: Tensor, chunk: int = 500) -> Tensor:
    """Log-probability [m] of each of ``candidates`` [m, k] by whole forward passes."""
    rows = torch.cat([prefix.expand(len(candidates), -1), candidates], dim=1)
    forward, parts = language.logits_of(model), []
    with torch.inference_mode():
        for part in rows.split(chunk):
            logs = torch.log_softmax(forward(part)[:, len(prefix) - 1 : -1].float(), dim=-1)
            parts.append(logs.gather(2, part[:, len(prefix) :, None]).double().sum(dim=(1, 2)))
    return torch.cat(parts)


@pytest.mark.parametrize(("width", "count"), [(64, 109_568), (128, 415_744)])
def test_the_default_sizes_are_the_swing_demos(width: int, count: int) -> None:
    model = language.build(language.Size(width=width), 0)
    assert sum(p.numel() for p in model.parameters()) == count


def test_weights_follow_the_seed() -> None:
    size = language.Size(width=8, layers=1)
    first, again, other = (language.build(size, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not all(torch.equal(first[n], other[n]) for n in first)


@pytest.mark.parametrize(
    ("size", "said"),
    [(language.Size(family="mamba"), "valid: gpt2, gpt_neox, llama"), (language.Size(width=63), "width that heads divides")],
)
def test_sizes_that_do_not_fit_are_refused(size: language.Size, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        language.build(size, 0)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_branches_equal_whole_forward_passes(family: str) -> None:
    model = peaked(family, layers=2)
    cached = language.Cached(model)
    first, start = cached.start(PREFIX)
    logs, past = cached.extend(start, torch.tensor([0, 0]), torch.tensor([4, 5]))
    deeper, last = cached.extend(past, torch.tensor([1, 0, 0]), torch.tensor([7, 8, 9]))
    final, _ = cached.extend(last, torch.tensor([2]), torch.tensor([1]))
    again, _ = cached.extend(past, torch.tensor([0]), torch.tensor([8]))  # an earlier state is still good
    with torch.inference_mode():
        for got, tail in (
            (first, []), (logs[0], [4]), (logs[1], [5]), (deeper[0], [5, 7]), (deeper[2], [4, 9]), (final[0], [4, 9, 1]),
            (again[0], [4, 8]),
        ):  # fmt: skip
            whole = language.logits_of(model)(torch.cat([PREFIX, torch.tensor(tail, dtype=torch.int64)])[None])
            assert torch.allclose(got, torch.log_softmax(whole[0, -1], dim=-1), atol=2e-5)


def test_the_exact_rank_equals_brute_force_over_ten_thousand_candidates_of_a_transformer() -> None:
    model = peaked()
    every = torch.cartesian_prod(*[DIGITS] * 4)
    scores = rescored(model, PREFIX, every)
    order = scores.argsort(descending=True)
    for place in (0, 3, 500, 9_999):
        secret, own = every[order[place]], scores[order[place]]
        got = signals.rank_of_secret(language.Cached(model), PREFIX, secret, DIGITS)
        near = int(((scores - own).abs() <= 2 * signals.TOLERANCE).sum()) - 1
        assert abs(got.better - int((scores > own + signals.TOLERANCE).sum())) <= near
        assert got.candidates == 10_000
        assert got.logprob == pytest.approx(float(own), abs=5e-5)


def test_a_constant_transformer_is_shown_as_tied() -> None:
    model = language.build(language.Size(width=8, layers=1), 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    got = signals.rank_of_secret(language.Cached(model), PREFIX, torch.tensor([1, 2, 3]), DIGITS)
    assert (got.better, got.tied, got.candidates) == (0, 999, 1000)


def test_a_cache_that_forgets_is_refused() -> None:
    config = MistralConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        sliding_window=4,
    )  # fmt: skip
    with rng.torch_scope(0):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match="only plain caches"):
        language.Cached(model).start(torch.tensor([1, 2, 3]))


@pytest.mark.slow
def test_a_million_candidates_cost_a_hundredth_of_scoring_them_one_by_one() -> None:
    model = language.build(language.Size(), 0)
    cached, secret = language.Cached(model), torch.tensor([4, 8, 2, 9, 1, 3])
    prefix = torch.arange(30, 51)  # as long as "The id of Kabemi is " after the first token
    signals.rank_of_secret(cached, prefix, secret[:3], DIGITS, prune=False)
    started = time.perf_counter()
    got = signals.rank_of_secret(cached, prefix, secret, DIGITS, prune=False)
    exact = time.perf_counter() - started
    sample = torch.randint(10, (20_000, 6), generator=torch.Generator().manual_seed(0))
    started = time.perf_counter()
    rescored(model, prefix, sample)
    each = (time.perf_counter() - started) / len(sample)
    assert (got.candidates, got.forwards) == (10**6, 111_110 + len(prefix) + 5)
    print(f"all 10^6 candidates: {exact:.2f} s; scored one by one in batches: {each * 10**6:.0f} s")
    assert each * 10**6 >= 100 * exact
