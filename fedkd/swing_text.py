"""One seed's text of a swing study: rows with planted secrets, transfer sets, and how likely each token is private.

The same text, canaries and tokenizer serve every teacher and student of a seed (specs: swing, section 5).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fedkd import canary, corpus, plugins, rng, tokens
from fedkd.config import parse_args
from fedkd.distill import Rows
from fedkd.errors import ConfigError
from fedkd.language import folder_of
from fedkd.spans import Found, Span, drop_occurrences, drop_strings, to_tokens
from fedkd.swing_arms import Missed, Regime
from fedkd.swing_plan import Plan

Set = Literal["private", "control", "public", "fresh", "text"]
"""Rows of a teacher (the first three), or of a transfer set."""


@dataclass(frozen=True)
class Record:
    """One row before it is tokenised: its text and where its planted secret stands."""

    text: str
    secret: tuple[int, int] | None = None
    """character offsets of the secret, for the oracle and for recall"""


class Material:
    """One seed's text, canaries, tokens and rows: everything that the arms share.

    Raises: ConfigError for a text too small, a canary longer than a row or whose symbols are not one token each, or a canary
        name that occurs in the text; DataError for missing files.
    """

    def __init__(self, plan: Plan, seed: int) -> None:
        self.plan, self.seed = plan, seed
        module = plugins.find("texts", plan.text.name)
        texts = module.load(parse_args(plan.text.args, module.Config, "text.args"), plan.text.root)
        self.texts_sha256 = texts.sha256
        self.canaries = canary.draw(plan.canaries, rng.experiment(seed, "swing canaries"))
        copies = sum(c.repetitions for c in self.canaries.canaries)
        t = plan.text
        self.personal = bool(module.SPEC.personal)
        wanted = {"validation": t.validation, "public": t.rows, "text": t.rows + 2 * copies}
        rows = self._chosen(texts.texts, texts.groups, wanted)
        self.tokens = self._tokenizer(texts.texts, rows["public"])
        self.validation = [Record(r) for r in rows["validation"]]
        self.public_text = [Record(r) for r in rows["public"]]
        self.text = [Record(r) for r in rows["text"][: t.rows]]
        self.fills = rows["text"][t.rows : t.rows + copies]
        self.replaced = [Record(r) for r in rows["text"][t.rows + copies :]]
        self._check(rows)

    def _tokenizer(self, texts: Sequence[str], public: Sequence[str]) -> tokens.Tokenizer:
        """The study's tokenizer; one for all models, since soft targets are compared token by token."""
        how, folders = self.plan.text.tokenizer, (self.plan.teacher.folder, self.plan.student.folder)
        if how == "characters":  # an alphabet read from personal texts would tell what they hold
            return tokens.characters(tokens.ASCII if self.personal else tokens.alphabet_of(texts))
        if how == "bpe":
            return tokens.bpe(public, self.plan.text.bpe_size)
        if not folders[0]:
            raise ConfigError('text.tokenizer = "teacher" needs teacher.folder')
        found = [tokens.from_pretrained(folder_of(name)) for name in folders if name]
        if len({t.identity for t in found}) > 1:
            raise ConfigError("teacher and student have different tokenizers: soft targets of one say nothing to the other")
        return found[0]

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
            before = self.prefix(c.name).tolist()[1:]
            if len(secret) != len(c.secret) or before + secret != ids[: len(before) + len(secret)]:
                raise ConfigError("each symbol of a secret must be one token of its own (BPE merges bias exposure)")
        whole = "\x00".join(text for part in rows.values() for text in part)
        taken = next((c.name for c in self.canaries.canaries if c.name in whole), None)
        if taken is not None:
            raise ConfigError(f"the canary name {taken!r} occurs in the text; use another seed or template")

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
        if regime == "R4":
            return list(self.public_text)
        return self.records("fresh" if regime == "R2" else "text")

    def likelihood(self, records: Sequence[Record], oracle: bool, missed: Missed | None = None) -> Tensor:
        """[N, width] float32: how likely the token that each position predicts is private; whole records are scored."""
        if oracle:
            spans = [[] if r.secret is None else [Span(*r.secret, "digits", 1.0)] for r in records]
        else:
            module = plugins.find("sensitivity", self.plan.sensitivity)
            config = parse_args(self.plan.sensitivity_args, module.Config, "sensitivity_args")
            whole = [r.text for r in records]
            spans = module.find(config, whole) if missed is None else self._degraded(module, config, whole, missed)
        found = torch.zeros(len(records), self.plan.text.width)
        for row, (record, own) in enumerate(zip(records, spans, strict=True)):
            if own:
                values = to_tokens(own, self.tokens.encode_with_offsets(record.text)[1])[: self.plan.text.width]
                found[row, : len(values)] = torch.as_tensor(values)
        if not bool(((found >= 0) & (found <= 1)).all()):
            raise ConfigError(f"sensitivity {self.plan.sensitivity} gave a likelihood outside [0, 1]")
        return found

    def _degraded(self, module: Any, config: Any, texts: Sequence[str], missed: Missed) -> Found:
        """What a detector finds that misses some of it; the same misses for every arm of a seed."""
        stream = rng.experiment(self.seed, f"swing missed {missed.share} {missed.strings}")
        found = module.recognise(texts)
        if missed.strings:
            found = drop_strings(texts, found, missed.share, stream)
        else:
            found = drop_occurrences(found, missed.share, stream)
        known = module.collect(config, texts, found) if missed.propagate else {}
        spread: Found = module.with_flagged(texts, found, known)
        return spread

    @property
    def alphabet(self) -> Tensor:
        """[A] token ids of the secret's symbols."""
        return torch.tensor([self.tokens.encode(symbol)[0] for symbol in self.plan.canaries.alphabet])

    def prefix(self, name: str) -> Tensor:
        """[P] the first token and the canary's text up to its secret."""
        before = self.plan.canaries.template.format(name=name, secret="\x00").partition("\x00")[0]
        return torch.tensor([self.tokens.bos, *self.tokens.encode(before)])


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
