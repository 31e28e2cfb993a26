"""The user's own finished models and text, read like the models of a study: what do the students remember? Nothing is trained.

Models are folders of Hugging Face files (or hub ids); text is a folder of ``.txt`` files. An example is the first tokens of a
record, as many as prefix and suffix have; records that repeat exactly are one example with that many copies (specs:
memorization, sections 2 and 9).
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.tokenization_auto import AutoTokenizer

from fedkd import near_duplicates
from fedkd.distill import Rows
from fedkd.errors import ConfigError
from fedkd.language import folder_of, pretrained
from fedkd.memorization_bench import Arrays, Found, agreement, divergences, recall
from fedkd.memorization_plan import Own
from fedkd.texts import local_text

STRATUM = "own"
"""The one kind of text there is."""


class Examples:
    """The user's rows, in the tokens that all the models share.

    Raises: ConfigError where tokenizers differ or the text is too short; DataError for a missing or unreadable folder.
    """

    def __init__(self, own: Own) -> None:
        self.own = own
        names = [n for n in (own.teacher, own.base, own.baseline, *own.students) if n]
        found = [_tokenizer(name) for name in names]
        for name, other in zip(names, found, strict=True):
            if other.get_vocab() != found[0].get_vocab():
                raise ConfigError(f"{name} and {names[0]} have different tokenizers: their spans of tokens cannot be compared")
        self.tokenizer = found[0]
        counted = self._counted(own.text)
        if len(counted) < 2:
            width = own.prefix + own.suffix
            raise ConfigError(f"{own.text} has {len(counted)} records of at least {width} tokens; lower prefix and suffix")
        held = {row: n for row, n in self._counted(own.held_out).items() if row not in counted} if own.held_out else {}
        self.rows, self.held = _table(list(counted)), _table(list(held))
        self.copies = np.array(list(counted.values()), dtype=np.int64)

    def _counted(self, folder: str) -> Counter[tuple[int, ...]]:
        corpus = local_text.load(local_text.Config(record=self.own.record), folder)
        width = self.own.prefix + self.own.suffix
        encoded = (self.tokenizer.encode(text, add_special_tokens=False)[:width] for text in corpus.texts)
        return Counter(tuple(ids) for ids in encoded if len(ids) == width)

    def described(self) -> Arrays:
        """What is known of the examples without a model."""
        rows = self.rows.tolist()
        texts, ends = ([self.tokenizer.decode(r[start:]) for r in rows] for start in (0, self.own.prefix))
        return {
            "copies": self.copies,
            "cluster": near_duplicates.clusters(rows),
            "id": np.array([hashlib.sha256(np.asarray(r).tobytes()).hexdigest()[:12] for r in rows]),
            "stratum": np.array([STRATUM] * len(rows)),
            "held_stratum": np.array([STRATUM] * len(self.held)),
            "zlib_entropy": np.array([len(zlib.compress(t.encode())) for t in texts]),
            "zlib_suffix": np.array([len(zlib.compress(t.encode())) for t in ends]),
        }

    def measure(self, model: PreTrainedModel, name: str) -> Found:
        """What a finished model remembers, in the form of a study's file; its one "epoch" is what it is now."""
        context = int(getattr(model.config, "max_position_embeddings", 2**31))
        if context < self.rows.shape[1]:
            raise ConfigError(f"{name} reads {context} tokens; prefix + suffix = {self.rows.shape[1]} is more")
        arrays = recall(model, self.rows, self.own.prefix)
        held = recall(model, self.held, self.own.prefix) if len(self.held) else {n: v[:0] for n, v in arrays.items()}
        loss = float(held["nll"].mean()) if len(self.held) else float("nan")
        arrays |= {f"held_{n}": v for n, v in held.items()}
        arrays |= {"epoch_hits": arrays["hits"][None], "epoch_log_pz": arrays["log_pz"][None], "epoch_loss": np.array([loss])}
        rule = agreement(model, self.rows, self.own.prefix, arrays)
        memorized = int(arrays["hits"].sum())
        facts: dict[str, Any] = {
            "model": name,
            "held_out_loss": loss,
            "glance_loss": loss,
            "rule": rule,
            "memorized": memorized,
        }
        return Found(facts | {"prose_perplexity": float(np.exp(loss))}, arrays)

    def all_models(self, student: str) -> dict[tuple[str, int], Found]:
        """One student beside teacher, base and baseline, as (model, seed) -> file."""
        named = {"base": self.own.base, "teacher": self.own.teacher, "baseline": self.own.baseline, "student": student}
        models = {role: pretrained(name) for role, name in named.items() if name}
        found = {(role, 0): self.measure(model, named[role]) for role, model in models.items()}
        if "baseline" in models:
            whole = Rows(self.rows, torch.full((len(self.rows),), self.rows.shape[1], dtype=torch.int64))
            arrays = found["baseline", 0].arrays
            arrays["kld"], arrays["kld_reverse"] = divergences(models["teacher"], models["baseline"], whole)
        return found


def _tokenizer(name: str) -> Any:
    """The tokenizer of a folder or hub id; no code of it is run. Raises: ConfigError where it cannot be read."""
    folder: Path = folder_of(name)
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises whatever the damaged file happened to break
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{name}: no tokenizer that transformers can read: {line}") from None


def _table(rows: list[tuple[int, ...]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64)
