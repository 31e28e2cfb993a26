"""Tokenizers: round trips, offsets, single digits, identities, files. BPE is trained on a few made-up lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd import tokens
from fedkd.errors import ConfigError

tokenizers = pytest.importorskip("tokenizers")
ROOT = Path(__file__).resolve().parents[1]
TEXTS = ["the order is 482913 for the shop", "the price is 12 and the order is 99", "the shop is the shop 5"] * 4
CHARACTERS = tokens.characters()
BPE = tokens.bpe(TEXTS, 300)
BOTH = pytest.mark.parametrize("tokenizer", [CHARACTERS, BPE], ids=["characters", "bpe"])


# ----- laws of every tokenizer -----------------------------------------------------------------------------------------
@BOTH
@given(text=st.text(st.characters(max_codepoint=126, min_codepoint=32) | st.just("\n"), max_size=40))
def test_decode_gives_the_text_back(tokenizer: tokens.Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == tokenizer.decode([tokenizer.bos, *ids]) == text
    assert all(0 <= token < tokenizer.vocabulary for token in ids)
    assert tokenizer.bos not in ids


@BOTH
@given(text=st.text(st.sampled_from("the shop 482913\u00e9\u20ac\U0001f600\n"), max_size=30))
def test_offsets_cover_the_text_in_order(tokenizer: tokens.Tokenizer, text: str) -> None:
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text)
    assert len(offsets) == len(ids)
    assert sorted({index for start, end in offsets for index in range(start, end)}) == list(range(len(text)))
    assert [start for start, _ in offsets] == sorted(start for start, _ in offsets)
    for token, (start, end) in zip(ids, offsets, strict=True):
        if text[start:end] in tuple(tokens.DIGITS):
            assert token == tokenizer.digits[int(text[start:end])]
        else:
            assert not set(text[start:end]) & set(tokens.DIGITS), "a digit shares a token with nothing"


@BOTH
def test_a_secret_of_digits_is_as_many_tokens(tokenizer: tokens.Tokenizer) -> None:
    ids, offsets = tokenizer.encode_with_offsets("The id of Kabemi is 482913.")
    inside = [token for token, (start, _) in zip(ids, offsets, strict=True) if 20 <= start < 26]
    assert inside == [tokenizer.digits[int(digit)] for digit in "482913"]
    assert len(set(tokenizer.digits)) == 10


@BOTH
@pytest.mark.parametrize("token", [-1, 10**6])
def test_ids_outside_the_vocabulary_are_refused(tokenizer: tokens.Tokenizer, token: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        tokenizer.decode([token])


@BOTH
def test_saved_and_loaded_is_the_same(tokenizer: tokens.Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokens.save(tokenizer, path)
    loaded = tokens.load(path)
    text = "the shop is 12 \u20ac from Kabemi"
    assert type(loaded) is type(tokenizer)
    assert loaded.identity == tokenizer.identity
    assert loaded.encode(text) == tokenizer.encode(text)
    assert (loaded.bos, loaded.vocabulary, loaded.digits) == (tokenizer.bos, tokenizer.vocabulary, tokenizer.digits)
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize(
    "content",
    [
        None, "", "[]", "{}", '{"format": "other", "kind": "characters"}',
        '{"format": "fedkd-tokenizer-1", "kind": "words"}',
        '{"format": "fedkd-tokenizer-1", "kind": "characters"}',
        '{"format": "fedkd-tokenizer-1", "kind": "characters", "alphabet": "abc"}',
        '{"format": "fedkd-tokenizer-1", "kind": "subwords", "bos": 0, "tokenizer": {}}',
        '{"format": "fedkd-tokenizer-1", "kind": "subwords", "bos": "x", "tokenizer": {}}',
    ],
)  # fmt: skip
def test_a_file_that_is_no_tokenizer_is_one_line(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        tokens.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_beginning_that_is_no_token_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**BPE.to_json(), "bos": 10**6}))
    with pytest.raises(ConfigError, match="bos = 1000000 is not a token"):
        tokens.load(path)


# ----- characters ------------------------------------------------------------------------------------------------------
def test_character_ids() -> None:
    tokenizer = tokens.characters("ba0123456789")
    assert tokenizer.vocabulary == 14
    assert tokenizer.bos == 0
    assert tokenizer.digits == tuple(range(2, 12))
    assert tokenizer.encode("ab?") == [12, 13, 1]
    assert tokenizer.decode([0, 12, 13, 1]) == "ab\N{REPLACEMENT CHARACTER}"


def test_identity_is_that_of_the_set_of_characters() -> None:
    same, other = tokens.characters("9876543210ab"), tokens.characters("0123456789ac")
    assert tokens.characters("ba0123456789").identity == same.identity != other.identity
    assert CHARACTERS.identity != BPE.identity
    assert CHARACTERS.vocabulary == 98


@pytest.mark.parametrize(
    ("alphabet", "message"),
    [("abc012345678", "lacks 9"), ("", "lacks 0, 1"), ("0123456789aa", "twice"), ("0123456789\ufffd", "U\\+FFFD")],
)
def test_alphabets_that_are_refused(alphabet: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tokens.characters(alphabet)


def test_alphabet_of_public_texts() -> None:
    assert tokens.alphabet_of(["ba", "\ufffda"]) == "\n0123456789ab"
    assert tokens.alphabet_of([]) == "\n0123456789"


def test_characters_need_neither_library_nor_torch() -> None:
    code = (
        "import sys; sys.modules.update(tokenizers=None, transformers=None, torch=None)\n"
        "from fedkd import corpus, tokens\n"
        "print(corpus.rows(['ab'], tokens.characters(), 2).tokens.tolist())\n"
        "for make in (lambda: tokens.bpe(['a'], 300), lambda: tokens.from_pretrained(__import__('pathlib').Path('.'))):\n"
        "    try: make()\n"
        "    except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "[[0, 68, 69]]"
    assert done.stdout.count("pip install 'fedkd[text]'") == 2


# ----- byte-pair encoding ----------------------------------------------------------------------------------------------
def test_training_repeats_and_merges_words() -> None:
    assert tokens.bpe(TEXTS, 300).identity == BPE.identity
    assert tokens.bpe(TEXTS, 270).identity != BPE.identity
    assert BPE.vocabulary <= 300
    assert len(BPE.encode("the shop")) < 8


def test_any_text_can_be_encoded() -> None:
    text = "\u00e9\u20ac\U0001f600\x00\u0661"
    assert BPE.decode(BPE.encode(text)) == text


def test_text_that_spells_a_special_token_is_text() -> None:
    ids = BPE.encode("a <bos> b")
    assert BPE.bos not in ids
    assert BPE.decode(ids) == "a <bos> b"


@pytest.mark.parametrize("size", [0, 256])
def test_a_vocabulary_below_the_bytes_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="at least 257"):
        tokens.bpe(TEXTS, size)


# ----- Hugging Face folders --------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def transformers() -> None:
    """Imported before a test starts: the first import of transformers draws from the global generator."""
    pytest.importorskip("transformers.models.auto.tokenization_auto")


def folder(path: Path, split_digits: bool = True, special: str = "bos_token") -> Path:
    """A tokenizer as ``save_pretrained`` leaves it; without split digits "12" becomes one token."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    to_bytes = tokenizers.pre_tokenizers.ByteLevel
    parts = [tokenizers.pre_tokenizers.Digits(individual_digits=True)] if split_digits else []
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([*parts, to_bytes(add_prefix_space=False)])
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=270, special_tokens=["<s>"], initial_alphabet=to_bytes.alphabet(), show_progress=False
    )
    backend.train_from_iterator(TEXTS if split_digits else ["12 12 12"], trainer)
    backend.enable_truncation(4)
    path.mkdir()
    backend.save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **({special: "<s>"} if special else {})}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize("special", ["bos_token", "eos_token"])
@pytest.mark.usefixtures("transformers")
def test_a_folder_is_wrapped_without_its_own_bos_and_truncation(special: str, tmp_path: Path) -> None:
    tokenizer = tokens.from_pretrained(folder(tmp_path / "t", special=special))
    text = "the order is 482913 for <s> shop"
    assert tokenizer.bos == 0
    assert tokenizer.vocabulary == 270
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert 0 not in tokenizer.encode(text)
    tokens.save(tokenizer, tmp_path / "saved.json")
    assert tokens.load(tmp_path / "saved.json").identity == tokenizer.identity


@pytest.mark.usefixtures("transformers")
def test_a_folder_that_merges_digits_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no single token per digit") as caught:
        tokens.from_pretrained(folder(tmp_path / "t", split_digits=False))
    assert str(tmp_path / "t") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("transformers")
def test_a_folder_without_special_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a bos_token nor an eos_token"):
        tokens.from_pretrained(folder(tmp_path / "t", special=""))


@pytest.mark.usefixtures("transformers")
def test_a_folder_without_files_or_none_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        tokens.from_pretrained(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="holds no tokenizer") as caught:
        tokens.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_digits_without_a_token_are_refused() -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<bos>": 0, "?": 1}, unk_token="?"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    with pytest.raises(ConfigError, match="token"):
        tokens.Subwords(backend, 0)
