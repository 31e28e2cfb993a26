"""What attacks read of models: log-probabilities, ranks, margins, gradients; and the exact rank of a planted secret.

An attack is arithmetic on these arrays (``fedkd/attacks``) and never sees a model. Signals of many models on many samples
are computed once and kept by hash. Reductions over a vocabulary run in float32, in chunks: [N, L, V] is never stored.
Names and shapes: specs, audit, section 1.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from fedkd.layers import LayeredModel, Params
from fedkd.store import write_atomic
from fedkd.train import BatchLoss

CHUNK = 1024
"""Rows per forward pass: fixed, because the bits of a row depend on the batch's row count."""

TOLERANCE = 1e-4
"""Nats by which a candidate must beat a canary to count as better: a cached and a whole forward pass differ by less."""

SAMPLED = 2000
"""Candidates that are scored before any is enumerated."""

ENOUGH = 20
"""Better candidates in that sample from which the sample itself is the estimate (standard error at most 0.33 bit)."""

Signals = dict[str, npt.NDArray[Any]]


# ----- classifiers -------------------------------------------------------------------------------------------------------
@torch.no_grad()
def classifier(forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, chunk: int = CHUNK) -> Signals:
    """Signals of a classifier on labelled rows.

    Args:
        forward: x [B, ...] -> logits [B, C], in evaluation mode.
        x: [N, ...].
        y: [N] int64, the labels that count as true.

    Returns ``target_logprob`` [N] (log p of the label, nats), ``phi`` [N] (log(p / (1 - p)), from logits as
    z_y - logsumexp(z_others), so that it never saturates), ``rank`` [N] int32 (1 + other classes with a logit at least as
    large), ``entropy``, ``logprob_mean``, ``logprob_sd`` [N] (nats; over classes, weighted by p).
    """
    parts = [_reduce(forward(a).float(), b) for a, b in zip(x.split(chunk), y.split(chunk), strict=True)]
    return _joined(parts)


def gradients(
    model: LayeredModel,
    params: Params,
    x: Tensor,
    y: Tensor,
    loss: BatchLoss,
    updates: Mapping[str, Params] | None = None,
    names: Sequence[str] | None = None,
    chunk: int = 64,
) -> Signals:
    """Each row's gradient norm and its cosine with given updates (attack ``updates``; specs: audit, B14).

    Args:
        updates: name -> parameter changes (after - before); the cosine is with *minus* the update, so that a row that an
            update has learned scores high.
        names: parameters that count; all trainable ones by default.

    Returns ``gradient_norm`` [N] and ``update_cosine.<name>`` [N]; a zero gradient or update has cosine 0.
    """
    used = tuple(names or model.parameter_names)
    leaves = {n: params[n].detach().clone().requires_grad_(True) for n in used}
    whole = {**params, **leaves}
    flat = {k: torch.cat([(-u[n]).detach().flatten() for n in used]) for k, u in (updates or {}).items()}
    lengths = {k: v.norm() for k, v in flat.items()}
    norms: list[float] = []
    cosines: dict[str, list[float]] = {k: [] for k in flat}
    for start in range(0, len(y), chunk):
        terms = loss(whole, x[start : start + chunk], y[start : start + chunk], {})
        for term in terms:
            grads = torch.autograd.grad(term, list(leaves.values()), retain_graph=True, allow_unused=True)
            vector = torch.cat([
                (torch.zeros_like(leaf) if g is None else g).flatten() for g, leaf in zip(grads, leaves.values(), strict=True)
            ])  # fmt: skip
            norm = vector.norm()
            norms.append(float(norm))
            for k, update in flat.items():
                scale = float(norm * lengths[k])
                cosines[k].append(float(vector @ update) / scale if scale > 0 else 0.0)
    out: Signals = {"gradient_norm": np.array(norms)}
    out.update({f"update_cosine.{k}": np.array(v) for k, v in cosines.items()})
    return out


# ----- causal language models --------------------------------------------------------------------------------------------
@torch.no_grad()
def language(forward: Callable[[Tensor], Tensor], tokens: Tensor, lengths: Tensor | None = None, chunk: int = 32) -> Signals:
    """Signals of a causal language model at every predicted position.

    Args:
        forward: tokens [B, L] int64 -> logits [B, L, V].
        tokens: [N, L]; L tokens give L - 1 predicted positions.
        lengths: [N] tokens of each row that are real; positions after them are NaN (rank 0).

    Returns the signals of :func:`classifier` without ``phi``, each [N, L - 1], and ``phi`` [N], the mean log-probability.
    """
    parts: list[Signals] = []
    for rows in tokens.split(chunk):
        logits = forward(rows)[:, :-1].float()
        reduced = _reduce(logits.flatten(0, 1), rows[:, 1:].flatten())
        parts.append({n: v.reshape(len(rows), -1) for n, v in reduced.items() if n != "phi"})
    out = _joined(parts)
    real = np.ones(out["rank"].shape, dtype=np.bool_)
    if lengths is not None:
        real = np.arange(1, tokens.shape[1])[None, :] < lengths.cpu().numpy()[:, None]
        out = {n: np.where(real, v, 0 if n == "rank" else np.nan).astype(v.dtype) for n, v in out.items()}
    count = np.maximum(real.sum(axis=1), 1)
    out["phi"] = np.where(real, out["target_logprob"], 0.0).sum(axis=1) / count
    return out


class Causal(Protocol):
    """A causal language model that keeps keys and values, so that a common prefix is run once."""

    def start(self, prefix: Tensor) -> tuple[Tensor, Any]:
        """prefix [P] int64 -> (log-probabilities [V] of the next token, the prefix's keys and values)."""

    def extend(self, past: Any, parents: Tensor, tokens: Tensor) -> tuple[Tensor, Any]:
        """Continue branches: ``parents`` [B] rows of ``past``, ``tokens`` [B] -> (log-probabilities [B, V], past [B])."""


@dataclass(frozen=True)
class Rank:
    """Where a secret stands among all candidates of its format."""

    better: int
    """candidates that are likelier by more than the tolerance"""
    tied: int
    """other candidates within the tolerance of it"""
    candidates: int
    """candidates compared with: the whole space, or the sample"""
    estimator: str
    """"exact" or "sampled": values of the two never share a table"""
    logprob: float
    """log-probability of the secret after its prefix, nats"""
    forwards: int
    """tokens that went through the model"""


def rank_of_secret(
    model: Causal,
    prefix: Tensor,
    secret: Tensor,
    alphabet: Tensor,
    *,
    sample: Tensor | None = None,
    enough: int = ENOUGH,
    tolerance: float = TOLERANCE,
    prune: bool = True,
    chunk: int = 2048,
) -> Rank:
    """Count the candidates that a model prefers to a secret (specs: swing, section 9; Carlini et al. 2019, section 4).

    With a ``sample`` it is scored first; where at least ``enough`` of it are better, that is the answer. Else every
    candidate counts: a tree, breadth first, whose branch is dropped as soon as it is less likely than the whole secret
    (log-probabilities only fall), and whose last symbol is read from the logits. A counter, not a list.

    Args:
        prefix: [P] token ids before the secret; at least one.
        secret: [k] token ids, each in ``alphabet``.
        alphabet: [A] different token ids; the space is A**k.
        sample: [m, k] candidates drawn uniformly (``SAMPLED`` of them), the same for all canaries and models.
        prune: False visits every branch, and ``tied`` then counts the whole space.
        chunk: branches per forward pass.

    A tie counts as a leak (only strictly better candidates lower exposure); ``tied`` stands beside it. With pruning a tie
    is counted as well: branches are kept down to the secret's own log-probability minus the tolerance.

    Raises: ValueError for an empty prefix, a symbol outside the alphabet or a repeated one.
    """
    if len(prefix) == 0 or len(secret) == 0:
        raise ValueError("a secret needs a prefix of at least one token and a symbol")
    if len(set(alphabet.tolist())) != len(alphabet) or not set(secret.tolist()) <= set(alphabet.tolist()):
        raise ValueError("the alphabet holds every symbol of the secret, and each symbol once")
    first, past = model.start(prefix)
    own, forwards = _score(model, first, past, secret[None], chunk)
    logprob = float(own[0])
    forwards += len(prefix)
    if sample is not None:
        scores, used = _score(model, first, past, sample, chunk)
        forwards += used
        better = int((scores > logprob + tolerance).sum())
        if better >= enough:
            tied = int(((scores - logprob).abs() <= tolerance).sum())
            return Rank(better, tied, len(sample), "sampled", logprob, forwards)
    better, tied, used = _count(model, first, past, len(secret), alphabet, logprob, tolerance, prune, chunk)
    return Rank(better, tied - 1, len(alphabet) ** len(secret), "exact", logprob, forwards + used)


def _score(model: Causal, first: Tensor, past: Any, secrets: Tensor, chunk: int) -> tuple[Tensor, int]:
    """(log-probability [m] of each of ``secrets`` [m, k] after the prefix, tokens run); equal beginnings are run once."""
    scores = torch.empty(len(secrets), dtype=torch.float64)
    forwards = 0
    for start in range(0, len(secrets), chunk):
        part = secrets[start : start + chunk]
        total = first[part[:, 0]].double()
        state, rows = past, torch.zeros(len(part), dtype=torch.int64)
        for position in range(1, part.shape[1]):
            beginnings, rows_now = torch.unique(part[:, :position], dim=0, return_inverse=True)
            parent = torch.empty(len(beginnings), dtype=torch.int64)
            parent[rows_now] = rows
            logs, state = model.extend(state, parent, beginnings[:, -1])
            forwards += len(beginnings)
            total += logs[rows_now, part[:, position]].double()
            rows = rows_now
        scores[start : start + chunk] = total
    return scores, forwards


def _count(
    model: Causal,
    first: Tensor,
    past: Any,
    length: int,
    alphabet: Tensor,
    bar: float,
    tolerance: float,
    prune: bool,
    chunk: int,
) -> tuple[int, int, int]:
    """(candidates above bar + tolerance, candidates within tolerance of bar, tokens run).

    Breadth first in chunks, the deepest chunk next: what waits is a list of branches, never their keys and values.
    """
    better = tied = forwards = 0
    waiting: list[tuple[int, Any, Tensor | None, Tensor, Tensor]] = [
        (1, past, None, torch.zeros(1, dtype=torch.float64), torch.zeros(0, dtype=torch.int64))
    ]
    while waiting:
        depth, state, parents, totals, symbols = waiting.pop()
        if parents is None:
            logs = first[None]
        else:
            logs, state = model.extend(state, parents, alphabet[symbols])
            forwards += len(symbols)
        scores = totals[:, None] + logs[:, alphabet].double()
        if depth == length:
            better += int((scores > bar + tolerance).sum())
            tied += int(((scores - bar).abs() <= tolerance).sum())
            continue
        kept = torch.nonzero(scores >= bar - tolerance if prune else torch.isfinite(scores))
        for rows in kept.split(chunk) if len(kept) else ():  # an empty split is one empty chunk, which no model takes
            waiting.append((depth + 1, state, rows[:, 0], scores[rows[:, 0], rows[:, 1]], rows[:, 1]))
    return better, tied, forwards


# ----- label canaries ----------------------------------------------------------------------------------------------------
def rank_of_labels(log_probs: npt.ArrayLike, labels: npt.ArrayLike, tolerance: float = TOLERANCE) -> Rank:
    """Exact rank of planted labels among all C**k label strings under a classifier (specs: swing, section 11).

    The score of a string is the sum of log q(y_k | x_k). Half strings are listed, sorted and counted in pairs, so 10**6
    strings take two lists of 10**3.

    Args:
        log_probs: [k, C] log-probabilities of the k canary samples.
        labels: [k] the planted labels.

    Raises: ValueError for shapes that do not fit, NaN, or more than 10**14 strings.
    """
    table = np.asarray(log_probs, dtype=np.float64)
    planted = np.asarray(labels, dtype=np.int64)
    if table.ndim != 2 or planted.shape != (len(table),) or len(table) == 0 or np.isnan(table).any():
        raise ValueError(f"needs log-probabilities [k, C] without NaN and k labels; got {table.shape} and {planted.shape}")
    if float(table.shape[1]) ** len(table) > 1e14:
        raise ValueError(f"{table.shape[1]}**{len(table)} label strings are too many to count")
    own = float(table[np.arange(len(table)), planted].sum())
    half = len(table) // 2
    left, right = _sums(table[:half]), np.sort(_sums(table[half:]))
    above = len(right) - np.searchsorted(right, own + tolerance - left, side="right")
    not_below = len(right) - np.searchsorted(right, own - tolerance - left, side="left")
    space = table.shape[1] ** len(table)
    better = int(above.sum())
    return Rank(better, int(not_below.sum()) - better - 1, space, "exact", own, 0)


def _sums(table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    out = np.zeros(1)
    for row in table:
        out = (out[:, None] + row[None, :]).ravel()
    return out


# ----- cache -------------------------------------------------------------------------------------------------------------
def digest(*arrays: npt.ArrayLike) -> str:
    """Sixteen hex digits over dtypes, shapes and bytes: the part of a cache key that names a model or a set of samples."""
    h = hashlib.sha256()
    for array in arrays:
        value = np.ascontiguousarray(array)
        h.update(f"{value.dtype.str}|{value.shape}|".encode() + value.tobytes())
    return h.hexdigest()[:16]


def cached(folder: Path, key: Sequence[str], compute: Callable[[], Signals]) -> Signals:
    """``compute()``, or what an earlier call with the same ``key`` stored below ``folder``; a damaged file is made again.

    Raises: OSError where the file cannot be written.
    """
    path = folder / f"{hashlib.sha256('|'.join(key).encode()).hexdigest()[:24]}.npz"
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        pass
    found = compute()
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **found)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content.getvalue())
    return found


# ----- shared ------------------------------------------------------------------------------------------------------------
def _reduce(logits: Tensor, target: Tensor) -> Signals:  # [B, V], [B]
    logs = F.log_softmax(logits, dim=1)
    own = logits.gather(1, target[:, None])
    others = logits.scatter(1, target[:, None], -torch.inf)
    p = logs.exp()
    weighted = torch.where(p > 0, p * logs, 0.0)
    mean = weighted.sum(dim=1)
    square = torch.where(p > 0, p * logs**2, 0.0).sum(dim=1)
    phi = own[:, 0] - torch.logsumexp(others, dim=1)
    out = {
        "target_logprob": F.logsigmoid(phi),  # log p without the rounding to 0 that would tie every well-learned row
        "phi": phi,
        "rank": 1 + (others >= own).sum(dim=1),
        "entropy": -mean,
        "logprob_mean": mean,
        "logprob_sd": (square - mean**2).clamp(min=0).sqrt(),
    }
    arrays = {n: v.cpu().numpy() for n, v in out.items()}
    arrays["rank"] = arrays["rank"].astype(np.int32)
    return arrays


def _joined(parts: Sequence[Signals]) -> Signals:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
