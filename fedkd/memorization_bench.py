"""One teacher of a memorization study: its bases, the teacher, students of every arm, and what each remembers.

Borkar et al. 2026, arXiv 2601.15394, at a scale of minutes (specs: memorization, sections 1, 2, 4 and 12). Arms of a seed share
rows, order and initial weights and differ in their ``Lesson`` or their transfer set alone.
"""

from __future__ import annotations

import inspect
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from fedkd import distill, rng, signals
from fedkd.attacks.extraction import edit_distance
from fedkd.distill import Divergence, Lesson, Rows, Training
from fedkd.errors import RunError
from fedkd.language import build, logits_of
from fedkd.losses import kl
from fedkd.memorization_plan import ARMS, Arm, Task, training_of
from fedkd.memorization_text import Material
from fedkd.swing_plan import Net

Arrays = dict[str, npt.NDArray[Any]]
CHUNK = 64
"""rows of a forward pass"""
GLANCE = 100
"""held-out rows of each stratum that an epoch's loss is read on"""
NEAR = 1e-3
"""top-two logit gap below which generation and the one-pass rule may disagree (specs: memorization, section 2)"""


@dataclass(frozen=True)
class Found:
    """What one model's file holds."""

    facts: dict[str, Any]
    """numbers about the training and the held-out rows"""
    arrays: Arrays
    """per passage"""


class Bench(Material):
    """One teacher's part of a study. Nothing is trained until it is asked for.

    Raises: as :class:`Material`.
    """

    def base(self, net: Net, rate: float, purpose: str) -> PreTrainedModel:
        """An untrained model after one epoch on the pool."""
        size = net.size(self.tokens.vocabulary, self.plan.text.width + 1)
        model = build(size, self._seed(f"memorization {purpose}"))
        training = replace(training_of(net), epochs=1, learning_rate=rate)
        distill.train(model, self.pool, Lesson.text(self.pool), training, self._seed(f"memorization {purpose} pool"))
        return model

    def train_teacher(self, model: PreTrainedModel) -> tuple[Found, Found | None, dict[str, Tensor] | None]:
        """Train the large base in place: the teacher, and the epoch that decision 18 chooses (None: no epoch memorizes enough).

        Returns the teacher's file, the chosen epoch's file and its weights; ``model`` ends as the teacher.
        """
        which = self.passages.epoch()
        rows = _picked(self.passages.rows.tokens, which)
        training, started = training_of(self.plan.teacher), time.monotonic()
        states: list[dict[str, Tensor]] = []

        def keep(epoch: int) -> None:
            states.append({n: v.detach().clone() for n, v in model.state_dict().items()})

        epochs = self._train(model, rows, Lesson.text(rows), training, self._seed("memorization teacher"), None, keep)
        chosen = chosen_epoch(epochs["loss"], epochs["hits"], self.plan.floor)
        shared = {"steps": training.steps(len(rows)), "rows": len(rows), "seconds": time.monotonic() - started}
        full = self.measure(model, epochs, {"model": "teacher", "chosen_epoch": chosen, **shared})
        if chosen is None:
            return full, None, None
        model.load_state_dict(states[chosen - 1])
        stopped = self.measure(model, {}, {"model": "teacher_stopped", "epoch": chosen, **shared})
        model.load_state_dict(states[-1])
        return full, stopped, states[chosen - 1]

    def student(
        self,
        task: Task,
        fresh: PreTrainedModel,  # the arm's base, trained in place
        teacher: PreTrainedModel | None,  # None for lessons of text alone
        kept: npt.NDArray[np.bool_] | None = None,  # [N] passages of a filtered or random transfer set
    ) -> Found:
        """Train one student and look at what it remembers.

        Raises: RunError where the arm needs a teacher or a filter that is not given.
        """
        arm = ARMS[task.arm]
        net = self.plan.scout if arm.net == "scout" else self.plan.student
        training, started = training_of(net), time.monotonic()
        unique, shared = self._transfer(arm)
        which = self.passages.epoch(None if kept is None else np.flatnonzero(kept))
        if arm.transfer in ("filtered", "random") and kept is None:
            raise RunError(f"arm {task.arm} needs the passages that the predictor leaves")
        facts: dict[str, Any] = {"model": task.arm, "teacher": task.teacher, "seed": task.seed}
        if arm.lesson == "hard":
            assert teacher is not None
            generated = greedy(teacher, unique[:, : self._prefix], self.plan.text.suffix)
            forced = greedy(teacher, unique[:, : self._prefix], self.plan.text.suffix, (self.tokens.bos,))
            facts["forced"] = int((forced != generated).any(dim=1).sum())
            unique = torch.cat([unique[:, : self._prefix], forced], dim=1)
        rows = _picked(unique, which)
        lesson, divergence = self._lesson(arm, rows, unique, which, teacher)
        order = rng.key(self.teacher, "memorization order", round=task.seed) & (2**31 - 1)
        epochs = self._train(fresh, rows, lesson, training, order, divergence)
        facts |= {"steps": training.steps(len(rows)), "rows": len(rows), "seconds": time.monotonic() - started}
        found = self.measure(fresh, epochs, facts)
        found.arrays["in_transfer"] = shared & (np.ones(len(self.passages), np.bool_) if kept is None else kept)
        if task.arm == "baseline" and teacher is not None:
            found.arrays["kld"], found.arrays["kld_reverse"] = divergences(teacher, fresh, self.passages.rows)
        return found

    # ----- lessons -------------------------------------------------------------------------------------------------------
    def _transfer(self, arm: Arm) -> tuple[Tensor, npt.NDArray[np.bool_]]:
        """Rows [N, L + 1] of the arm's transfer set, and which of the teacher's passages are in it [N]."""
        own, others = self.passages.rows.tokens, self.others.rows.tokens
        shared = np.ones(len(own), np.bool_)
        if arm.transfer == "disjoint":
            return others, ~shared
        if arm.transfer == "overlap":  # every second passage of each stratum and number of copies
            groups: dict[tuple[int, str], int] = {}
            for i, key in enumerate(zip(self.passages.copies.tolist(), self.passages.stratum, strict=True)):
                groups[key] = groups.get(key, 0) + 1
                shared[i] = groups[key] % 2 == 1
            return torch.where(torch.from_numpy(shared)[:, None], own, others), shared
        return own, shared

    def _lesson(
        self, arm: Arm, rows: Rows, unique: Tensor, which: Tensor, teacher: PreTrainedModel | None
    ) -> tuple[Lesson, Divergence | None]:
        if arm.lesson in ("text", "hard"):
            return Lesson.text(rows), None
        ones = torch.ones(rows.real.shape)
        if arm.lesson == "smoothed":  # (1 - e) CE + e KL(uniform || q) has the gradient of cross-entropy with smoothing e
            uniform = torch.zeros((), dtype=torch.float16).expand(*ones.shape, self.tokens.vocabulary)
            share = self.plan.smoothing
            return Lesson(ones * (1 - share), ones * share, uniform), _forward_kl(1.0)
        assert teacher is not None
        logits = distill.teacher_logits(teacher, _picked(unique, torch.arange(len(unique)))).half()
        weight = self.plan.kd_weight if arm.kd_weight is None else arm.kd_weight
        return Lesson(ones * (1 - weight), ones * weight, logits[which]), _forward_kl(arm.temperature or self.plan.temperature)

    def _train(
        self,
        model: PreTrainedModel,
        rows: Rows,
        lesson: Lesson,
        training: Training,
        seed: int,
        divergence: Divergence | None,
        keep: Callable[[int], None] = lambda epoch: None,
    ) -> Arrays:
        """Train, and glance at passages and held-out rows after each epoch: ``hits`` and ``log_pz`` [E, N], ``loss`` [E]."""
        each = max(1, training.steps(len(rows)) // max(1, training.epochs))
        seen: list[Arrays] = []
        held = self._glanced()

        def said(step: int, of: int) -> None:
            if step % each == 0:
                model.eval()
                now = glance(model, self.passages.rows.tokens, self._prefix)
                loss = glance(model, held, self._prefix)["nll"].mean()
                seen.append({"hits": now["hits"], "log_pz": now["log_pz"], "loss": loss})
                keep(step // each)
                model.train()

        distill.train(model, rows, lesson, training, seed, divergence, said)
        return {name: np.stack([s[name] for s in seen]) for name in ("hits", "log_pz", "loss")} if seen else {}

    def _glanced(self) -> Tensor:
        each = min(GLANCE, self.plan.text.held_out)
        start = [i * self.plan.text.held_out for i in range(len(self.plan.text.strata))]
        return torch.cat([self.held_out.tokens[s : s + each] for s in start])

    # ----- what a model remembers ----------------------------------------------------------------------------------------
    def measure(self, model: PreTrainedModel, epochs: Mapping[str, Any], facts: dict[str, Any]) -> Found:
        """Every number about one model: the passages, the held-out rows, and real generation beside the one-pass rule."""
        arrays = recall(model, self.passages.rows.tokens, self._prefix)
        held = recall(model, self.held_out.tokens, self._prefix)
        arrays |= {f"held_{name}": value for name, value in held.items()}
        arrays |= {f"epoch_{name}": np.asarray(value) for name, value in epochs.items()}
        strata = np.array(self.held_out_stratum)
        facts |= {
            "held_out_loss": float(held["nll"].mean()),
            "held_out_by_stratum": {s: float(held["nll"][strata == s].mean()) for s in self.plan.text.strata},
            "glance_loss": float(glance(model, self._glanced(), self._prefix)["nll"].mean()),
            "prose_perplexity": distill.perplexity(model, self.held_out_prose),
            "rule": agreement(model, self.passages.rows.tokens, self._prefix, arrays),
            "memorized": int(arrays["hits"].sum()),
        }
        return Found(facts, arrays)

    def described(self) -> Arrays:
        """What is known of the passages without a model."""
        texts = [self.tokens.decode(row) for row in self.passages.rows.tokens.tolist()]
        ends = [self.tokens.decode(row) for row in self.passages.rows.tokens[:, self._prefix :].tolist()]
        return {
            "copies": self.passages.copies, "cluster": self.passages.cluster, "id": np.array(self.passages.ids),
            "stratum": np.array(self.passages.stratum), "held_stratum": np.array(self.held_out_stratum),
            "zlib_entropy": np.array([len(zlib.compress(t.encode())) for t in texts]),
            "zlib_suffix": np.array([len(zlib.compress(t.encode())) for t in ends]),
        }  # fmt: skip

    @property
    def _prefix(self) -> int:
        return self.plan.text.prefix + 1  # the first token comes before it

    def _seed(self, purpose: str) -> int:
        return rng.key(self.teacher, purpose) & (2**31 - 1)


def chosen_epoch(loss: npt.NDArray[Any], hits: npt.NDArray[Any], floor: float) -> int | None:
    """The epoch (from 1) with the least held-out loss among those that memorize at least ``floor`` of the passages."""
    enough = np.flatnonzero(hits.mean(axis=1) >= floor)
    return int(enough[np.argmin(loss[enough])]) + 1 if len(enough) else None


@torch.inference_mode()
def glance(model: PreTrainedModel, tokens: Tensor, prefix: int) -> Arrays:
    """The one-pass rule, log p_z and the mean loss of whole rows, each [N]; ``prefix`` counts the first token."""
    parts: list[Arrays] = []
    for rows in tokens.split(CHUNK):
        logits = model(rows[:, :-1], use_cache=False).logits.float()
        target = rows[:, 1:]
        own = logits.gather(2, target[..., None])
        losses = torch.logsumexp(logits, dim=2) - own[..., 0]
        first = (logits[:, prefix - 1 :] >= own[:, prefix - 1 :]).sum(dim=2) == 1  # a tie counts as not memorized
        parts.append({
            "hits": first.all(dim=1).numpy(),
            "log_pz": -losses[:, prefix - 1 :].double().sum(dim=1).numpy(),
            "nll": losses.mean(dim=1).numpy(),
        })  # fmt: skip
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def recall(model: PreTrainedModel, tokens: Tensor, prefix: int) -> Arrays:
    """From one forward pass and one generation: ``hits``, ``rank`` (largest of the suffix), ``log_pz``, ``entropy`` (mean over
    the suffix, nats), ``nll`` (mean over the row) and ``distance`` (edit distance over the suffix's length), each [N]."""
    found = signals.language(logits_of(model), tokens, chunk=CHUNK)
    ranks = found["rank"][:, prefix - 1 :]
    generated = greedy(model, tokens[:, :prefix], tokens.shape[1] - prefix).numpy()
    true = tokens[:, prefix:].numpy()
    return {
        "hits": (ranks == 1).all(axis=1),
        "rank": ranks.max(axis=1),
        "log_pz": np.minimum(0.0, found["target_logprob"][:, prefix - 1 :].astype(np.float64).sum(axis=1)),
        "entropy": found["entropy"][:, prefix - 1 :].mean(axis=1),
        "nll": -found["target_logprob"].astype(np.float64).mean(axis=1),
        "distance": edit_distance(generated, true) / true.shape[1],
        "generated": (generated == true).all(axis=1),
    }


@torch.inference_mode()
def greedy(model: PreTrainedModel, prefix: Tensor, length: int, forbidden: tuple[int, ...] = ()) -> Tensor:
    """prefix [N, P] -> the ``length`` likeliest next tokens, one after the other, with keys and values kept: [N, length]."""
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    parts = []
    for rows in prefix.split(4 * CHUNK):
        now, kept, made = rows, None, []
        for _ in range(length):
            out = model(now, use_cache=True, **({name: kept} if kept is not None else {}))
            kept, logits = getattr(out, name), out.logits[:, -1].float()
            if forbidden:
                logits[:, list(forbidden)] = -torch.inf
            now = logits.argmax(dim=1, keepdim=True)
            made.append(now)
        parts.append(torch.cat(made, dim=1))
    return torch.cat(parts)


def agreement(model: PreTrainedModel, tokens: Tensor, prefix: int, arrays: Arrays) -> dict[str, int]:
    """The one-pass rule against real generation: passages, disagreements, and those without a near tie to explain them."""
    wrong = np.flatnonzero(arrays["hits"] != arrays["generated"])
    near = 0
    for i in wrong:
        with torch.inference_mode():
            top = model(tokens[i : i + 1, :-1], use_cache=False).logits[0, prefix - 1 :].float().topk(2).values
        near += bool((top[:, 0] - top[:, 1]).min() < NEAR)
    return {"passages": len(tokens), "disagree": len(wrong), "unexplained": len(wrong) - near}


@torch.inference_mode()
def divergences(teacher: PreTrainedModel, baseline: PreTrainedModel, rows: Rows) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """KL(T || B) and KL(B || T) at temperature 1, mean over the predicted tokens, each [N] nats (decision 6)."""
    both = []
    for tokens in rows.tokens.split(CHUNK):
        p, q = (F.log_softmax(m(tokens[:, :-1], use_cache=False).logits.float(), dim=2) for m in (teacher, baseline))
        both.append(((p.exp() * (p - q)).sum(dim=2).mean(dim=1), (q.exp() * (q - p)).sum(dim=2).mean(dim=1)))
    return torch.cat([a for a, _ in both]).numpy(), torch.cat([b for _, b in both]).numpy()


def _forward_kl(temperature: float) -> Divergence:
    config = kl.Config(temperature=temperature)
    return lambda student, target: kl.loss(config, student, target, None)


def _picked(tokens: Tensor, which: Tensor) -> Rows:
    return Rows(tokens[which], torch.full((len(which),), tokens.shape[1], dtype=torch.int64))
