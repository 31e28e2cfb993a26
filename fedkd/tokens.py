"""Tokenizers with one interface: one character per token, byte-level BPE with single digits, or a Hugging Face folder.

Every digit is a token of its own in each of them, so that the exposure of a secret of digits can be counted exactly
(specs: swing, sections 5 and 9). Characters need no package; the others need the extra ``text``, imported when used.
"""

from __future__ import annotations

import hashlib
import json
import os
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fedkd.errors import ConfigError

if TYPE_CHECKING:
    import tokenizers

DIGITS = "0123456789"
ASCII = "\n" + "".join(chr(code) for code in range(32, 127))
"""Newline and the printable ASCII characters: an alphabet that depends on no text."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What a character outside the alphabet is decoded to."""
BOS, UNKNOWN, FIRST = 0, 1, 2
"""Ids of character tokenizers: beginning of sequence, replacement, first symbol of the alphabet."""
SMALLEST_BPE = 257
"""256 bytes and BOS."""
FORMAT = "fedkd-tokenizer-1"

Offsets = list[tuple[int, int]]
"""Start and end of each token in the text, in characters."""


class Tokenizer(Protocol):
    """What rows, canaries and sensitivities need of a tokenizer."""

    @property
    def vocabulary(self) -> int:
        """V: ids are in [0, V), special ones included."""

    @property
    def bos(self) -> int:
        """Id of the beginning of a sequence; ``encode`` never returns it."""

    @property
    def digits(self) -> tuple[int, ...]:
        """[10] ids of "0" to "9"."""

    @property
    def identity(self) -> str:
        """sha256 of all that decides the ids: a teacher and a student with one identity share a vocabulary."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without BOS."""

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """The ids of a text and the characters that each stands for."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; BOS is left out. Raises: ValueError for an id outside the vocabulary."""

    def to_json(self) -> dict[str, Any]:
        """What ``save`` writes and ``load`` reads."""


@dataclass(frozen=True)
class Characters:
    """One token per character: BOS 0, replacement 1, then the alphabet by code point."""

    alphabet: str = ASCII
    """known characters, the ten digits among them; fix it from public text only, for it would tell what private text holds"""
    identity: str = field(init=False)
    """see ``Tokenizer``"""
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    bos = BOS

    def __post_init__(self) -> None:
        ordered = "".join(sorted(set(self.alphabet)))
        if missing := set(DIGITS) - set(ordered):
            raise ConfigError(f"the alphabet lacks {', '.join(sorted(missing))}; every digit must be a token of its own")
        if len(ordered) < len(self.alphabet) or REPLACEMENT in ordered:
            raise ConfigError("the alphabet names a character twice, or U+FFFD, which stands for unknown ones")
        object.__setattr__(self, "alphabet", ordered)
        object.__setattr__(self, "_ids", {symbol: FIRST + index for index, symbol in enumerate(ordered)})
        object.__setattr__(self, "identity", _digest(self.to_json()))

    @property
    def vocabulary(self) -> int:
        """The alphabet, the replacement and BOS."""
        return FIRST + len(self.alphabet)

    @property
    def digits(self) -> tuple[int, ...]:
        """[10] ids of "0" to "9"."""
        return tuple(self._ids[digit] for digit in DIGITS)

    def encode(self, text: str) -> list[int]:
        """One id per character; those outside the alphabet get the replacement's."""
        known = self._ids
        return [known.get(symbol, UNKNOWN) for symbol in text]

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """The ids, and (i, i + 1) for the i-th of them."""
        return self.encode(text), [(index, index + 1) for index in range(len(text))]

    def decode(self, ids: Sequence[int]) -> str:
        """The characters; BOS is left out. Raises: ValueError for an id outside the vocabulary."""
        _check_range(ids, self.vocabulary)
        symbols = REPLACEMENT + self.alphabet
        return "".join(symbols[token - UNKNOWN] for token in ids if token != BOS)

    def to_json(self) -> dict[str, Any]:
        """What ``save`` writes."""
        return {"format": FORMAT, "kind": "characters", "alphabet": self.alphabet, "replacement": REPLACEMENT}


class Subwords:
    """A tokenizer of the ``tokenizers`` library whose digits are single tokens.

    Text that spells a special token is encoded as ordinary text: a mail with ``<bos>`` in it cannot start a sequence.

    Raises: ConfigError where a digit is not a token of its own.
    """

    def __init__(self, backend: tokenizers.Tokenizer, bos: int) -> None:
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self._backend, self.bos = backend, bos
        self.vocabulary = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        self.digits = _single_digits(backend)
        self.identity = _digest(self.to_json())

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without BOS."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """The ids of a text and the characters that each stands for (the bytes of one character share its offsets)."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens are left out. Raises: ValueError for an id outside the vocabulary."""
        _check_range(ids, self.vocabulary)
        text: str = self._backend.decode(list(ids), skip_special_tokens=True)
        return text

    def to_json(self) -> dict[str, Any]:
        """What ``save`` writes."""
        return {"format": FORMAT, "kind": "subwords", "bos": self.bos, "tokenizer": json.loads(self._backend.to_str())}


def characters(alphabet: str = ASCII) -> Characters:
    """A tokenizer of single characters; the order and the source of the alphabet do not matter.

    Raises: ConfigError for an alphabet without the ten digits, with a repeated character, or with U+FFFD.
    """
    return Characters(alphabet)


def alphabet_of(texts: Iterable[str]) -> str:
    """Every character of some public texts, the ten digits and the newline, by code point (U+FFFD is left out)."""
    found = set(DIGITS + "\n").union(*texts) - {REPLACEMENT}
    return "".join(sorted(found))


def bpe(texts: Iterable[str], size: int) -> Subwords:
    """Byte-level byte-pair encoding trained on public texts: at most ``size`` tokens, BOS included, no unknown character.

    Digits are split off before any merge, so no token holds a digit and anything else.

    Raises: ConfigError for a size below 257 or where ``tokenizers`` is not installed.
    """
    if size < SMALLEST_BPE:
        raise ConfigError(f"bpe: size = {size}; it must be at least {SMALLEST_BPE} (256 bytes and BOS)")
    package = _tokenizers()
    backend = package.Tokenizer(package.models.BPE())
    split, to_bytes = package.pre_tokenizers.Digits(individual_digits=True), package.pre_tokenizers.ByteLevel
    backend.pre_tokenizer = package.pre_tokenizers.Sequence([split, to_bytes(add_prefix_space=False)])
    backend.decoder = package.decoders.ByteLevel()
    trainer = package.trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<bos>"], initial_alphabet=to_bytes.alphabet(), show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return Subwords(backend, backend.token_to_id("<bos>"))


def from_pretrained(folder: Path) -> Subwords:
    """The tokenizer in a folder of Hugging Face files; nothing is downloaded and no code of the folder is run.

    Its beginning of sequence is used, or its end of sequence where it has no beginning.

    Raises: ConfigError where it cannot be read, has neither token, or a digit is not a token of its own.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder with the files of a Hugging Face tokenizer")
    try:
        from transformers.models.auto.tokenization_auto import AutoTokenizer
    except ImportError:
        raise ConfigError("tokenizers of Hugging Face need: pip install 'fedkd[text]'") from None
    try:
        found: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises whatever the damaged file happened to break
        raise ConfigError(f"{folder} holds no tokenizer that transformers can read: {_line(error)}") from None
    backend = getattr(found, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(f"{folder}: {type(found).__name__} gives no character offsets; save it with a tokenizer.json")
    bos = found.bos_token_id if found.bos_token_id is not None else found.eos_token_id
    if bos is None:
        raise ConfigError(f"{folder}: the tokenizer has neither a bos_token nor an eos_token; name one in its config")
    try:
        return Subwords(backend, bos)
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from None


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Write a tokenizer as JSON, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(tokenizer.to_json(), ensure_ascii=True, sort_keys=True), encoding="ascii")
    part.replace(path)


def load(path: Path) -> Tokenizer:
    """A tokenizer that ``save`` wrote. Raises: ConfigError where the file is missing or not such a file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = content["kind"] if content["format"] == FORMAT else "of another format"
        if kind == "characters":
            return Characters(str(content["alphabet"]))
        if kind == "subwords":
            bos = int(content["bos"])
            backend = _tokenizers().Tokenizer.from_str(json.dumps(content["tokenizer"]))
            if backend.id_to_token(bos) is None:
                raise ConfigError(f"bos = {bos} is not a token")
            return Subwords(backend, bos)
    except Exception as error:  # tokenizers raises bare Exception; the file is another's
        raise ConfigError(f"{path} is no tokenizer that fedkd saved: {_line(error)}") from None
    raise ConfigError(f"{path} holds a tokenizer {kind!r}; valid: characters, subwords")


def _single_digits(backend: tokenizers.Tokenizer) -> tuple[int, ...]:
    """[10] ids of the digits, after looking at each triple of digits behind a space, twice in a row, and behind a letter."""
    runs = [f"{number:03d}" for number in range(1000)]
    probes = [f"The id is {run}{run}." for run in runs] + [f"x{run}y" for run in runs]
    seen: dict[str, int] = {}
    for text, encoding in zip(probes, backend.encode_batch(probes, add_special_tokens=False), strict=True):
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            part = text[start:end]
            if not set(part) & set(DIGITS):
                continue
            if len(part) > 1 or seen.setdefault(part, token) != token:
                where = f"{part!r} is one token of {text!r}"
                raise ConfigError(f"the tokenizer has no single token per digit ({where}); use one that splits digits")
    if len(set(seen.values())) < len(DIGITS):
        raise ConfigError("the tokenizer has no token of its own for each of the ten digits; use one that splits digits")
    return tuple(seen[digit] for digit in DIGITS)


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ConfigError("byte-pair encoding needs: pip install 'fedkd[text]'") from None
    return tokenizers


def _check_range(ids: Sequence[int], vocabulary: int) -> None:
    if wrong := [token for token in ids if not 0 <= token < vocabulary]:
        raise ValueError(f"token id {wrong[0]} is outside [0, {vocabulary})")


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()


def _line(error: Exception) -> str:
    text = str(error).strip(string.whitespace)
    return text.splitlines()[0] if text else type(error).__name__
