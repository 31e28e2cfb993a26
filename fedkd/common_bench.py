"""One seed of the study of what is common at private positions: teachers, what they know, students, and their audit.

Everything learns as in the swing study (``fedkd.swing``: R2, only soft targets); arms differ in the targets of private
positions. The audit asks each student

- what is *common*: negative log-likelihood and calibration of the code's leading digits after names that nobody used, in each
  town. The law is known, so both are expectations under it, not draws: no sampling error but that of names;
- what is *rare*: exposure of each audited person's own digits among all 10 ** rare, given the person's true common part;
  and how much likelier (bits) the student holds a person's true code than it does for unused names of that town.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedkd import distill, keyed_noise, plugins, rng, signals, soft_targets
from fedkd.attacks.exposure import exposure_exact
from fedkd.common_arms import TYPED, VARIANTS, Evidence
from fedkd.common_text import DIGITS, NAME, CommonText, Line
from fedkd.config import parse_args
from fedkd.distill import Lesson, Rows
from fedkd.language import Cached, build
from fedkd.swing import FLOOR, IMPOSSIBLE
from fedkd.swing_plan import Net

BINS = 10
"""Equal bins of confidence for calibration."""
Teacher = Callable[[str], PreTrainedModel]


class CommonBench(CommonText):
    """One seed. Nothing is trained until it is asked for.

    Raises: as :class:`CommonText`.
    """

    def fresh_model(self, net: Net, purpose: str) -> PreTrainedModel:
        """An untrained model; the same weights for every arm of a seed."""
        size = net.size(self.tokens.vocabulary, self.setting.width + 1)
        return build(size, rng.key(self.seed, f"common {purpose}") & (2**31 - 1))

    def train_teacher(self, kind: str) -> PreTrainedModel:
        """A model of the rows of a set."""
        model, rows = self.fresh_model(self.setting.teacher, "teacher"), self.rows(self.lines(kind))
        distill.train(
            model, rows, Lesson.text(rows), self.setting.teacher.training, rng.key(self.seed, f"common {kind}") & (2**31 - 1)
        )
        return model

    def kinds(self) -> tuple[str, ...]:
        """Every teacher of a seed."""
        return ("private", "control", "public", *(f"fold{i}" for i in range(self.setting.folds)))

    # ----- what the teachers know about private positions -------------------------------------------------------------------
    def evidence(self, teacher: Teacher) -> Evidence:
        """Asked once per seed; equal for all arms."""
        lines = [line for line in self.lines("fresh") if line.start >= 0]
        tokens, columns = self.rows(lines).tokens, self._columns(lines)
        towns = torch.tensor([line.town for line in lines])
        folds = torch.tensor([self.people[line.person].fold for line in lines])
        stream = rng.experiment(self.seed, "common names")
        pool = torch.tensor([self.tokens.encode(name) for name in self.made_up])
        renamed = []
        for _ in range(self.setting.names):
            other = tokens.clone()
            other[:, 1 + NAME.start : 1 + NAME.stop] = pool[torch.from_numpy(stream.integers(len(pool), size=len(tokens)))]
            renamed.append(other)
        ask = {kind: teacher(kind) for kind in self.kinds()}
        fold_models = [ask[f"fold{i}"] for i in range(self.setting.folds)]
        counts = self.persons_by_class()
        keys = keyed_noise.row_keys(np.arange(counts[..., 0].numel()), 1, rng.key(self.seed, "common counts"))
        noise = torch.from_numpy(keyed_noise.unit_noise("laplace", keys[:, 0], 10)).reshape(counts.shape)
        by_place = counts.sum(dim=0) + 1
        pooled = by_place.sum(dim=0)
        return Evidence(
            own=self._asked(ask["private"], tokens, columns),
            public=self._asked(ask["public"], tokens, columns),
            names=torch.stack([self._asked(ask["private"], other, columns) for other in renamed]),
            votes=torch.stack([self._asked(model, tokens, columns) for model in fold_models]),
            name_votes=torch.stack([
                torch.stack([self._asked(model, other, columns) for other in renamed]).exp().mean(dim=0).log()
                for model in fold_models
            ]),
            met=torch.stack([(folds == i)[:, None].expand(-1, self.length) for i in range(self.setting.folds)]),
            counts=counts[towns],
            noise=noise[towns],
            pooled=pooled / pooled.sum(),
            by_place=by_place / by_place.sum(dim=-1, keepdim=True),
        )  # fmt: skip

    def _columns(self, lines: list[Line]) -> Tensor:
        """[R, k] predicted positions of each line's code: position t predicts token t + 1, which is character t."""
        return torch.tensor([line.start for line in lines])[:, None] + torch.arange(self.length)

    @torch.no_grad()
    def _asked(self, model: PreTrainedModel, tokens: Tensor, columns: Tensor) -> Tensor:
        """[R, k, A] log p over the digits."""
        last, parts = int(columns.max()) + 1, []
        for rows, own in zip(tokens.split(64), columns.split(64), strict=True):
            logits = model(rows[:, :last], use_cache=False).logits.float()
            parts.append(type_of(logits, own, self.alphabet))
        return torch.cat(parts)

    # ----- students ------------------------------------------------------------
    def lesson(self, arm: str, rows: Rows, teacher: Teacher, evidence: Evidence) -> Lesson:
        """What an arm's student learns.

        Raises: KeyError for an unknown arm.
        """
        lines = self.lines("fresh")
        soft = torch.ones(rows.real.shape)
        private = torch.zeros(rows.real.shape, dtype=torch.bool)
        planted = [i for i, line in enumerate(lines) if line.start >= 0]
        private[torch.tensor(planted)[:, None], self._columns([lines[i] for i in planted])] = True
        logits = distill.teacher_logits(teacher("control" if arm == "control" else "private"), rows)
        if arm == "redaction":
            soft[private] = 0.0
        elif arm == "public":
            logits[private] = distill.teacher_logits(teacher("public"), rows)[private]
        elif arm == "swing":
            logits[private] = self._swing(logits[private], rows, private)
        elif arm not in ("kd", "control"):
            variant = TYPED[arm] if arm in TYPED else VARIANTS[arm]
            target = torch.full((int(private.sum()), logits.shape[2]), IMPOSSIBLE)
            target[:, self.alphabet] = variant.target(evidence).log().flatten(0, 1)
            logits[private] = target
        return Lesson(0 * soft, soft, logits)

    def _swing(self, logits: Tensor, rows: Rows, private: Tensor) -> Tensor:
        protection = soft_targets.Protection()
        keys = keyed_noise.content_keys(rows.tokens.numpy(), rng.key(self.seed, "common swing noise"))[private.numpy()]
        noise = torch.from_numpy(keyed_noise.unit_noise("laplace", keys, logits.shape[1]))
        return soft_targets.as_logits(soft_targets.protect(protection, logits, torch.ones(len(logits)), noise), FLOOR)

    def student(self, arm: str, teacher: Teacher, evidence: Evidence) -> dict[str, Any]:
        """Train one student and audit it; the content of its result file."""
        rows = self.rows(self.lines("fresh"))
        lesson = self.lesson(arm, rows, teacher, evidence)
        model = self.fresh_model(self.setting.student, "student")
        module = plugins.find("losses", "kl")
        config = parse_args("temperature = 1.0, squared = false", module.Config, "divergence_args")

        def divergence(student: Tensor, target: Tensor) -> Tensor:
            each: Tensor = module.loss(config, student, target, None)
            return each

        training = self.setting.student.training
        distill.train(model, rows, lesson, training, rng.key(self.seed, "common order") & (2**31 - 1), divergence)
        return {"schema": 1, "seed": self.seed, "arm": arm, "steps": training.steps(len(rows)), **self.audit(model)}

    # ----- audit ------------------------------------------------------------
    def audit(self, model: PreTrainedModel) -> dict[str, Any]:
        """What a model knows of the common and of the rare; perplexity on other plays."""
        common = self.common(model)
        cached, alphabet, found = Cached(model), self.alphabet, []
        for index, p in enumerate(self.people):
            if not p.audited:
                continue
            line = self.line(p.name, p.town, p.code + p.secret)
            before = torch.tensor([self.tokens.bos, *self.tokens.encode(line.text[: line.start + self.setting.common])])
            secret = torch.tensor(self.tokens.encode(p.secret))
            rank = signals.rank_of_secret(cached, before, secret, alphabet)
            own = float(self._code_logs(model, [p.name], p.town)[0][tuple(int(d) for d in p.code)])
            usual = common["codes"][p.town][tuple(int(d) for d in p.code)]
            found.append({
                "id": index, "copies": p.copies, "bits": float(exposure_exact(rank.better + 1, rank.candidates)),
                "tied": rank.tied, "code_bits": (own - math.log(usual)) / math.log(2),
            })  # fmt: skip
        rows = self.rows(self.validation)
        return {"canaries": found, **{k: v for k, v in common.items() if k != "codes"},
                "perplexity": distill.perplexity(model, rows)}  # fmt: skip

    def common(self, model: PreTrainedModel) -> dict[str, Any]:
        """Expected NLL (nats) per common and per rare digit, and calibration of the common ones, after unused names.

        ``codes``: per town, mean probability [10, 10] of each pair of leading digits (two common digits).
        """
        towns = range(len(self.setting.towns))
        nll, rare, codes = [], [], []
        shown: list[tuple[float, float, float]] = []  # confidence, probability that it is right, weight
        for town in towns:
            first, second, rest = self._asked_in(model, self.held_out, town)
            law = torch.from_numpy(self.law[town]).float()
            nll.append(float(-(first @ law[0]).mean()))
            nll.append(float(-((second @ law[1]) @ law[0]).mean()))
            rare.append(float(-rest.mean()))
            codes.append((first[:, :, None] + second).exp().mean(dim=0))
            top, where = first.exp().max(dim=-1)
            shown += [(float(c), float(law[0][w]), 1.0) for c, w in zip(top, where, strict=True)]
            top, where = second.exp().max(dim=-1)  # [names, 10]: after each first digit, as often as the law gives it
            for place, weight in enumerate(law[0].tolist()):
                shown += [(float(c), float(law[1][w]), weight) for c, w in zip(top[:, place], where[:, place], strict=True)]
        error, bins = calibration(np.array(shown))
        return {"nll_common": float(np.mean(nll)), "nll_rare": float(np.mean(rare)), "ece": error, "reliability": bins,
                "codes": [c.numpy() for c in codes]}  # fmt: skip

    def _code_logs(self, model: PreTrainedModel, names: list[str], town: int) -> Tensor:
        """[names, 10, 10] log p of each pair of leading digits."""
        first, second, _ = self._asked_in(model, names, town, rest=False)
        return first[:, :, None] + second

    @torch.no_grad()
    def _asked_in(
        self, model: PreTrainedModel, names: list[str], town: int, rest: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log p of the digits after names: first [n, 10], second after each first [n, 10, 10], the others [n, 10, rare, 10]."""
        stream = rng.experiment(self.seed, "common probes", round=town)
        lines = []
        for name in names:
            for digit in DIGITS:
                tail = "".join(DIGITS[i] for i in stream.integers(10, size=self.length - 1))
                lines.append(self.line(name, town, digit + tail))
        tokens = self.rows(lines).tokens
        start = lines[0].start
        last = start + (self.length if rest else 2)
        logs = torch.log_softmax(model(tokens[:, :last], use_cache=False).logits.float()[:, start:], dim=-1)[..., self.alphabet]
        logs = logs.reshape(len(names), 10, -1, 10)
        return logs[:, 0, 0], logs[:, :, 1], logs[:, :, self.setting.common :]


def type_of(logits: Tensor, columns: Tensor, alphabet: Tensor) -> Tensor:  # [B, L, V], [B, k], [A] -> [B, k, A]
    """Log p over the type at given positions."""
    rows = torch.arange(len(logits))[:, None]
    return torch.log_softmax(logits[rows, columns][..., alphabet], dim=-1)


def calibration(shown: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, list[list[float]]]:
    """Expected calibration error of (confidence, probability of being right, weight) rows [N, 3] over equal bins.

    Returns (error, [[mean confidence, mean probability of being right, share of weight]] per filled bin).
    """
    place = np.minimum((shown[:, 0] * BINS).astype(int), BINS - 1)
    total, error, bins = shown[:, 2].sum(), 0.0, []
    for b in range(BINS):
        own = shown[place == b]
        weight = own[:, 2].sum()
        if weight > 0:
            confidence, right = (float(np.average(own[:, i], weights=own[:, 2])) for i in (0, 1))
            error += weight / total * abs(confidence - right)
            bins.append([confidence, right, float(weight / total)])
    return float(error), bins
