"""Canaries: secrets planted on purpose, so that what a model remembers can be counted.

Carlini et al. 2019, arXiv 1802.08232, section 4 (text with a random part); specs: swing, sections 5 and 11 (own name
per canary, decoys, label canaries); specs: audit, section 2 (membership by fair coin before training). NumPy only:
texts, labels and indices in, texts, labels and a ledger out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedkd.errors import ConfigError
from fedkd.intervals import Bools, Floats, Ints

CONSONANTS, VOWELS = "bdfghjklmnprstvz", "aeiou"
SYLLABLES = tuple(c + v for c in CONSONANTS for v in VOWELS)


@dataclass(frozen=True)
class Config:
    """Options of text canaries."""

    template: str = "The id of {name} is {secret}."
    """Sentence with {name} and {secret}, once each."""
    alphabet: str = "0123456789"
    """Symbols of the secret, each uniform; one token each where exposure is counted exactly."""
    length: int = 6
    """Symbols of a secret; the space has len(alphabet) ** length secrets."""
    repetitions: tuple[int, ...] = (0, 1, 4, 16, 64)
    """Copies planted, one stratum each; 0 is the null group that is never planted."""
    per_count: int = 8
    """Canaries per stratum; 50 or more for the tests of specs: audit, section 4."""
    references: int = 1000
    """Secrets of the same format that are never planted."""
    decoys: int = 64
    """Sentences of the same template with other names, once each, in every arm: they teach the type, no secret."""


@dataclass(frozen=True)
class TextCanary:
    """One planted sentence."""

    id: str
    """Unique in its set, for example "c16-3"."""
    name: str
    """The canary's own name: three syllables, no duplicate."""
    secret: str
    """The random part."""
    text: str
    """The sentence."""
    repetitions: int
    """Copies to plant; 0 = never."""
    group: str
    """Where it is planted, for example "teacher", "transfer" or "both"."""


@dataclass(frozen=True)
class CanarySet:
    """Canaries with what is needed to score them."""

    canaries: tuple[TextCanary, ...]
    """All canaries, null group included."""
    references: tuple[str, ...]
    """Secrets that are never planted; distinct from every canary's and decoy's."""
    decoys: tuple[str, ...]
    """Decoy sentences."""
    space: int
    """Number of possible secrets."""


@dataclass(frozen=True)
class LabelCanary:
    """Samples of one client whose labels were replaced by independent uniform ones: the label string is the secret."""

    client: int
    """The client that holds the samples."""
    indices: tuple[int, ...]
    """Rows of the samples."""
    labels: tuple[int, ...]
    """The planted labels."""


def space_size(config: Config) -> int:
    """Number of possible secrets."""
    size: int = len(config.alphabet) ** config.length
    return size


def draw(config: Config, rng: np.random.Generator, groups: Sequence[str] = ("all",)) -> CanarySet:
    """Draw names, secrets, references and decoys; every secret uniform, no secret or name twice.

    Drawing without replacement keeps canaries and references exchangeable, which the rank tests rest on.

    Raises: ConfigError for a template without its two fields, a repeated symbol, a negative count, a space too small.
    """
    _check(config)
    strata = [(group, copies) for group in groups for copies in config.repetitions]
    count = len(strata) * config.per_count
    names = _names(count + config.decoys, rng)
    secrets = _secrets(config, count + config.references + config.decoys, rng)
    canaries = []
    for index in range(count):
        group, copies = strata[index // config.per_count]
        name, secret = names[index], secrets[index]
        prefix = f"{group}-" if len(groups) > 1 else ""
        text = config.template.format(name=name, secret=secret)
        label = f"{prefix}c{copies}-{index % config.per_count}"
        canaries.append(TextCanary(label, name, secret, text, copies, group))
    planted = zip(names[count:], secrets[count + config.references :], strict=True)
    decoys = tuple(config.template.format(name=name, secret=secret) for name, secret in planted)
    references = tuple(secrets[count : count + config.references])
    return CanarySet(tuple(canaries), references, decoys, space_size(config))


def _check(config: Config) -> None:
    if config.template.count("{name}") != 1 or config.template.count("{secret}") != 1:
        raise ConfigError("the canary template needs {name} and {secret}, once each")
    if len(set(config.alphabet)) != len(config.alphabet) or len(config.alphabet) < 2 or config.length < 1:
        raise ConfigError("the canary alphabet needs at least two different symbols and a length of at least 1")
    if min((*config.repetitions, config.per_count, config.references, config.decoys)) < 0:
        raise ConfigError("canary counts must not be negative")
    if len(set(config.repetitions)) != len(config.repetitions):
        raise ConfigError("each repetition count may be named once")


def _secrets(config: Config, count: int, rng: np.random.Generator) -> list[str]:
    space = space_size(config)
    if count > space or space >= 2**62:
        raise ConfigError(f"{count} secrets do not fit a space of {space} (at most 2**62 is supported)")
    found: dict[int, None] = {}
    while len(found) < count:
        found.update(dict.fromkeys(rng.integers(space, size=count - len(found)).tolist()))
    base = len(config.alphabet)
    return ["".join(config.alphabet[value // base**place % base] for place in range(config.length)) for value in found]


def _names(count: int, rng: np.random.Generator) -> list[str]:
    total = len(SYLLABLES) ** 3
    if count > total:
        raise ConfigError(f"{count} names asked for; three syllables give {total}")
    codes = rng.choice(total, size=count, replace=False)
    parts = [(code // len(SYLLABLES) ** 2, code // len(SYLLABLES) % len(SYLLABLES), code % len(SYLLABLES)) for code in codes]
    return ["".join(SYLLABLES[part] for part in triple).capitalize() for triple in parts]


def coin_flips(size: int, rng: np.random.Generator) -> Bools:
    """Membership of each of ``size`` examples by a fair coin, [size]; drawn before anything is trained."""
    return np.asarray(rng.integers(2, size=size) == 1)


def plant(texts: Sequence[str], canaries: CanarySet, rng: np.random.Generator) -> tuple[list[str], dict[str, list[int]]]:
    """Insert every copy and decoy at random rows; the texts keep their order. Returns (texts, ledger of rows by id)."""
    extra = [(canary.id, canary.text) for canary in canaries.canaries for _ in range(canary.repetitions)]
    extra += [("decoy", text) for text in canaries.decoys]
    total = len(texts) + len(extra)
    rows = rng.permutation(total)[: len(extra)]
    planted: dict[int, tuple[str, str]] = dict(zip(rows.tolist(), extra, strict=True))
    ledger: dict[str, list[int]] = {canary.id: [] for canary in canaries.canaries}
    remaining = iter(texts)
    result = []
    for row in range(total):
        if row in planted:
            name, text = planted[row]
            ledger.setdefault(name, []).append(row)
            result.append(text)
        else:
            result.append(next(remaining))
    return result, ledger


def verify(texts: Sequence[str], canaries: CanarySet) -> None:
    """Count every canary in the final texts: packing, cutting or deduplication may have lost or doubled copies.

    Raises: ValueError naming the canaries whose number of copies differs from the plan.
    """
    joined = "\x00".join(texts)
    counts = {canary.id: (joined.count(canary.text), canary.repetitions) for canary in canaries.canaries}
    wrong = [f"{name}: {found} instead of {planned}" for name, (found, planned) in counts.items() if found != planned]
    if wrong:
        raise ValueError(f"{len(wrong)} canaries are not planted as planned ({'; '.join(wrong[:5])})")


def count_tokens(stream: npt.ArrayLike, pattern: npt.ArrayLike) -> int:
    """Occurrences of a token sequence [k] in a token stream [T]: the check after tokenising and packing.

    Raises: ValueError for an empty pattern.
    """
    tokens, wanted = np.asarray(stream), np.asarray(pattern)
    if wanted.size == 0:
        raise ValueError("a canary has at least one token")
    if tokens.size < wanted.size:
        return 0
    windows = np.lib.stride_tricks.sliding_window_view(tokens, wanted.size)
    return int((windows == wanted).all(axis=1).sum())


def label_canaries(
    rows_by_client: Mapping[int, npt.ArrayLike],
    classes: int,
    rng: np.random.Generator,
    length: int = 6,
    per_client: int = 1,
) -> tuple[LabelCanary, ...]:
    """For each client, ``per_client`` canaries of ``length`` own samples with independent uniform labels.

    Raises: ConfigError for fewer than two classes, or a client with too few samples.
    """
    if classes < 2 or length < 1 or per_client < 1:
        raise ConfigError("label canaries need at least two classes, one sample and one canary per client")
    drawn = []
    for client in sorted(rows_by_client):
        rows = np.asarray(rows_by_client[client], dtype=np.int64)
        if rows.size < length * per_client:
            raise ConfigError(f"client {client} has {rows.size} samples; its label canaries need {length * per_client}")
        chosen = rng.choice(rows, size=(per_client, length), replace=False)
        labels = rng.integers(classes, size=(per_client, length))
        drawn += [
            LabelCanary(client, tuple(own.tolist()), tuple(new.tolist())) for own, new in zip(chosen, labels, strict=True)
        ]
    return tuple(drawn)


def with_labels(labels: npt.ArrayLike, canaries: Sequence[LabelCanary]) -> Ints:
    """A copy of [N] labels with the planted ones in place."""
    changed = np.array(labels, dtype=np.int64)
    for canary in canaries:
        changed[list(canary.indices)] = canary.labels
    return changed


def label_references(classes: int, count: int, rng: np.random.Generator, length: int = 6) -> Ints:
    """Uniform label strings to rank a canary's against, [count, length]."""
    return np.asarray(rng.integers(classes, size=(count, length)), dtype=np.int64)


def label_string_score(log_q: npt.ArrayLike, strings: npt.ArrayLike) -> Floats:
    """Sum of log q(label | sample) for each label string: log_q [length, C], strings [R, length] -> [R].

    Raises: ValueError for shapes that do not fit.
    """
    table, labels = np.asarray(log_q, dtype=np.float64), np.asarray(strings, dtype=np.int64)
    if table.ndim != 2 or labels.ndim != 2 or labels.shape[1] != table.shape[0]:
        raise ValueError(f"needs log q [length, C] and strings [R, length], got {table.shape} and {labels.shape}")
    return np.asarray(table[np.arange(table.shape[0]), labels].sum(axis=1), dtype=np.float64)
