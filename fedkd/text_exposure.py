"""Exposure of planted sentences in a finished federation of text: what rows on public text and final models tell of secrets.

Clients of data ``next_token`` plant sentences of their own; the public rows hold the same sentences with other secrets, so a
client's soft label where a secret would begin says what its model expects there. Views: who keeps a client's uploads
("released", the server), who keeps what comes down ("returned", every client), the client's own final model, another client's.
A reader of rows has a distribution per *place* of the secret, read after other digits than its own: candidates are ranked by
the sum over places, exactly among all of them. Models are asked for the secret itself (specs: swing, sections 9 and 11).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedkd import transcripts
from fedkd.attacks.exposure import exposure_exact
from fedkd.canary import TextCanary
from fedkd.config import parse_args
from fedkd.data import next_token
from fedkd.errors import ConfigError
from fedkd.finished import Finished, final_models
from fedkd.layers import Params
from fedkd.setting import Setting
from fedkd.signals import rank_of_labels, rank_of_secret
from fedkd.tokens import Characters
from fedkd.transcripts import Direction
from fedkd.types import Array, Split

VIEWS = ("released", "returned", "own model", "other models")
DIGITS = "0123456789"


class Exposed(NamedTuple):
    """One secret, seen from one view."""

    view: str
    """one of VIEWS"""
    round: int
    """after which round (0-based); -1 = final models"""
    client: int
    """who planted it"""
    copies: int
    """in that client's text; 0 = nowhere, so that chance is seen"""
    bits: float
    """exposure among all secrets of its length"""


@dataclass(frozen=True)
class Planted:
    """The secrets of a run and where the public rows ask for them."""

    config: next_token.Config
    """of the data"""
    encoder: Characters
    """its tokens"""
    canaries: tuple[TextCanary, ...]
    """every client's"""
    places: dict[int, dict[int, list[int]]]
    """canary -> place of the secret -> ids of the public rows that predict it"""

    @property
    def digits(self) -> Array:
        """[10] token ids."""
        return np.array([self.encoder.encode(d)[0] for d in DIGITS])


def planted(run: Finished) -> Planted:
    """Find the rows. Raises: ConfigError for a run on other data, without a public set or without canaries."""
    experiment = run.setting.experiment
    public = run.data.public
    if experiment.data_name != "next_token" or public is None:
        raise ConfigError("exposure of text needs data next_token with public rows")
    config = parse_args(experiment.data_args, next_token.Config, "data.args")
    canaries, encoder = next_token.canaries(config), next_token.tokenizer(config)
    if not canaries:
        raise ConfigError("data.args: per_count = 0 plants no secret")
    return Planted(config, encoder, canaries, _places(config, encoder, canaries, public))


def _places(
    config: next_token.Config, encoder: Characters, canaries: tuple[TextCanary, ...], public: Split
) -> dict[int, dict[int, list[int]]]:
    before = config.template.format(name="\x00", secret="\x01").partition("\x01")[0].partition("\x00")[2]
    names = {c.name: place for place, c in enumerate(canaries)}
    longest = len(canaries[0].secret) - 1
    pattern = re.compile(rf"({'|'.join(names)}){re.escape(before)}([{DIGITS}]{{0,{longest}}})$")
    letters = {encoder.encode(symbol)[0]: symbol for symbol in encoder.alphabet}
    found: dict[int, dict[int, list[int]]] = {}
    labels = {encoder.encode(d)[0] for d in DIGITS}
    for row, (window, label) in enumerate(zip(public.x.astype(int).tolist(), public.y.tolist(), strict=True)):
        if label not in labels:
            continue
        hit = pattern.search("".join(letters.get(token, "\x02") for token in window))
        if hit:
            found.setdefault(names[hit[1]], {}).setdefault(len(hit[2]), []).append(int(public.ids[row]))
    return found


def of_rows(run: Finished, known: Planted, direction: Direction) -> Iterator[Exposed]:
    """Each secret after each round, for who has kept every row of that direction so far."""
    length = len(known.canaries[0].secret)
    for client in range(run.data.num_clients):
        total: dict[tuple[int, int], Array] = {}
        for message in transcripts.messages(run.folder, direction, client):
            for index, places in known.places.items():
                if direction == "up" and known.canaries[index].group != str(client):
                    continue
                for place, ids in places.items():
                    rows = np.searchsorted(message.ids, ids)
                    rows = rows[(rows < len(message.ids)) & (message.ids[np.minimum(rows, len(message.ids) - 1)] == ids)]
                    if len(rows):
                        q = message.q[rows][:, known.digits].sum(axis=0)
                        total[index, place] = total.get((index, place), 0) + q
            for index in known.places:
                table = [total.get((index, place)) for place in range(length)]
                if all(t is not None for t in table):
                    yield _ranked(known, index, message.round, np.array(table), direction)
        if direction == "down":  # one consensus for all: what one client reads, all read
            return


def _ranked(known: Planted, index: int, round: int, table: Array, direction: Direction) -> Exposed:
    canary = known.canaries[index]
    log_q = np.log(table / table.sum(axis=1, keepdims=True))
    found = rank_of_labels(log_q, [int(d) for d in canary.secret])
    bits = float(exposure_exact(found.better + 1, found.candidates))
    return Exposed("released" if direction == "up" else "returned", round, int(canary.group), canary.repetitions, bits)


@torch.no_grad()
def of_models(run: Finished, known: Planted) -> Iterator[Exposed]:
    """Each secret in its client's final model and in the next client's."""
    models: Mapping[int, Params] = dict(final_models(run))
    digits = torch.from_numpy(known.digits)
    for canary in known.canaries:
        owner = int(canary.group)
        text = known.config.template.format(name=canary.name, secret="\x00").partition("\x00")[0]
        prefix = torch.tensor(known.encoder.encode(text))
        secret = torch.tensor(known.encoder.encode(canary.secret))
        for view, client in (("own model", owner), ("other models", (owner + 1) % run.data.num_clients)):
            asked = Windows(run.setting, models[client], known.config.window, known.encoder.bos)
            found = rank_of_secret(asked, prefix, secret, digits)
            bits = float(exposure_exact(found.better + 1, found.candidates))
            yield Exposed(view, -1, owner, canary.repetitions, bits)


class Windows:
    """A model of windows as a causal one (``signals.Causal``): what it keeps of a prefix is the last window."""

    def __init__(self, setting: Setting, params: Params, window: int, first: int) -> None:
        self.setting, self.params, self.window, self.first = setting, params, window, first

    def start(self, prefix: Tensor) -> tuple[Tensor, Tensor]:
        """[P] -> log-probabilities [V] of the next token, windows [1, W]."""
        kept = torch.cat([torch.full((self.window,), self.first), prefix])[-self.window :][None]
        return self._logs(kept)[0], kept

    def extend(self, past: Tensor, parents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Windows [R, W], [B], [B] -> log-probabilities [B, V], windows [B, W]."""
        kept = torch.cat([past[parents][:, 1:], tokens[:, None]], dim=1)
        return self._logs(kept), kept

    @torch.no_grad()
    def _logs(self, windows: Tensor) -> Tensor:
        logits = self.setting.model.forward(self.params, windows.float().to(self.setting.device))[1]
        return torch.log_softmax(logits.float().cpu(), dim=-1)
