"""Signals against direct formulas; exact ranks against brute force."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fedkd import rng, signals
from fedkd.layers import LayeredModel

DIGITS = torch.arange(10)


class Chain:
    """A causal model that is brute force to check: the next token's distribution follows the last two tokens."""

    def __init__(self, seed: int = 0, sharp: float = 2.0, vocabulary: int = 12) -> None:
        g = torch.Generator().manual_seed(seed)
        self.logs = F.log_softmax(sharp * torch.randn(vocabulary, vocabulary, vocabulary, generator=g), dim=-1)

    def start(self, prefix: Tensor) -> tuple[Tensor, Any]:
        return self.logs[prefix[-2], prefix[-1]], prefix[None, -1]

    def extend(self, past: Any, parents: Tensor, tokens: Tensor) -> tuple[Tensor, Any]:
        return self.logs[past[parents], tokens], tokens

    def __call__(self, tokens: Tensor) -> Tensor:
        before = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], dim=1)
        return self.logs[before, tokens]


def every_score(model: Chain, prefix: list[int], length: int) -> dict[tuple[int, ...], float]:
    found = {}
    for secret in itertools.product(range(10), repeat=length):
        tokens, total = [*prefix, *secret], 0.0
        for at in range(len(prefix), len(tokens)):
            total += float(model.logs[tokens[at - 2], tokens[at - 1], tokens[at]])
        found[secret] = total
    return found


@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize("chunk", [7, 2048])
def test_i_the_exact_rank_equals_brute_force_over_ten_thousand_candidates(prune: bool, chunk: int) -> None:
    model, prefix = Chain(), [10, 11]
    scores = every_score(model, prefix, 4)
    ordered = sorted(scores, key=scores.__getitem__, reverse=True)
    for place in (0, 1, 77, 4_000, 9_999):
        secret = ordered[place]
        got = signals.rank_of_secret(
            model, torch.tensor(prefix), torch.tensor(secret), DIGITS, prune=prune, chunk=chunk, tolerance=1e-6
        )
        brute = sum(s > scores[secret] + 1e-6 for s in scores.values())
        tied = sum(abs(s - scores[secret]) <= 1e-6 for s in scores.values()) - 1
        assert (got.better, got.tied, got.candidates, got.estimator) == (brute, tied, 10_000, "exact")
        assert got.logprob == pytest.approx(scores[secret], abs=1e-5)


def test_pruning_leaves_almost_nothing_of_a_memorized_secret() -> None:
    model = Chain(sharp=12.0)
    scores = every_score(model, [10, 11], 4)
    best = max(scores, key=scores.__getitem__)
    pruned = signals.rank_of_secret(model, torch.tensor([10, 11]), torch.tensor(best), DIGITS)
    whole = signals.rank_of_secret(model, torch.tensor([10, 11]), torch.tensor(best), DIGITS, prune=False)
    assert pruned.better == whole.better == 0
    assert pruned.forwards < whole.forwards / 20
    assert whole.forwards == 2 + 3 + 10 + 100 + 1000


def test_a_constant_model_is_shown_as_tied() -> None:
    model = Chain(sharp=0.0)
    got = signals.rank_of_secret(model, torch.tensor([1, 2]), torch.tensor([3, 4, 5]), DIGITS)
    assert (got.better, got.tied, got.candidates) == (0, 999, 1000)


def test_i_the_sample_answers_where_it_can_and_the_tree_elsewhere() -> None:
    model, prefix = Chain(), torch.tensor([10, 11])
    scores = every_score(model, [10, 11], 4)
    ordered = sorted(scores, key=scores.__getitem__, reverse=True)
    sample = torch.from_numpy(np.random.default_rng(0).integers(10, size=(signals.SAMPLED, 4)))
    common = signals.rank_of_secret(model, prefix, torch.tensor(ordered[5000]), DIGITS, sample=sample)
    brute = sum(scores[tuple(c)] > scores[ordered[5000]] + signals.TOLERANCE for c in sample.tolist())
    assert (common.estimator, common.candidates, common.better) == ("sampled", signals.SAMPLED, brute)
    rare = signals.rank_of_secret(model, prefix, torch.tensor(ordered[3]), DIGITS, sample=sample)
    assert (rare.estimator, rare.better) == ("exact", 3)


@pytest.mark.parametrize(
    ("prefix", "secret", "alphabet", "said"),
    [([], [1], [1, 2], "prefix of at least one"), ([1], [3], [1, 2], "every symbol"), ([1], [1], [1, 1], "each symbol once")],
)
def test_impossible_secrets_are_refused(prefix: list[int], secret: list[int], alphabet: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        signals.rank_of_secret(Chain(), torch.tensor(prefix, dtype=torch.int64), torch.tensor(secret), torch.tensor(alphabet))


def test_label_strings_are_ranked_exactly() -> None:
    draw = np.random.default_rng(1)
    logs = np.log(draw.dirichlet(np.ones(10), size=4))
    labels = draw.integers(10, size=4)
    own = logs[np.arange(4), labels].sum()
    sums = np.array([sum(logs[k, c] for k, c in enumerate(s)) for s in itertools.product(range(10), repeat=4)])
    got = signals.rank_of_labels(logs, labels)
    assert got.better == int((sums > own + signals.TOLERANCE).sum())
    assert got.tied == int((abs(sums - own) <= signals.TOLERANCE).sum()) - 1
    assert got.candidates == 10_000
    assert signals.rank_of_labels(np.full((6, 10), math.log(0.1)), np.zeros(6)).tied == 999_999
    with pytest.raises(ValueError, match="too many"):
        signals.rank_of_labels(np.zeros((20, 10)), np.zeros(20))
    with pytest.raises(ValueError, match="without NaN"):
        signals.rank_of_labels(np.full((2, 3), np.nan), np.zeros(2))


def test_classifier_signals_are_their_formulas() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0], [60.0, 0.0, -60.0]])
    y = torch.tensor([0, 1, 0])
    got = signals.classifier(lambda x: logits[x], torch.arange(3), y, chunk=2)
    p = torch.softmax(logits.double(), dim=1)
    assert got["target_logprob"] == pytest.approx(p.log()[torch.arange(3), y].numpy(), abs=1e-6)
    assert got["phi"][:2] == pytest.approx([math.log(p[0, 0] / (1 - p[0, 0])), math.log(0.5)], abs=1e-6)
    assert got["phi"][2] == pytest.approx(60.0, abs=1e-4), "phi must not saturate"
    assert got["target_logprob"][2] == pytest.approx(-math.exp(-60.0), rel=1e-4), "nor must the log-probability"
    assert got["rank"].tolist() == [1, 3, 1]
    assert got["entropy"][1] == pytest.approx(math.log(3))
    assert got["logprob_sd"][1] == pytest.approx(0.0, abs=1e-3)


def test_language_signals_line_up_with_the_next_token() -> None:
    model = Chain()
    tokens = torch.randint(12, (5, 9), generator=torch.Generator().manual_seed(3))
    got = signals.language(model, tokens, lengths=torch.tensor([9, 9, 9, 9, 4]), chunk=2)
    assert got["target_logprob"].shape == got["rank"].shape == (5, 8)
    assert got["target_logprob"][0, 3] == pytest.approx(float(model.logs[tokens[0, 2], tokens[0, 3], tokens[0, 4]]), abs=1e-6)
    assert np.isnan(got["target_logprob"][4, 3:]).all()
    assert got["phi"][4] == pytest.approx(got["target_logprob"][4, :3].mean(), abs=1e-6)


def test_signals_are_computed_once_and_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> signals.Signals:
        calls.append(1)
        return {"phi": np.arange(3.0)}

    key = [signals.digest(np.arange(4)), "samples"]
    for _ in range(2):
        assert np.array_equal(signals.cached(tmp_path, key, compute)["phi"], np.arange(3.0))
    assert len(calls) == 1
    next(tmp_path.glob("*.npz")).write_bytes(b"torn")
    signals.cached(tmp_path, key, compute)
    signals.cached(tmp_path, [*key, "other"], compute)
    assert len(calls) == 3
    assert signals.digest(np.arange(4)) != signals.digest(np.arange(4, dtype=np.int32))


def test_gradient_signals_are_those_of_one_row_at_a_time() -> None:
    with rng.torch_scope(0):
        module = torch.nn.Sequential()
        module.add_module("block1", torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU()))
        module.add_module("classifier", torch.nn.Linear(5, 3))
        x = torch.randn(6, 4)
    model = LayeredModel(module, (4,), 3)
    params = {n: torch.tensor(v) for n, v in model.initial(7).items()}
    y = torch.tensor([0, 1, 2, 0, 1, 2])

    def loss(p: Any, a: Tensor, b: Tensor, targets: Any) -> Tensor:
        return F.cross_entropy(model.forward(p, a, train=True)[1], b, reduction="none")

    leaves = {n: v.clone().requires_grad_(True) for n, v in params.items()}
    one = torch.autograd.grad(loss(leaves, x[2:3], y[2:3], {}).sum(), list(leaves.values()))
    learned = {n: -0.1 * g for n, g in zip(leaves, one, strict=True)}
    got = signals.gradients(
        model, params, x, y, loss, {"step": learned, "still": {n: 0 * g for n, g in learned.items()}}, chunk=4
    )
    assert got["gradient_norm"][2] == pytest.approx(float(torch.cat([g.flatten() for g in one]).norm()), rel=1e-5)
    assert got["update_cosine.step"][2] == pytest.approx(1.0, abs=1e-5), "a row that the update has learned scores highest"
    assert (got["update_cosine.step"] <= 1 + 1e-6).all()
    assert (got["update_cosine.still"] == 0).all()


class Narrow:
    """After the first symbol 0 everything is likely, after any other nothing is; refuses an empty batch, as models do."""

    def start(self, prefix: Tensor) -> tuple[Tensor, Tensor]:
        return torch.log(torch.tensor([0.5, 0.5])), torch.zeros(1, dtype=torch.int64)

    def extend(self, past: Tensor, parents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        assert len(tokens), "an empty batch"
        first = torch.where(past[parents] == 0, tokens + 1, past[parents])
        high = (first == 1)[:, None] & torch.ones(2, dtype=torch.bool)
        return torch.where(high, -0.1, -9.0), first


def test_a_chunk_whose_branches_all_end_asks_the_model_nothing() -> None:
    found = signals.rank_of_secret(Narrow(), torch.tensor([0]), torch.tensor([0, 1, 1]), torch.tensor([0, 1]), chunk=1)
    assert found.better == 0
    assert found.tied == 3
    whole = signals.rank_of_secret(Narrow(), torch.tensor([0]), torch.tensor([1, 1, 1]), torch.tensor([0, 1]), chunk=1)
    assert whole.better == 4
