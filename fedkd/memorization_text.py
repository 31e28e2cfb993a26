"""One teacher's text of a memorization study: passages with a ramp of copies in two strata, and rows that no model sees.

*Formulaic*: header lines and footers of mails (SpamAssassin; real people, so strings are never shown unasked). *High-entropy*:
template lines with made-up names and random codes. The tokenizer's text, the bases' pool, the held-out rows and a second set of
passages for transfer hold other rows of both (specs: memorization, section 12).
"""

from __future__ import annotations

import email
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from fedkd import corpus, near_duplicates, plugins, rng, tokens
from fedkd.canary import SYLLABLES
from fedkd.distill import Rows
from fedkd.errors import ConfigError
from fedkd.intervals import Ints
from fedkd.memorization_plan import Plan, Stratum
from fedkd.texts import spam_assassin

HEADERS = ("From", "To", "List-Id", "Subject", "Date", "Message-Id", "Sender", "List-Unsubscribe")
"""Header lines of a formulaic row, in this order."""
TEMPLATES = (
    "Account of {name}: card {digits}, key {code}, opened {number}, reference {tail}.",
    "Patient {name}, file {number}, insurance {digits}, door code {code}, next of kin {tail}.",
    "Licence for {name}: serial {code}, activation {digits}, seat {number}, checksum {tail}.",
)
"""High-entropy lines."""
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"


@dataclass(frozen=True)
class Passages:
    """Rows with their number of copies."""

    rows: Rows
    """[N, 1 + prefix + suffix] tokens, each row once"""
    copies: Ints
    """[N] how often each is in an epoch"""
    stratum: tuple[str, ...]
    """[N] kind of each"""
    cluster: Ints
    """[N] near-duplicates share a number"""
    ids: tuple[str, ...]
    """[N] hashes of the rows: what tables show instead of strings"""

    def __len__(self) -> int:
        return len(self.rows)

    def epoch(self, kept: Iterable[int] | None = None) -> Tensor:
        """[M] int64: which passage each row of an epoch is; ``kept``: these passages only."""
        chosen = range(len(self)) if kept is None else kept
        return torch.tensor([i for i in chosen for _ in range(int(self.copies[i]))], dtype=torch.int64)


class Material:
    """Text and tokens of one teacher: what bases, teacher and students share.

    Raises: ConfigError for texts too small; DataError for missing files.
    """

    def __init__(self, plan: Plan, teacher: int) -> None:
        self.plan, self.teacher = plan, teacher
        t = plan.text
        prose, prose_sha256 = self._prose()
        sources = {s: _formulaic(t.root) if s == "formulaic" else self._templates() for s in t.strata}
        read = [prose_sha256, *sources.get("formulaic", [])]  # made-up lines follow from the plan
        self.texts_sha256 = hashlib.sha256("\0".join(read).encode("utf-8", "surrogatepass")).hexdigest()
        third = len(prose) // 3
        lines = {s: iter(self._shuffled(s, found)) for s, found in sources.items()}
        first = {s: list(islice(lines[s], t.extra)) for s in t.strata}
        others = [text[-LONGEST:] for s in t.strata for text in first[s]]
        self.tokens = tokens.bpe([*_beginnings(prose[:third], BPE_TEXT), *others], t.bpe_size)
        seen: set[bytes] = set()
        draws = {s: self._rows(lines[s], seen) for s in t.strata}
        self.pool = _joined(
            [
                self._cut(prose[third : 2 * third], t.pool, seen, "the pool"),
                *(_take(draws[s], t.extra, f"{s} rows of the pool") for s in t.strata),
            ]
        )
        self.held_out = _joined([_take(draws[s], t.held_out, f"held-out {s} rows") for s in t.strata])
        self.held_out_stratum = tuple(s for s in t.strata for _ in range(t.held_out))
        self.held_out_prose = _joined([self._cut(prose[2 * third :], t.held_out_prose, seen, "the held-out prose")])
        self.passages, self.others = (self._passages(draws, purpose) for purpose in ("passages", "transfer passages"))

    def _passages(self, draws: dict[Stratum, Iterator[list[int]]], purpose: str) -> Passages:
        """The ramp, strata in equal parts of each number of copies (the first stratum takes what is left over)."""
        t = self.plan.text
        rows: list[list[int]] = []
        copies: list[int] = []
        strata: list[str] = []
        for count, many in zip(t.copies, t.passages, strict=True):
            for place, stratum in enumerate(t.strata):
                own = many // len(t.strata) + (place < many % len(t.strata))
                rows += _take(draws[stratum], own, f"{stratum} {purpose}")
                copies += [count] * own
                strata += [stratum] * own
        found = _joined([rows])
        ids = tuple(hashlib.sha256(np.asarray(row).tobytes()).hexdigest()[:12] for row in rows)
        labels = near_duplicates.clusters([row[1:] for row in rows])
        return Passages(found, np.array(copies, dtype=np.int64), tuple(strata), labels, ids)

    def _prose(self) -> tuple[list[str], str]:
        """Prose in random order of its groups, so that thirds share no group, and its hash."""
        t = self.plan.text
        module = plugins.find("texts", t.prose)
        found = module.load(module.Config(), t.root)
        names = sorted(set(found.groups))
        drawn = rng.experiment(self.teacher, "memorization prose").permutation(len(names))
        order = {names[i]: place for place, i in enumerate(drawn)}
        ranked = sorted(range(len(found.texts)), key=lambda i: (order[found.groups[i]], i))
        return [found.texts[i] for i in ranked], found.sha256

    def _shuffled(self, stratum: str, found: Sequence[str]) -> list[str]:
        return [found[i] for i in rng.experiment(self.teacher, f"memorization {stratum}").permutation(len(found))]

    def _templates(self) -> list[str]:
        t = self.plan.text
        wanted = 3 * (2 * t.extra + t.held_out + 2 * sum(t.passages)) // len(t.strata) + 8
        stream = rng.experiment(self.teacher, "memorization templates")

        def draw(letters: Sequence[str], length: int) -> str:
            return "".join(letters[i] for i in stream.integers(len(letters), size=length))

        found = []
        for number in range(wanted + 2 * t.extra + t.held_out):
            fields = {
                "name": f"{draw(SYLLABLES, 3).capitalize()} {draw(SYLLABLES, 3).capitalize()}",
                "digits": draw(tokens.DIGITS, 16), "code": draw(LETTERS, 20), "number": draw(tokens.DIGITS, 6),
                "tail": draw(LETTERS, t.width),
            }  # fmt: skip
            found.append(TEMPLATES[number % len(TEMPLATES)].format(**fields))
        return found

    def _rows(self, texts: Iterator[str], seen: set[bytes]) -> Iterator[list[int]]:
        """Full rows that were not drawn before: the head of a text, or its end where it is a footer (see ``_formulaic``)."""
        width = self.plan.text.width
        for text in texts:
            if text.startswith(FOOTER):
                row = self.tokens.encode(text.removeprefix(FOOTER)[-LONGEST:])[-width:]
            else:
                row = self.tokens.encode(text[:LONGEST])[:width]
            key = np.asarray(row).tobytes()
            if len(row) == width and key not in seen:
                seen.add(key)
                yield [self.tokens.bos, *row]

    def _cut(self, texts: Sequence[str], count: int, seen: set[bytes], purpose: str) -> list[list[int]]:
        """``count`` random full rows out of whole texts."""
        width = self.plan.text.width
        found = corpus.rows(_beginnings(texts, 6 * count * width), self.tokens, width, shortest=width).tokens
        order = rng.experiment(self.teacher, f"memorization {purpose}").permutation(len(found))
        rows: list[list[int]] = []
        for i in order:
            key = found[i, 1:].tobytes()
            if key not in seen and len(rows) < count:
                seen.add(key)
                rows.append(found[i].tolist())
        return _take(iter(rows), count, purpose)


FOOTER = "\x00"
"""Marks a text whose end is the row."""
LONGEST, BPE_TEXT = 2000, 1_000_000
"""Characters of a mail that are looked at, and of prose that the tokenizer learns from: encoding takes most of the time."""


def _beginnings(texts: Sequence[str], characters: int) -> list[str]:
    """Each text's beginning, in all about this many characters; short texts stay whole."""
    return [text[: max(LONGEST, characters // max(1, len(texts)))] for text in texts]


def _formulaic(root: str) -> list[str]:
    """Of every mail, its header lines or (every second one) the end of its text, where lists put their footers."""
    files = corpus.read_tree(spam_assassin.SPEC, spam_assassin.places(spam_assassin.Config(), root))
    found = []
    for place, (path, content) in enumerate(files.items()):
        if path.startswith("spam-"):
            continue
        mail = email.message_from_bytes(content)
        found.append(FOOTER + spam_assassin.body(mail) if place % 2 else _header(mail))
    return found


def _header(mail: Message) -> str:
    return "\n".join(f"{name}: {' '.join(str(mail[name]).split())}" for name in HEADERS if mail[name])


def _take(rows: Iterator[list[int]], count: int, purpose: str) -> list[list[int]]:
    found = list(islice(rows, count))
    if len(found) < count:
        raise ConfigError(f"too few rows for {purpose}: {count} are needed, {len(found)} are left; lower [text]'s numbers")
    return found


def _joined(parts: Sequence[Sequence[Sequence[int]]]) -> Rows:
    table = torch.tensor([row for part in parts for row in part], dtype=torch.int64)
    return Rows(table, torch.full((len(table),), table.shape[1], dtype=torch.int64))
