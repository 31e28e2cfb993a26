"""Text in which something is common at private positions: planted lines whose code has a likely part and a secret part.

``Kabemi of Verona: 482913.``: the first two digits (the *common* part, like an area code) follow a skewed distribution of the
town that holds in the private data alone; the other four (the *rare* part) are uniform and that person's own. A detector
flags the whole run, so all six are private positions. Fixed before seeds 1 to 8 were run (a pilot on seed 99 set the sizes),
and decided here:

- Six towns, uniform. Each town and each of the two places has its own permutation of a Zipf law over the ten digits (exponent
  2: 0.65, 0.16, 0.07, ...; 1.24 nats against ln 10 = 2.30), the two digits independent given the town; permutations are drawn
  anew per seed, so the average over towns says little and the town says much.
- ``persons`` people with one copy carry the common; the first ``rare`` of them are the audited 1-copy secrets. Canaries with
  4, 16 and 64 copies are further people: repeated secrets. Canaries with 0 copies are never planted (the null group).
- The *public* set has the same template and towns, other names (decoys), other text rows, and uniform codes: it knows the
  type and the line, not what is common. Decoys are in no other set.
- The *control* set is the private one with every audited person's copies redrawn, each with a new code by the town's law and
  a new rare part: the common is there, the secrets are not.
- The *fresh* set is what students read (regime R2 of specs: swing, section 5): the private rows with six uniform digits in
  every copy, common places included, so that neither the rare nor the common part is in the student's text: both can arrive
  through soft targets alone.
- *fold* sets: the private set split by person (all copies of one person in one fold, folds balanced per number of copies),
  and its text rows dealt out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedkd import canary, corpus, plugins, rng, tokens
from fedkd.config import parse_args
from fedkd.distill import Rows
from fedkd.errors import ConfigError
from fedkd.intervals import Floats
from fedkd.swing_plan import Net

DIGITS = "0123456789"
TEMPLATE = "{name} of {town}: {code}."
NAME = slice(0, 6)
"""Characters of the name: three syllables of two letters."""


@dataclass(frozen=True)
class Setting:
    """Sizes of a study of what is common at private positions."""

    towns: tuple[str, ...] = ("Verona", "Padua", "Milan", "Athens", "Tyre", "Rome")
    """context words; uniform over people"""
    common: int = 2
    """leading digits with the town's law"""
    rare: int = 4
    """uniform digits behind them, the secret; exposure counts all 10 ** rare"""
    skew: float = 2.0
    """Zipf exponent of the town's law, 0 = uniform"""
    persons: int = 300
    """people with one copy"""
    audited: tuple[tuple[int, int], ...] = ((0, 8), (1, 60), (4, 24), (16, 12), (64, 4))
    """(copies, people): canaries; those with one copy are among ``persons``"""
    decoys: int = 200
    """lines of the public set"""
    text: int = 100
    """rows of plays in the private set, and as many others in the public one"""
    validation: int = 200
    """rows of other plays, for perplexity"""
    width: int = 28
    """characters of a row"""
    names: int = 4
    """made-up names per line for counterfactual contexts"""
    folds: int = 3
    """groups of people for cross-fitted teachers"""
    probes: int = 20
    """held-out names, each asked in every town"""
    teacher: Net = field(default_factory=lambda: Net(epochs=10))
    """every teacher"""
    student: Net = field(default_factory=Net)
    """every student"""

    def __post_init__(self) -> None:
        single = dict(self.audited).get(1, 0)
        if min(self.common, self.rare, self.persons, self.decoys, self.text, self.validation, self.names, self.probes) < 1:
            raise ConfigError("common text: every size must be at least 1")
        if self.folds < 2 or single > self.persons or len(set(self.towns)) < 2 or self.skew < 0:
            raise ConfigError("common text: two folds, two towns, a skew of 0 or more and no more 1-copy canaries than persons")


@dataclass(frozen=True)
class Person:
    """Somebody with a code."""

    name: str
    town: int
    """index into the towns"""
    code: str
    """common part"""
    secret: str
    """rare part"""
    copies: int
    """times planted"""
    audited: bool
    """a canary"""
    fold: int
    """whose teacher meets this person; -1 = nobody's"""


class Line(NamedTuple):
    """A row before it is tokenised."""

    text: str
    start: int = -1
    """character where the code starts; -1 = a row of plays"""
    person: int = -1
    """index of the person; -1 = none, or a decoy"""
    town: int = -1
    """index of the town"""


class CommonText:
    """One seed's people, laws and rows.

    Raises: ConfigError for a text too small or a line longer than a row; DataError for missing plays.
    """

    def __init__(self, setting: Setting, seed: int, text: str = "shakespeare") -> None:
        self.setting, self.seed, self.source = setting, seed, text
        s = setting
        self.length = s.common + s.rare
        self.law = _laws(s, rng.experiment(seed, "common laws"))  # [towns, common, 10]
        self._draw_people(rng.experiment(seed, "common people"))
        planted = sum(p.copies for p in self.people)
        self._load_plays(planted)
        longest = len(TEMPLATE.format(name="Kabemi", town=max(s.towns, key=len), code="0" * self.length))
        if longest > s.width:
            raise ConfigError(f"a planted line has {longest} characters; width = {s.width} is too short for it")

    def _draw_people(self, stream: np.random.Generator) -> None:
        s = self.setting
        more = [(copies, count) for copies, count in s.audited if copies != 1]
        ordered = s.persons + sum(count for _, count in more)
        total = ordered + s.decoys + 8 * s.names + s.probes
        drawn = canary.draw(
            canary.Config("{name} {secret}", DIGITS, s.rare, repetitions=(0,), per_count=total, references=0, decoys=0), stream
        ).canaries
        copies = [1] * s.persons + [n for n, count in more for _ in range(count)]
        single = dict(s.audited).get(1, 0)
        self.people = []
        for place, (c, n) in enumerate(zip(drawn, copies, strict=False)):
            town = int(stream.integers(len(s.towns)))
            fold = place % s.folds if n else -1
            self.people.append(Person(c.name, town, self.code(town, stream), c.secret, n, place < single or n != 1, fold))
        rest = iter([c.name for c in drawn[ordered:]])
        self.decoy_names = [next(rest) for _ in range(s.decoys)]
        self.made_up = [next(rest) for _ in range(8 * s.names)]
        self.held_out = list(rest)

    def _load_plays(self, planted: int) -> None:
        s = self.setting
        module = plugins.find("texts", self.source)
        plays = module.load(parse_args("", module.Config, "text.args"), "")
        self.tokens = tokens.characters(tokens.alphabet_of(plays.texts))
        stream = rng.experiment(self.seed, "common plays")
        by_play: dict[str, list[str]] = {}
        for text, play in zip(plays.texts, plays.groups, strict=True):
            if len(text) >= s.width:
                by_play.setdefault(play, []).append(text)
        order = iter([sorted(by_play)[i] for i in stream.permutation(len(by_play))])
        found = []
        for wanted in (s.validation, s.text + s.decoys, s.text + planted):  # disjoint plays for disjoint purposes
            pool: list[str] = []
            while len(pool) < wanted:
                play = next(order, None)
                if play is None:
                    raise ConfigError(f"the plays have too few rows of {s.width} characters; lower text, persons or copies")
                pool += by_play[play]
            found.append([pool[i] for i in stream.choice(len(pool), wanted, replace=False)])
        self.validation = found[0]
        self.public_text, self.public_fills = found[1][: s.text], found[1][s.text :]
        self.text, self.fills = found[2][: s.text], found[2][s.text :]

    def code(self, town: int, stream: np.random.Generator) -> str:
        """A common part by the town's law."""
        return "".join(DIGITS[stream.choice(10, p=self.law[town, place])] for place in range(self.setting.common))

    def line(self, name: str, town: int, code: str, fill: str = "", person: int = -1) -> Line:
        """A planted row."""
        text = TEMPLATE.format(name=name, town=self.setting.towns[town], code=code)
        return Line(f"{text}\n{fill}" if fill else text, text.rindex(code), person, town)

    def lines(self, of: str) -> list[Line]:
        """Rows of a set: "private", "control", "public", "fresh", or "fold0", "fold1", ..."""
        if of == "public":
            return [*(Line(t) for t in self.public_text), *self._decoys()]
        text = [Line(t) for t in self.text]
        planted = list(self._planted(of))
        if of.startswith("fold"):
            fold = int(of.removeprefix("fold"))
            text = text[fold :: self.setting.folds]
            planted = [row for row in planted if self.people[row.person].fold == fold]
        return [*text, *planted]

    def _planted(self, of: str) -> Iterator[Line]:
        stream = rng.experiment(self.seed, f"common {of}")
        fills = iter(self.fills)
        for index, person in enumerate(self.people):
            for _ in range(person.copies):
                code = person.code + person.secret
                if of == "fresh":
                    code = _uniform(self.length, stream)
                elif of == "control" and person.audited:
                    code = self.code(person.town, stream) + _uniform(self.setting.rare, stream)
                yield self.line(person.name, person.town, code, next(fills), index)

    def _decoys(self) -> Iterator[Line]:
        stream = rng.experiment(self.seed, "common decoys")
        for name, fill in zip(self.decoy_names, self.public_fills, strict=True):
            yield self.line(name, int(stream.integers(len(self.setting.towns))), _uniform(self.length, stream), fill)

    def rows(self, lines: Sequence[Line] | Sequence[str]) -> Rows:
        """Token rows."""
        texts = [x if isinstance(x, str) else x.text for x in lines]
        found = corpus.rows(texts, self.tokens, self.setting.width, cut=False)
        return Rows(torch.from_numpy(found.tokens), torch.from_numpy(found.lengths))

    @property
    def alphabet(self) -> Tensor:
        """[10] token ids of the digits."""
        return torch.tensor([self.tokens.encode(d)[0] for d in DIGITS])

    def entropy(self) -> float:
        """Nats per common digit that nobody can predict: the least possible NLL; every town and place has the same."""
        law = self.law[0, 0]
        return float(-(law * np.log(law)).sum())

    def unigram(self) -> list[float]:
        """Nats per common digit of the best predictor without context: one distribution over all towns and places, and one
        per place."""
        whole = self.law.mean(axis=(0, 1))
        by_place = self.law.mean(axis=0)
        return [float(-np.log(whole) @ whole), float(np.mean([-np.log(p) @ p for p in by_place]))]

    def persons_by_class(self) -> Tensor:
        """[towns, places, 10] distinct people that hold each digit: a person counts once, however often copied."""
        counts = torch.zeros(len(self.setting.towns), self.length, 10)
        for person in self.people:
            if person.copies:
                for place, digit in enumerate(person.code + person.secret):
                    counts[person.town, place, int(digit)] += 1
        return counts


def _laws(s: Setting, stream: np.random.Generator) -> Floats:
    weights = 1.0 / np.arange(1, 11) ** s.skew
    weights /= weights.sum()
    return np.array([[weights[stream.permutation(10)] for _ in range(s.common)] for _ in s.towns])


def _uniform(length: int, stream: np.random.Generator) -> str:
    return "".join(DIGITS[i] for i in stream.integers(10, size=length))
