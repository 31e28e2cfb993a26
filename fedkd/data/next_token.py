"""Text as a classification set: a window of characters is the example, the character that follows is its label.

Source: decided here; texts come from a file of ``fedkd/texts`` (Shakespeare's roles, mail senders, the generated template), so
that a language model runs through the same app as an image model. A client is a natural client of the text set and holds whole
records: a tenth of them are its test rows, for a split by rows would cut records. Each client plants canaries of its own in its
training rows (Carlini et al., 2019, arXiv 1802.08232). The rows marked as public hold each canary's sentence with *fresh*
random secrets (regime R2 of specs: swing, section 5), then other groups' text. Passages are stretches of a client's later
records, each a record of its own that stands in the training rows as often as its stratum says (specs: memorization, 12).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np

from fedkd import canary, plugins, rng, tokens
from fedkd.canary import TextCanary
from fedkd.corpus import Corpus
from fedkd.dataset import PUBLIC, TEST, TRAIN, Spec, Table
from fedkd.errors import ConfigError
from fedkd.types import Array

TEST_SHARE = 0.1
"""Records of a client that are its test rows."""


@dataclass(frozen=True)
class Config:
    """Choices of the texts, the windows and the canaries."""

    text: str = "template"
    """a file of fedkd/texts"""
    text_args: str = ""
    """its Config, the inside of a TOML inline table"""
    window: int = 24
    """characters that predict the next one, at least 1; shorter beginnings are filled with the first token"""
    clients: int = 6
    """natural clients drawn among those with enough text, at least 1; num-clients is the same number"""
    characters: int = 1000
    """characters of a client's own records (whole records, at least as many), at least 1"""
    public_characters: int = 1000
    """characters of public text from groups that no drawn client belongs to, at least 0"""
    template: str = "The id of {name} is {secret}."
    """sentence of a canary; a newline follows"""
    repetitions: tuple[int, ...] = (0, 16)
    """copies of a canary in its client's training rows, one stratum each; 0 = never planted"""
    per_count: int = 1
    """canaries of each client and stratum; 0 = no canary"""
    fresh_copies: int = 3
    """public copies of each canary's sentence, each with a secret of its own; 0 = no sentence of a canary is public"""
    passages: int = 0
    """passages of each client and number of copies, cut from its records after those that it holds; 0 = none"""
    copies: tuple[int, ...] = (0, 1, 2, 3, 4, 6, 8, 12)
    """how often a passage stands in its client's training rows; 0 = never, the control"""
    passage_characters: int = 48
    """characters of a passage; its first ``window`` are the prefix, so more than those"""
    public_passages: Literal["none", "half"] = "none"
    """half: every second passage of a stratum stands in the public rows as well, once"""
    seed: int = 0
    """seed of the draw of clients, canaries, passages and rows"""

    def __post_init__(self) -> None:
        for name, low in (("window", 1), ("clients", 1), ("characters", 1), ("public_characters", 0), ("fresh_copies", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"data.args: {name} = {getattr(self, name)}; it must be at least {low}")
        if self.passages < 0 or (self.passages and self.passage_characters <= self.window):
            raise ConfigError(f"data.args: passages = {self.passages} of {self.passage_characters} characters; at least 0, of "
                              f"more than window = {self.window}")  # fmt: skip
        if not self.copies or min(self.copies) < 0 or len(set(self.copies)) < len(self.copies):
            raise ConfigError(f"data.args: copies = {list(self.copies)}; valid: different numbers of at least 0")


class Passage(NamedTuple):
    """A stretch of a client's own text that was planted."""

    client: int
    """who holds it"""
    copies: int
    """in that client's training rows"""
    text: str
    """its characters"""
    public: bool
    """True where the public rows hold it as well"""


def spec(config: Config) -> Spec:
    """A window of token ids and a vocabulary that depends on the text set's public alphabet alone. Raises: ConfigError."""
    source = plugins.find("texts", config.text).SPEC
    return Spec(
        name="next_token",
        shape=(config.window,),
        classes=tokenizer(config).vocabulary,
        licence=source.licence,
        source=f"windows of text: {source.source}",
        fetch=source.fetch,
    )


def tokenizer(config: Config) -> tokens.Characters:
    """One token per character of an alphabet that no private text decides: the set's own, or ASCII."""
    return tokens.characters(getattr(plugins.find("texts", config.text), "ALPHABET", tokens.ASCII))


SPEC = spec(Config())


def canaries(config: Config) -> tuple[TextCanary, ...]:
    """Every client's canaries; ``group`` is the client's number. The same for a config, whatever the run's seed."""
    drawn = canary.Config(config.template, repetitions=config.repetitions, per_count=config.per_count, references=0, decoys=0)
    groups = [str(n) for n in range(config.clients)]
    return canary.draw(drawn, rng.experiment(config.seed, "text canaries"), groups).canaries


def load(config: Config, root: str) -> Table:
    """Rows: each client's records and copies of its canaries, then the public rows (the sentences first).

    Raises: ConfigError for too little text or a canary name that occurs in it; DataError for missing files.
    """
    module, planted = plugins.find("texts", config.text), canaries(config)
    own, public, stretches = _texts(config, module.load(_text_config(config, module), root))
    whole = "\x00".join([*(text for texts in own for text in texts), *public])
    taken = next((c.name for c in planted if c.name in whole), None)
    if taken is not None:
        raise ConfigError(f"the canary name {taken!r} occurs in the text; use another seed or template in data.args")
    made: list[tuple[Array, Array, int, int]] = []
    for client, texts in enumerate(own):
        held = rng.experiment(config.seed, "text test records", client=client).permutation(len(texts))
        test = set(held[: max(1, round(TEST_SHARE * len(texts)))].tolist())
        for place, text in enumerate(texts):
            made.append((*rows(config, [text]), client, TEST if place in test else TRAIN))
        copies = [c.text + "\n" for c in planted if c.group == str(client) for _ in range(c.repetitions)]
        copies += [p.text for p in stretches if p.client == client for _ in range(p.copies)]
        made.append((*rows(config, copies), client, TRAIN))
    shared = [p.text for p in stretches if p.public]
    made.append((*rows(config, [*_fresh(config, planted), *shared, *public]), 0, PUBLIC))
    sizes = [len(y) for _, y, _, _ in made]
    column = [np.repeat([m[i] for m in made], sizes) for i in (2, 3)]
    x, y = (np.concatenate([m[i] for m in made]) for i in (0, 1))
    return Table(x, y, column[0].astype(np.int32), column[1].astype(np.int8))


def passages(config: Config, root: str) -> tuple[Passage, ...]:
    """Every client's passages. Raises: as :func:`load`."""
    module = plugins.find("texts", config.text)
    return _texts(config, module.load(_text_config(config, module), root))[2]


def rows(config: Config, texts: Iterable[str]) -> tuple[Array, Array]:  # [n, window] float32 token ids, [n] int32
    """One row per character of each text; a window never reaches into another text."""
    encoder = tokenizer(config)
    x, y = [np.zeros((0, config.window), np.float32)], [np.zeros(0, np.int32)]
    for text in texts:
        ids = np.array(encoder.encode(text), np.int32)
        padded = np.concatenate([np.full(config.window, encoder.bos, np.int32), ids])
        x.append(np.lib.stride_tricks.sliding_window_view(padded, config.window)[: len(ids)].astype(np.float32))
        y.append(ids)
    return np.concatenate(x), np.concatenate(y)


def _text_config(config: Config, module: ModuleType) -> Any:
    from fedkd.config import parse_args

    return parse_args(config.text_args, module.Config, "text_args")


def _texts(config: Config, corpus: Corpus) -> tuple[list[list[str]], list[str], tuple[Passage, ...]]:
    """(records of each client, public records, passages): natural clients with enough text, and groups of none of them."""
    by_client: dict[str, list[int]] = {}
    for record, name in enumerate(corpus.clients):
        by_client.setdefault(name, []).append(record)
    lengths = {name: sum(len(corpus.texts[r]) for r in own) for name, own in by_client.items()}
    spare = 2 * config.passages * len(config.copies) * config.passage_characters  # half of it may not be usable
    wanted = config.characters + spare
    fit = sorted(name for name, own in by_client.items() if lengths[name] >= wanted and len(own) > 1)
    if len(fit) < config.clients:
        raise ConfigError(f"data.args: {len(fit)} clients of {config.text} have {wanted} characters in two records; "
                          f"clients = {config.clients} are asked for")  # fmt: skip
    stream = rng.experiment(config.seed, "text clients")
    chosen = [fit[i] for i in np.sort(stream.choice(len(fit), config.clients, replace=False))]
    own = [_enough([corpus.texts[r] for r in by_client[name]], config.characters) for name in chosen]
    used = {corpus.groups[r] for name in chosen for r in by_client[name]}
    others = [text for text, group in zip(corpus.texts, corpus.groups, strict=True) if group not in used]
    public = _enough([others[i] for i in stream.permutation(len(others))], config.public_characters)
    if sum(map(len, public)) < config.public_characters:
        raise ConfigError(f"data.args: groups of no drawn client have {sum(map(len, public))} characters; "
                          f"public_characters = {config.public_characters} are asked for")  # fmt: skip
    later = [[corpus.texts[r] for r in by_client[name][len(texts) :]] for name, texts in zip(chosen, own, strict=True)]
    return own, public, _passages(config, later, "\x00".join([*(text for texts in own for text in texts), *public]))


def _passages(config: Config, later: list[list[str]], elsewhere: str) -> tuple[Passage, ...]:
    """Stretches of each client's later records, none twice and none that occurs ``elsewhere``, in random order."""
    found: list[Passage] = []
    taken: set[str] = set()
    for client, texts in enumerate(later if config.passages else []):
        size = config.passage_characters
        cut = dict.fromkeys(text[i : i + size] for text in texts for i in range(0, len(text) - size + 1, size))
        usable = [stretch for stretch in cut if stretch not in taken and stretch not in elsewhere]
        order = rng.experiment(config.seed, "text passages", client=client).permutation(len(usable))
        wanted = config.passages * len(config.copies)
        if len(usable) < wanted:
            raise ConfigError(f"data.args: client {client} has {len(usable)} passages of {size} characters after its records; "
                              f"{wanted} are asked for")  # fmt: skip
        for number, i in enumerate(order[:wanted]):
            public = config.public_passages == "half" and number % config.passages % 2 == 1
            found.append(Passage(client, config.copies[number // config.passages], usable[i], public))
            taken.add(usable[i])
    return tuple(found)


def _enough(texts: list[str], characters: int) -> list[str]:
    """The first texts that together have at least so many characters."""
    ends = np.cumsum([len(text) for text in texts])
    return texts[: int(np.searchsorted(ends, characters)) + 1] if characters else []


def _fresh(config: Config, planted: Iterable[TextCanary]) -> list[str]:
    """Each canary's sentence with random secrets that no client holds, copy by copy."""
    stream = rng.experiment(config.seed, "fresh secrets")
    found = []
    for _ in range(config.fresh_copies):
        for c in planted:
            digits = "".join(str(d) for d in stream.integers(10, size=len(c.secret)))
            found.append(config.template.format(name=c.name, secret=digits) + "\n")
    return found
