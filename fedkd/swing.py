"""The swing experiment: one seed's text, canaries, teachers, students and audit (specs: swing, sections 3, 5, 6 and 9).

A teacher learns text with planted secrets; students learn from its soft targets, protected in different ways; every student
is asked for the secrets. Arms of a seed share rows, order, initial weights and canaries and differ in their ``Lesson`` alone.
Swing distillation (arXiv 2212.08349) is reconstructed here from its abstract; set-up and every number are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedkd import canary, corpus, distill, keyed_noise, plugins, rng, signals, soft_targets, tokens
from fedkd.attacks.exposure import exposure_exact
from fedkd.config import parse_args
from fedkd.distill import Lesson, Rows
from fedkd.errors import ConfigError
from fedkd.language import Cached, build
from fedkd.losses import swing as swing_loss
from fedkd.spans import Span, to_tokens
from fedkd.swing_plan import ARMS, KD_WEIGHT, Net, Plan, Regime, Task

IMPOSSIBLE = -1e4
"""A logit whose probability is 0, and whose product with it is no NaN."""
FLOOR = 1e-9
"""Smallest probability of a protected target, so that its logarithm is finite."""
PROBES = 200
"""Secrets that nobody planted, for what is left of the type."""

Set = Literal["private", "control", "public", "fresh", "text"]
"""Rows of a teacher (the first three), or of a transfer set."""


@dataclass(frozen=True)
class Record:
    """One row before it is tokenised: its text and where its planted secret stands."""

    text: str
    secret: tuple[int, int] | None = None
    """character offsets of the secret, for the oracle and for recall"""


class Bench:
    """One seed of a study: everything that its arms share. Nothing is trained until it is asked for.

    Raises: ConfigError for a text too small, a canary longer than a row or whose symbols are not one token each, or a canary
        name that occurs in the text; DataError for missing files.
    """

    def __init__(self, plan: Plan, seed: int) -> None:
        self.plan, self.seed = plan, seed
        module = plugins.find("texts", plan.text.name)
        texts = module.load(parse_args(plan.text.args, module.Config, "text.args"), plan.text.root)
        self.canaries = canary.draw(plan.canaries, rng.experiment(seed, "swing canaries"))
        copies = sum(c.repetitions for c in self.canaries.canaries)
        t = plan.text
        # an alphabet read from personal texts would tell what they hold
        self.tokens = tokens.characters(tokens.ASCII if module.SPEC.personal else tokens.alphabet_of(texts.texts))
        wanted = {"validation": t.validation, "public": t.rows, "text": t.rows + 2 * copies}
        rows = self._chosen(texts.texts, texts.groups, wanted)
        self.validation = [Record(r) for r in rows["validation"]]
        self.public_text = [Record(r) for r in rows["public"]]
        self.text = [Record(r) for r in rows["text"][: t.rows]]
        self.fills = rows["text"][t.rows : t.rows + copies]
        self.replaced = [Record(r) for r in rows["text"][t.rows + copies :]]
        self._check(rows)

    def _chosen(self, texts: Sequence[str], groups: Sequence[str], wanted: dict[str, int]) -> dict[str, list[str]]:
        """Disjoint rows for each purpose, from disjoint groups (plays, senders); the last purpose takes what is left."""
        stream = rng.experiment(self.seed, "swing text")
        by_group: dict[str, list[str]] = {}
        for text, group in zip(texts, groups, strict=True):
            if len(text) >= self.plan.text.width:
                by_group.setdefault(group, []).append(text)
        names = sorted(by_group)
        order = iter([names[i] for i in stream.permutation(len(names))])
        found: dict[str, list[str]] = {}
        for purpose, count in wanted.items():
            pool: list[str] = []
            last = purpose == list(wanted)[-1]
            while last or len(pool) < count:
                group_name = next(order, None)
                if group_name is None:
                    break
                pool += by_group[group_name]
            if len(pool) < count:
                raise ConfigError(
                    f"{self.plan.text.name} has too few rows of {self.plan.text.width} tokens for {purpose}: {count} are "
                    f"needed, {len(pool)} are left; lower text.rows, text.validation or the canaries' counts"
                )
            found[purpose] = [pool[i] for i in stream.choice(len(pool), count, replace=False)]
        return found

    def _check(self, rows: dict[str, list[str]]) -> None:
        """Canaries fit a row, their symbols are one token each, and their names occur nowhere else."""
        for c in self.canaries.canaries:
            ids, secret = self.tokens.encode(c.text), self.tokens.encode(c.secret)
            if len(ids) > self.plan.text.width:
                raise ConfigError(f"a canary has {len(ids)} tokens; text.width = {self.plan.text.width} is too short for it")
            if len(secret) != len(c.secret):
                raise ConfigError("each symbol of a secret must be one token of its own (BPE merges bias exposure)")
        whole = "\x00".join(text for part in rows.values() for text in part)
        taken = next((c.name for c in self.canaries.canaries if c.name in whole), None)
        if taken is not None:
            raise ConfigError(f"the canary name {taken!r} occurs in the text; use another seed or template")

    # ----- rows ----------------------------------------------------------------------------------------------------------
    def planted(self, fresh: bool) -> list[Record]:
        """Every copy and decoy; ``fresh``: random digits in each, which no teacher has seen."""
        stream = rng.experiment(self.seed, "swing fresh digits")
        fills = iter(self.fills)
        found: list[Record] = []
        lines = [(c.text, c.secret) for c in self.canaries.canaries for _ in range(c.repetitions)]
        lines += [(text, "") for text in self.canaries.decoys]
        for text, secret in lines:
            digits = secret or next(iter(_runs(text, self.plan.canaries.alphabet)))
            start = text.rindex(digits)
            if fresh:
                drawn = stream.integers(len(self.plan.canaries.alphabet), size=len(digits))
                new = "".join(self.plan.canaries.alphabet[i] for i in drawn)
                text = text[:start] + new + text[start + len(digits) :]
            fill = next(fills, None) if secret else None
            found.append(
                Record(
                    text + "\n" + (fill or self.public_text[len(found) % len(self.public_text)].text),
                    (start, start + len(digits)),
                )
            )
        return found

    def records(self, of: Set) -> list[Record]:
        """The rows of a teacher, or of a transfer set."""
        copies = sum(c.repetitions for c in self.canaries.canaries)
        planted = self.planted(fresh=of == "fresh")
        decoys = planted[copies:]
        if of == "public":
            return [*self.public_text, *decoys]
        middle = {"private": planted[:copies], "fresh": planted[:copies], "control": self.replaced, "text": self.replaced}[of]
        return [*self.text, *middle, *([] if of == "text" else decoys)]

    def rows(self, records: Sequence[Record]) -> Rows:
        """Token rows: the first token, then at most ``width`` tokens of each record."""
        found = corpus.rows([r.text for r in records], self.tokens, self.plan.text.width, cut=False)
        return Rows(torch.from_numpy(found.tokens), torch.from_numpy(found.lengths))

    def transfer(self, regime: Regime, source: str) -> list[Record]:
        """What students of a regime learn on; in R1 the control's students see no canary either (their labels would leak)."""
        if regime == "R1":
            return self.records("control" if source == "control" else "private")
        return self.records("fresh" if regime == "R2" else "text")

    def likelihood(self, records: Sequence[Record], oracle: bool) -> Tensor:
        """[N, width] float32: how likely the token that each position predicts is private; whole records are scored."""
        if oracle:
            spans = [[] if r.secret is None else [Span(*r.secret, "digits", 1.0)] for r in records]
        else:
            module = plugins.find("sensitivity", self.plan.sensitivity)
            config = parse_args(self.plan.sensitivity_args, module.Config, "sensitivity_args")
            spans = module.find(config, [r.text for r in records])
        found = torch.zeros(len(records), self.plan.text.width)
        for row, (record, own) in enumerate(zip(records, spans, strict=True)):
            if own:
                values = to_tokens(own, self.tokens.encode_with_offsets(record.text)[1])[: self.plan.text.width]
                found[row, : len(values)] = torch.as_tensor(values)
        return found

    # ----- models --------------------------------------------------------------------------------------------------------
    def fresh_model(self, net: Net, purpose: str) -> PreTrainedModel:
        """An untrained model; the same weights for every arm of a seed."""
        size = net.size(self.tokens.vocabulary, self.plan.text.width + 1)
        return build(size, rng.key(self.seed, f"swing {purpose}") & (2**31 - 1))

    def train_teacher(self, kind: Set, said: Callable[[int, int], None] = lambda a, b: None) -> PreTrainedModel:
        """One of TEACHERS."""
        model = self.fresh_model(self.plan.teacher, "teacher")
        rows = self.rows(self.records(kind))
        distill.train(
            model, rows, Lesson.text(rows), self.plan.teacher.training, rng.key(self.seed, kind) & (2**31 - 1), said=said
        )
        return model

    def lesson(
        self, task: Task, rows: Rows, records: Sequence[Record], teacher: Callable[[str], PreTrainedModel]
    ) -> tuple[Lesson, dict[str, Any]]:
        """What the arm's student learns, and facts about the protection (charges, detector recall and precision)."""
        arm, weight = ARMS[task.arm], KD_WEIGHT[task.regime]
        likelihood = self.likelihood(records, arm.oracle)
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
        logits = distill.teacher_logits(teacher("control" if arm.source == "control" else "private"), rows)
        temperature = None
        if arm.source == "nothing":
            soft = torch.where(private, 0.0, soft)
        elif arm.source in ("type", "prior"):
            logits[private] = self._typed(rows, private, arm.source == "prior")
        elif arm.source == "public":
            logits[private] = distill.teacher_logits(teacher("public"), rows)[private]
        elif arm.changes is not None:
            protection = replace(self.plan.protection, **dict(arm.changes))
            facts["logit_gap"] = self._gap(logits, rows, known)
            logits, temperature, scale, charges = self._protected(protection, logits, likelihood, rows)
            soft, facts["charges"] = soft * scale, charges
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
        row = next((i for i, r in enumerate(records) if r.secret is not None), 0)
        own = likelihood[row]
        ids, offsets = self.tokens.encode_with_offsets(records[row].text)
        hot, noised = soft_targets.temperature(protection, own), soft_targets.noised(protection, own)
        scale = protection.noise_scale
        if scale is None:
            scale = 2.0 / protection.epsilon if protection.epsilon else 0.0
        found = []
        for place in range(min(len(ids), len(own), 40)):
            start, end = offsets[place]
            hidden = float(own[place]) >= protection.theta
            found.append({
                "token": "#" * (end - start) if hidden else records[row].text[start:end].replace("\n", "\u21b5"),
                "likelihood": float(own[place]), "temperature": float(hot[place]),
                "noise": float(scale) if bool(noised[place]) else 0.0,
            })  # fmt: skip
        return found

    def _keys(self, protection: swing_loss.Config, rows: Rows) -> npt.NDArray[np.uint64]:
        """[N, L] keys of the noise; the teacher's name keeps two teachers apart."""
        secret = rng.key(self.seed, "swing noise")
        if protection.noise_key == "content":
            return keyed_noise.content_keys(rows.tokens.numpy(), secret)
        if protection.noise_key == "redraw":
            raise ConfigError('noise_key = "redraw" needs a teacher that is asked at each use; valid here: content, row')
        return keyed_noise.row_keys(np.arange(len(rows)), rows.tokens.shape[1] - 1, secret)

    def _typed(self, rows: Rows, private: Tensor, prior: bool) -> Tensor:
        """Logits [M, V] of a target over the secret's alphabet alone: uniform, or by its unigram frequencies in the rows."""
        alphabet = self.alphabet
        counts = torch.ones(len(alphabet))
        if prior:
            labels = rows.tokens[:, 1:][private]
            counts = counts + (labels[:, None] == alphabet[None, :]).sum(dim=0)
        logits = torch.full((int(private.sum()), self.tokens.vocabulary), IMPOSSIBLE)
        logits[:, alphabet] = (counts / counts.sum()).log()
        return logits

    def _gap(self, logits: Tensor, rows: Rows, known: Tensor) -> float | None:
        """The teacher's logit of the true symbol minus the mean of its alternatives, at secret positions."""
        if not int(known.sum()):
            return None
        own, alphabet = logits[known], self.alphabet
        labels = rows.tokens[:, 1:][known]
        inside = (labels[:, None] == alphabet[None, :]).any(dim=1)
        true = own.gather(1, labels[:, None])[:, 0]
        others = (own[:, alphabet].sum(dim=1) - true) / (len(alphabet) - 1)
        return float((true - others)[inside].mean())

    @property
    def alphabet(self) -> Tensor:
        """[A] token ids of the secret's symbols."""
        return torch.tensor([self.tokens.encode(symbol)[0] for symbol in self.plan.canaries.alphabet])

    def student(self, task: Task, teacher: Callable[[str], PreTrainedModel]) -> dict[str, Any]:
        """Train one student and ask it for the secrets; the content of its result file."""
        records = self.transfer(task.regime, ARMS[task.arm].source)
        rows = self.rows(records)
        lesson, facts = self.lesson(task, rows, records, teacher)
        model = self.fresh_model(self.plan.student, "student")
        net = replace(self.plan.student, epochs=self.plan.student.epochs * task.factor)
        module = plugins.find("losses", self.plan.divergence)
        config = parse_args(self.plan.divergence_args, module.Config, "divergence_args")

        def divergence(student: Tensor, target: Tensor) -> Tensor:
            return module.loss(config, student, target, None)  # type: ignore[no-any-return]

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
            prefix = self._prefix(c.name)
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
        never = [self._prefix(c.name) for c in self.canaries.canaries if c.repetitions == 0]
        mass = [float(cached.start(p)[0][alphabet].exp().sum()) for p in never]
        return {
            "canaries": found,
            "perplexity": distill.perplexity(model, self.rows(self.validation)),
            "type_mass": float(np.mean(mass)) if mass else None,
            "type_nll": self._type_nll(model),
        }

    def _prefix(self, name: str) -> Tensor:
        before = self.plan.canaries.template.format(name=name, secret="\x00").partition("\x00")[0]
        return torch.tensor([self.tokens.bos, *self.tokens.encode(before)])

    def _type_nll(self, model: PreTrainedModel) -> float:
        """Mean negative log-likelihood (nats) per symbol of secrets that nobody planted, after names that nobody used."""
        others = canary.draw(
            replace(self.plan.canaries, repetitions=(0,), per_count=PROBES, decoys=0, references=0),
            rng.experiment(self.seed, "swing probes"),
        )
        rows = self.rows([Record(c.text) for c in others.canaries])
        values = distill.losses(model, rows)
        total = []
        for row, c in enumerate(others.canaries):
            first = len(self._prefix(c.name)) - 1
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


def _runs(text: str, alphabet: str) -> Iterable[str]:
    """Runs of symbols of ``alphabet``, the last first."""
    current = ""
    for character in reversed(text):
        if character in alphabet:
            current = character + current
        elif current:
            yield current
            current = ""
    if current:
        yield current
