"""The swing experiment: one seed's text, canaries, teachers, students and audit (specs: swing, sections 3, 5, 6 and 9).

A teacher learns text with planted secrets; students learn from its soft targets, protected in different ways; every student
is asked for the secrets. Arms of a seed share rows, order, initial weights and canaries and differ in their ``Lesson`` alone.
Swing distillation (arXiv 2212.08349) is reconstructed here from its abstract; set-up and every number are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedkd import canary, distill, keyed_noise, plugins, rng, signals, soft_targets
from fedkd.attacks.exposure import exposure_exact
from fedkd.config import parse_args
from fedkd.distill import Lesson, Rows
from fedkd.errors import ConfigError
from fedkd.language import Cached, build, pretrained
from fedkd.losses import swing as swing_loss
from fedkd.swing_arms import ARMS
from fedkd.swing_formal import statement
from fedkd.swing_plan import KD_WEIGHT, Net, Task
from fedkd.swing_text import Material, Record, Set

IMPOSSIBLE = -1e4
"""A logit whose probability is 0, and whose product with it is no NaN."""
FLOOR = 1e-9
"""Smallest probability of a protected target, so that its logarithm is finite."""
MOST_BYTES = 4 * 2**30
"""Largest cache of a teacher's logits in one worker."""
PROBES = 200
"""Secrets that nobody planted, for what is left of the type."""


class Bench(Material):
    """One seed of a study. Nothing is trained until it is asked for.

    Raises: as :class:`Material`.
    """

    def fresh_model(self, net: Net, purpose: str) -> PreTrainedModel:
        """An untrained model; the same weights for every arm of a seed."""
        if not net.folder:
            size = net.size(self.tokens.vocabulary, self.plan.text.width + 1)
            return build(size, rng.key(self.seed, f"swing {purpose}") & (2**31 - 1))
        model = pretrained(net.folder)
        context = int(getattr(model.config, "max_position_embeddings", 2**31))
        if context < self.plan.text.width:
            raise ConfigError(f"{net.folder} reads {context} tokens; text.width = {self.plan.text.width} is more")
        if int(model.config.vocab_size) < self.tokens.vocabulary:
            raise ConfigError(f"{net.folder} has {model.config.vocab_size} tokens, its tokenizer {self.tokens.vocabulary}")
        return model

    def train_teacher(self, kind: Set, said: Callable[[int, int], None] = lambda a, b: None) -> PreTrainedModel:
        """One of TEACHERS."""
        model = self.fresh_model(self.plan.teacher, "teacher")
        rows = self.rows(self.records(kind))
        order = rng.key(self.seed, kind) & (2**31 - 1)
        distill.train(model, rows, Lesson.text(rows), self.plan.teacher.training, order, said=said)
        return model

    def lesson(
        self, task: Task, rows: Rows, records: Sequence[Record], teacher: Callable[[str], PreTrainedModel]
    ) -> tuple[Lesson, dict[str, Any]]:
        """What the arm's student learns, and facts about the protection (charges, detector recall and precision)."""
        arm, weight = ARMS[task.arm], KD_WEIGHT[task.regime]
        likelihood = self.likelihood(records, arm.oracle, arm.missed)
        private = (likelihood >= self.plan.protection.theta) & rows.real
        known = (self.likelihood(records, True) > 0) & rows.real
        facts: dict[str, Any] = {"private_tokens": int(private.sum())}
        if int(known.sum()):
            facts["recall"] = float((private & known).sum() / known.sum())
            facts["precision"] = float((private & known).sum() / private.sum()) if int(private.sum()) else None
        ones = torch.ones(rows.real.shape)
        if arm.source == "none":
            return Lesson(ones, 0 * ones), facts
        hard, soft = (1 - weight) * ones, weight * ones
        if arm.masked:
            hard, soft = torch.where(private, 0.0, hard), torch.where(private, 1.0, soft)
        elif weight < 1 and arm.changes is not None and int(private.sum()):
            facts["warning"] = (
                f"hard labels of {int(private.sum())} private tokens are trained on: the defence is void for them"
            )
        source = teacher("control" if arm.source == "control" else "private")
        size = 4 * int(source.config.vocab_size) * rows.real.numel()
        if size > MOST_BYTES:
            raise ConfigError(
                f"the teacher's logits on {len(rows)} rows take {size / 2**30:.1f} GiB, {MOST_BYTES / 2**30:.0f} are allowed; "
                "lower text.rows, text.width or the canaries' counts, or take a model with fewer tokens"
            )
        logits = distill.teacher_logits(source, rows)
        temperature = None
        if arm.source == "nothing":
            soft = torch.where(private, 0.0, soft)
        elif arm.source in ("type", "prior"):  # what is private and of another type has no type here: it is redacted
            typed = private & torch.isin(rows.tokens[:, 1:], self.alphabet)
            logits[typed] = self._typed(rows, typed, logits.shape[2], arm.source == "prior")
            soft = torch.where(private & ~typed, 0.0, soft)
        elif arm.source == "public":
            logits[private] = distill.teacher_logits(teacher("public"), rows)[private]
        elif arm.changes is not None:
            protection = replace(self.plan.protection, **dict(arm.changes))
            logits, temperature, scale, charges = self._protected(protection, logits, likelihood, rows)
            soft, facts["charges"] = soft * scale, charges
            if protection.formal:
                facts["formal"] = asdict(statement(protection, charges, logits.shape[2]))
            if task.arm == "swing":
                facts["token_map"] = self._token_map(protection, records, likelihood)
        return Lesson(hard, soft, logits, temperature), facts

    def _protected(
        self, protection: swing_loss.Config, logits: Tensor, likelihood: Tensor, rows: Rows
    ) -> tuple[Tensor, Tensor | None, Tensor, int]:
        """Protected targets as logits, the student's temperature, the loss's factor, and the number of charged releases.

        Positions that the protection leaves alone keep the teacher's logits bit for bit.
        """
        keys = self._keys(protection, rows)
        if protection.noise_key == "content":  # one query has one release, whatever label follows it
            likelihood = torch.from_numpy(keyed_noise.shared_likelihood(keys, likelihood.numpy()))
        hot = soft_targets.temperature(protection, likelihood)
        noised = soft_targets.noised(protection, likelihood)
        touched = rows.real & ((hot != 1) | noised)
        if protection.logit_range or protection.top_k:
            touched = rows.real
        noise = None
        if protection.noisy:
            law: Literal["laplace", "gaussian"] = "gaussian" if protection.noise == "gaussian" else "laplace"
            noise = torch.from_numpy(keyed_noise.unit_noise(law, keys[touched.numpy()], logits.shape[2]))
        q = soft_targets.protect(protection, logits[touched], likelihood[touched], noise)
        logits[touched] = soft_targets.as_logits(q, FLOOR)
        both = protection.temperature_side == "both"
        scale = hot.square() if protection.temperature_squared else torch.ones_like(hot)
        return logits, hot if both else None, scale, keyed_noise.charges(keys, (noised & rows.real).numpy())

    def _token_map(self, protection: swing_loss.Config, records: Sequence[Record], likelihood: Tensor) -> list[dict[str, Any]]:
        """Likelihood, temperature and noise per token of the first planted record; private characters are masked."""
        row = next((i for i, r in enumerate(records) if r.secret is not None), None)
        if row is None:
            return []
        text, (first, last) = records[row].text, records[row].secret or (0, 0)
        own = likelihood[row]
        ids, offsets = self.tokens.encode_with_offsets(text)
        hot, noised = soft_targets.temperature(protection, own), soft_targets.noised(protection, own)
        scale = protection.noise_scale
        if scale is None:
            scale = 2.0 / protection.epsilon if protection.epsilon else 0.0
        found = []
        for place in range(min(len(ids), len(own))):
            start, end = offsets[place]
            if start >= text.index("\n"):  # what follows the planted line is the corpus, which may be personal
                break
            hidden = float(own[place]) >= protection.theta or (start < last and first < end)
            found.append({
                "token": "#" * (end - start) if hidden else text[start:end],
                "likelihood": float(own[place]), "temperature": float(hot[place]),
                "noise": float(scale) if bool(noised[place]) else 0.0,
            })  # fmt: skip
        return found

    def _keys(self, protection: swing_loss.Config, rows: Rows) -> npt.NDArray[np.uint64]:
        """[N, L] keys of the noise; the teacher's name keeps two teachers apart."""
        secret = rng.key(self.seed, "swing noise")
        if protection.noise_key == "content":
            return keyed_noise.content_keys(rows.tokens.numpy(), secret)
        return keyed_noise.row_keys(np.arange(len(rows)), rows.tokens.shape[1] - 1, secret)

    def _typed(self, rows: Rows, private: Tensor, vocabulary: int, prior: bool) -> Tensor:
        """Logits [M, V] of a target over the secret's alphabet alone: uniform, or by its unigram frequencies in the rows."""
        alphabet = self.alphabet
        counts = torch.ones(len(alphabet))
        if prior:
            labels = rows.tokens[:, 1:][private]
            counts = counts + (labels[:, None] == alphabet[None, :]).sum(dim=0)
        logits = torch.full((int(private.sum()), vocabulary), IMPOSSIBLE)
        logits[:, alphabet] = (counts / counts.sum()).log()
        return logits

    def logit_gaps(self, model: PreTrainedModel) -> dict[str, float]:
        """Per number of copies, the teacher's logit of a secret's symbol minus the mean of its alternatives, on its own rows.

        A temperature of at least twice the largest is what flattens them (specs: swing, section 1).
        """
        copies = [c for c in self.canaries.canaries for _ in range(c.repetitions)]
        records = self.planted(fresh=False)[: len(copies)]
        rows = self.rows(records)
        known, alphabet = self.likelihood(records, oracle=True) > 0, self.alphabet
        logits = distill.teacher_logits(model, rows)
        found: dict[str, list[float]] = {}
        for row, c in enumerate(copies):
            own, labels = logits[row][known[row]], rows.tokens[row, 1:][known[row]]
            true = own.gather(1, labels[:, None])[:, 0]
            others = (own[:, alphabet].sum(dim=1) - true) / (len(alphabet) - 1)
            found.setdefault(str(c.repetitions), []).append(float((true - others).mean()))
        return {n: float(np.mean(values)) for n, values in found.items()}

    def student(self, task: Task, teacher: Callable[[str], PreTrainedModel]) -> dict[str, Any]:
        """Train one student and ask it for the secrets; the content of its result file."""
        records = self.transfer(task.regime, ARMS[task.arm].source)
        rows = self.rows(records)
        lesson, facts = self.lesson(task, rows, records, teacher)
        model = self.fresh_model(self.plan.student, "student")
        if lesson.teacher is not None and lesson.teacher.shape[2] != int(model.config.vocab_size):
            sizes = f"{lesson.teacher.shape[2]} tokens and the student {model.config.vocab_size}"
            raise ConfigError(f"vocabularies differ: the teacher predicts {sizes}; use models of one family")
        net = replace(self.plan.student, epochs=self.plan.student.epochs * task.factor)
        name, args = ARMS[task.arm].divergence or (self.plan.divergence, self.plan.divergence_args)
        module = plugins.find("losses", name)
        config = parse_args(args, module.Config, "divergence_args")

        def divergence(student: Tensor, target: Tensor) -> Tensor:
            each: Tensor = module.loss(config, student, target, None)
            return each

        distill.train(model, rows, lesson, net.training, rng.key(self.seed, "student order") & (2**31 - 1), divergence)
        return {"schema": 1, "seed": task.seed, "regime": task.regime, "arm": task.arm, "factor": task.factor,
                "steps": net.training.steps(len(rows)), **facts, **self.audit(model)}  # fmt: skip

    # ----- audit ---------------------------------------------------------------------------------------------------------
    def audit(self, model: PreTrainedModel) -> dict[str, Any]:
        """Exposure and greedy extraction of every canary, perplexity on other text, and what is left of the secrets' type."""
        cached, alphabet = Cached(model), self.alphabet
        draw = rng.experiment(self.seed, "swing candidates").integers(
            len(alphabet), size=(signals.SAMPLED, self.plan.canaries.length)
        )
        sample = alphabet[torch.from_numpy(draw)]
        found = []
        for c in self.canaries.canaries:
            prefix = self.prefix(c.name)
            secret = torch.tensor(self.tokens.encode(c.secret))
            rank = signals.rank_of_secret(cached, prefix, secret, alphabet, sample=sample)
            bits = (
                float(exposure_exact(rank.better + 1, rank.candidates))
                if rank.estimator == "exact"
                else math.log2(rank.candidates) - math.log2(rank.better)
            )
            found.append({
                "id": c.id, "copies": c.repetitions, "bits": bits, "estimator": rank.estimator, "tied": rank.tied,
                "logprob": rank.logprob, "greedy": _greedy(cached, prefix, len(secret)) == secret.tolist(),
            })  # fmt: skip
        never = [self.prefix(c.name) for c in self.canaries.canaries if c.repetitions == 0]
        mass = [float(cached.start(p)[0][alphabet].exp().sum()) for p in never]
        return {
            "canaries": found,
            "perplexity": distill.perplexity(model, self.rows(self.validation)),
            "type_mass": float(np.mean(mass)) if mass else None,
            "type_nll": self._type_nll(model),
        }

    def _type_nll(self, model: PreTrainedModel) -> float:
        """Mean negative log-likelihood (nats) per symbol of secrets that nobody planted, after names that nobody used."""
        space = len(self.plan.canaries.alphabet) ** self.plan.canaries.length
        others = canary.draw(
            replace(self.plan.canaries, repetitions=(0,), per_count=min(PROBES, space), decoys=0, references=0),
            rng.experiment(self.seed, "swing probes"),
        )
        rows = self.rows([Record(c.text) for c in others.canaries])
        values = distill.losses(model, rows)
        total = []
        for row, c in enumerate(others.canaries):
            first = len(self.prefix(c.name)) - 1
            total.append(values[row, first : first + len(self.tokens.encode(c.secret))].mean())
        return float(torch.stack(total).mean())


def _greedy(model: Cached, prefix: Tensor, length: int) -> list[int]:
    """The likeliest next tokens, one after the other."""
    logs, past = model.start(prefix)
    found = [int(logs.argmax())]
    for _ in range(length - 1):
        rows, past = model.extend(past, torch.zeros(1, dtype=torch.int64), torch.tensor(found[-1:]))
        found.append(int(rows[0].argmax()))
    return found
