"""What the final models of a federation of text remember of passages: each client's own model, and the others'.

Borkar et al. 2026, arXiv 2601.15394 (exact greedy extraction), asked of clients that exchange logits (data ``next_token``): the
holder of a passage is the teacher, every other client a student that never trained on it. A passage is memorized where greedy
continuation of its first ``window`` characters gives the rest, decided by one pass (specs: memorization, section 2).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedkd.config import parse_args
from fedkd.data import next_token
from fedkd.data.next_token import Passage
from fedkd.errors import ConfigError
from fedkd.finished import Finished, final_models
from fedkd.intervals import Bools, Floats, Ints
from fedkd.layers import Params


class Recall(NamedTuple):
    """N passages, seen by the final model of each of C clients."""

    passages: tuple[Passage, ...]
    """[N]"""
    hits: Bools
    """[C, N] memorized"""
    log_pz: Floats
    """[C, N] log probability of the suffix given the prefix, temperature 1, nats"""
    disagree: int
    """decisions of the one-pass rule that real greedy generation does not confirm"""

    @property
    def holder(self) -> Ints:
        """[N] client that trained on it."""
        return np.array([p.client for p in self.passages])

    @property
    def copies(self) -> Ints:
        """[N] copies in its holder's text."""
        return np.array([p.copies for p in self.passages])


@torch.no_grad()
def recall(run: Finished) -> Recall:
    """Ask every client's final model for every client's passages.

    Raises: ConfigError for a run on other data or without passages.
    """
    experiment = run.setting.experiment
    if experiment.data_name != "next_token":
        raise ConfigError("passages are planted by data next_token")
    config = parse_args(experiment.data_args, next_token.Config, "data.args")
    passages = next_token.passages(config, experiment.data_root)
    if not passages:
        raise ConfigError("data.args: passages = 0 plants none")
    window, each = config.window, config.passage_characters
    x, y = next_token.rows(config, [p.text for p in passages])
    inputs = torch.from_numpy(x).view(len(passages), each, window)
    target = torch.from_numpy(y).long().view(len(passages), each)[:, window:]
    hits, logs, disagree = [], [], 0
    for _, params in final_models(run):

        def ask(windows: Tensor, params: Params = params) -> Tensor:
            return run.setting.model.forward(params, windows.to(run.setting.device))[1].float().cpu()

        logits = ask(inputs[:, window:].reshape(-1, window)).view(len(passages), each - window, -1)
        own = logits.gather(2, target[..., None])
        found = ((logits >= own).sum(dim=2) == 1).all(dim=1)  # a tie counts as not memorized
        log_q = torch.log_softmax(logits.double(), dim=2).gather(2, target[..., None])[..., 0].sum(dim=1)
        kept, made = inputs[:, window], []  # the window that predicts the suffix's first character
        for _ in range(each - window):
            made.append(ask(kept).argmax(dim=1))
            kept = torch.cat([kept[:, 1:], made[-1][:, None].float()], dim=1)
        disagree += int((found != (torch.stack(made, dim=1) == target).all(dim=1)).sum())
        hits.append(found.numpy())
        logs.append(log_q.numpy())
    return Recall(passages, np.stack(hits), np.stack(logs), disagree)
