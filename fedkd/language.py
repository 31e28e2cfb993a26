"""Small causal language models from ``transformers`` configurations, and their keys and values kept over branches.

Needs the extra ``text`` (``pip install 'fedkd[text]'``); nothing else of fedkd imports ``transformers``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from fedkd import rng
from fedkd.errors import ConfigError


@dataclass(frozen=True)
class Size:
    """The shape of a decoder with tied embeddings and no dropout; the default is the swing demo's student (109,568 values)."""

    family: str = "gpt2"
    """"gpt2", "llama" or "gpt_neox": which architecture of transformers"""
    vocabulary: int = 83
    """tokens, special ones included"""
    width: int = 64
    """values per position"""
    layers: int = 2
    """decoder blocks"""
    heads: int = 4
    """attention heads; divides the width"""
    context: int = 65
    """positions, the first token included"""


def build(size: Size, seed: int) -> PreTrainedModel:
    """An untrained model in evaluation mode, float32; the same seed gives the same weights.

    Raises: ConfigError for an unknown family or sizes that do not fit.
    """
    check_size(size)
    with rng.torch_scope(rng.key(seed, "language model")):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(_FAMILIES[size.family](size))
    model.eval()
    return model


def check_size(size: Size) -> None:
    """Raises: ConfigError for an unknown family or sizes that do not fit."""
    if size.family not in _FAMILIES:
        raise ConfigError(f"family = {size.family!r}; valid: {', '.join(sorted(_FAMILIES))}")
    if min(size.vocabulary, size.width, size.layers, size.heads, size.context) < 1 or size.width % size.heads:
        raise ConfigError(f"a language model needs sizes of at least 1 and a width that heads divides; got {size}")


def folder_of(name: str) -> Path:
    """A local folder of Hugging Face files, or a hub id: fetched into the user's cache, or found there without a network.

    Raises: ConfigError where there is neither a folder nor a copy nor a network.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
    except Exception as error:  # offline, unknown, gated: the library has a class for each
        raise ConfigError(
            f"{name!r} is no folder, and the hub gave nothing ({type(error).__name__}): give a local folder, or run once "
            "with a network and without HF_HUB_OFFLINE"
        ) from None


def pretrained(name: str) -> PreTrainedModel:
    """A causal model from a folder or hub id, float32, in evaluation mode; no code of the folder is run.

    Raises: ConfigError where it cannot be found or read.
    """
    folder = folder_of(name)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, dtype=torch.float32
        )
    except Exception as error:  # the library raises whatever the damaged file happened to break
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{name}: no causal language model that transformers can read: {line}") from None
    model.eval()
    return model


def logits_of(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """The model as a function: tokens [B, L] int64 -> logits [B, L, V] (``signals.language``)."""
    return lambda tokens: model(tokens, use_cache=False).logits


class Branches(NamedTuple):
    """Keys and values of branches that share one prefix, per layer: the prefix, and [B, H, S, D] of what follows it."""

    prefix: list[_Prefix]
    rest: list[tuple[Tensor, Tensor]]


class Cached:
    """A causal model of ``transformers`` for ``signals.rank_of_secret``: the prefix runs once, branches share its cache.

    Raises: ValueError at the first call for models whose cache is not plain keys and values (sliding windows, states).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        model.eval()
        self.model = model
        # transformers 5.24 renamed the argument and the output's field
        self.name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"

    @torch.inference_mode()
    def start(self, prefix: Tensor) -> tuple[Tensor, Branches]:
        """prefix [P] int64 -> (log-probabilities [V] of the next token in nats, its keys and values)."""
        out = self.model(prefix[None], use_cache=True, logits_to_keep=1)
        layers = getattr(out, self.name).layers
        if any(type(layer) is not DynamicLayer for layer in layers):
            raise ValueError(f"{type(self.model).__name__}: only plain caches of keys and values can be shared by branches")
        empty = [(layer.keys[:, :, :0], layer.values[:, :, :0]) for layer in layers]
        logs = F.log_softmax(out.logits[0, -1].float(), dim=-1)
        return logs, Branches([_Prefix(layer.keys, layer.values) for layer in layers], empty)

    @torch.inference_mode()
    def extend(self, past: Branches, parents: Tensor, tokens: Tensor) -> tuple[Tensor, Branches]:
        """Continue branches: ``parents`` [B] rows of ``past``, ``tokens`` [B] -> (log-probabilities [B, V], past [B])."""
        pairs = zip(past.prefix, past.rest, strict=True)
        layers = [_Shared(prefix, rest[0][parents], rest[1][parents]) for prefix, rest in pairs]
        out = self.model(tokens[:, None], **{self.name: Cache(layers=[*layers])}, use_cache=True)
        logs = F.log_softmax(out.logits[:, -1].float(), dim=-1)
        return logs, Branches(past.prefix, [layer.rest for layer in layers])


class _Prefix:
    """One layer's keys and values of the prefix, and room beside copies of them that every forward pass uses again.

    Copying the prefix for each chunk of branches took more than half of the time of an enumeration.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.length = keys.shape[2]
        self.room = (keys, values)  # [rows, H, P + extra, D] each

    def beside(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The prefix and what follows it, [B, H, P + S, D] each; valid until the next call."""
        rows, _, extra, _ = keys.shape
        whole = self.length + extra
        if self.room[0].shape[0] < rows or self.room[0].shape[2] < whole:
            self.room = (self._grown(self.room[0], rows, extra), self._grown(self.room[1], rows, extra))
        for room, new in zip(self.room, (keys, values), strict=True):
            room[:rows, :, self.length : whole] = new
        return self.room[0][:rows, :, :whole], self.room[1][:rows, :, :whole]

    def _grown(self, room: Tensor, rows: int, extra: int) -> Tensor:
        rows, extra = max(rows, room.shape[0]), max(extra, room.shape[2] - self.length)
        grown = room.new_empty((rows, room.shape[1], self.length + extra, room.shape[3]))
        grown[:, :, : self.length] = room[:1, :, : self.length]
        return grown


class _Shared(DynamicLayer):
    """One layer's cache of a chunk of branches."""

    def __init__(self, prefix: _Prefix, keys: Tensor, values: Tensor) -> None:
        DynamicLayer.__init__(self)
        self.prefix, self.rest = prefix, (keys, values)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the new position and return everything that it may attend to."""
        keys, values = torch.cat([self.rest[0], key_states], dim=2), torch.cat([self.rest[1], value_states], dim=2)
        self.rest = (keys, values)
        return self.prefix.beside(keys, values)

    def get_seq_length(self) -> int:
        """Positions in the cache."""
        return self.prefix.length + self.rest[0].shape[2]


def _gpt2(s: Size) -> PreTrainedConfig:
    return GPT2Config(
        vocab_size=s.vocabulary, n_positions=s.context, n_embd=s.width, n_layer=s.layers, n_head=s.heads,
        activation_function="gelu_pytorch_tanh", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


def _llama(s: Size) -> PreTrainedConfig:
    return LlamaConfig(
        vocab_size=s.vocabulary, max_position_embeddings=s.context, hidden_size=s.width, intermediate_size=4 * s.width,
        num_hidden_layers=s.layers, num_attention_heads=s.heads, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip


def _gpt_neox(s: Size) -> PreTrainedConfig:
    return GPTNeoXConfig(
        vocab_size=s.vocabulary, max_position_embeddings=s.context, hidden_size=s.width, intermediate_size=4 * s.width,
        num_hidden_layers=s.layers, num_attention_heads=s.heads, attention_dropout=0.0, hidden_dropout=0.0,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


_FAMILIES: dict[str, Callable[[Size], PreTrainedConfig]] = {"gpt2": _gpt2, "llama": _llama, "gpt_neox": _gpt_neox}
