"""Private spans of text, and what they become: a likelihood per token, a class of tokens, a detector's recall.

A span counts characters, [start, end). A token's likelihood belongs to the token as *label*: it acts on the logits that
predict it, one position earlier (``for_labels``; specs: swing, section 4, "align with the label"). NumPy only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # a type alone: scipy.stats takes a second to import, in each worker of a run
    from fedkd.intervals import Ints

Likelihood = npt.NDArray[np.float32]
Found = list[list["Span"]]

SHAPED = frozenset({"digits", "zip", "phone", "ssn", "card", "ip", "iban", "order", "propagated", "secret"})
"""Kinds whose format says which symbols can stand where; other kinds (e-mail, names) have no such class."""


@dataclass(frozen=True, order=True)
class Span:
    """One private piece of one text."""

    start: int
    """first character"""
    end: int
    """one past the last character, > start"""
    kind: str
    """what recognised it, for example "digits" """
    confidence: float
    """in [0, 1]"""


def to_tokens(spans: Sequence[Span], offsets: Sequence[tuple[int, int]]) -> Likelihood:  # [L]
    """Highest confidence over the spans that overlap each token; tokens without characters (BOS, pads) get 0.

    Entry i is the likelihood of token i *as a label*; see ``for_labels`` for the logits that it acts on.
    """
    likelihood = np.zeros(len(offsets), dtype=np.float32)
    for index, (start, end) in enumerate(offsets):
        over = [s.confidence for s in spans if s.start < end and start < s.end and start < end]
        likelihood[index] = max(over, default=0.0)
    return likelihood


def token_kinds(spans: Sequence[Span], offsets: Sequence[tuple[int, int]]) -> list[str]:  # [L]
    """Kind of the most confident span over each token, "" where there is none (typed redaction needs it)."""
    found = []
    for start, end in offsets:
        over = [s for s in spans if s.start < end and start < s.end and start < end]
        found.append(max(over, key=lambda s: s.confidence).kind if over else "")
    return found


def for_labels(likelihood: npt.ArrayLike) -> Likelihood:  # [.., L] of tokens -> [.., L - 1] of logits 0..L-2
    """Entry t is the likelihood of token t + 1, which ``logits[:, t]`` predict."""
    return np.ascontiguousarray(np.asarray(likelihood, dtype=np.float32)[..., 1:])


def class_ids(kind: str, token: int, vocabulary: Sequence[str]) -> Ints:  # [k] token ids, ascending
    """The tokens that could stand where a private token stands, by the format of its kind: the ten digits for a digit.

    Same shape: digit for digit, capital for capital, small letter for small letter, any other symbol itself. Kinds without
    a format get the whole vocabulary, so that a uniform target over the class says nothing about the token.
    """
    if kind not in SHAPED:
        return np.arange(len(vocabulary), dtype=np.int64)
    wanted = _shape(vocabulary[token])
    return np.array([index for index, text in enumerate(vocabulary) if _shape(text) == wanted], dtype=np.int64)


def occurrences(texts: Sequence[str], flagged: Mapping[str, float]) -> Found:
    """Every occurrence of every flagged string, at token or digit boundaries: none inside a longer number or word.

    The kind is "digits" for a string of digits, else "propagated". Raises: ValueError for an empty string.
    """
    if "" in flagged:
        raise ValueError("an empty string occurs everywhere")
    width = min(map(len, flagged), default=1)
    starts: dict[str, list[str]] = defaultdict(list)
    for string in flagged:
        starts[string[:width]].append(string)
    found: Found = []
    for text in texts:
        hits = []
        for at in range(len(text) - width + 1):
            for string in starts.get(text[at : at + width], ()):
                end = at + len(string)
                if text.startswith(string, at) and _apart(text, at - 1, at) and _apart(text, end - 1, end):
                    hits.append(Span(at, end, "digits" if string.isdigit() else "propagated", flagged[string]))
        found.append(hits)
    return found


def drop_occurrences(found: Sequence[Sequence[Span]], share: float, rng: np.random.Generator) -> Found:
    """The spans without a share of them, each dropped by its own coin: a recogniser that misses occurrences."""
    return [[span for span in spans if rng.random() >= share] for spans in found]


def drop_strings(texts: Sequence[str], found: Sequence[Sequence[Span]], share: float, rng: np.random.Generator) -> Found:
    """The spans without those of a share of the distinct strings, rounded: what propagation cannot repair."""
    strings = sorted({text[s.start : s.end] for text, spans in zip(texts, found, strict=True) for s in spans})
    lost = {strings[i] for i in rng.permutation(len(strings))[: round(share * len(strings))]}
    pairs = zip(texts, found, strict=True)
    return [[s for s in spans if text[s.start : s.end] not in lost] for text, spans in pairs]


def recall_precision(likelihood: npt.ArrayLike, truth: npt.ArrayLike, theta: float = 0.5) -> tuple[float, float]:
    """Recall and precision of likelihood >= theta against private tokens, [..] bool; NaN where nothing is counted."""
    flagged, private = np.asarray(likelihood, dtype=np.float32) >= np.float32(theta), np.asarray(truth, dtype=bool)
    both = float((flagged & private).sum())
    recall = both / private.sum() if private.any() else float("nan")
    return float(recall), float(both / flagged.sum()) if flagged.any() else float("nan")


def _apart(text: str, left: int, right: int) -> bool:
    if left < 0 or right >= len(text):
        return True
    a, b = text[left], text[right]
    return not ((a.isdigit() and b.isdigit()) or (a.isalpha() and b.isalpha()))


def _shape(text: str) -> str:
    return "".join("0" if c.isdigit() else "A" if c.isupper() else "a" if c.isalpha() else c for c in text)
