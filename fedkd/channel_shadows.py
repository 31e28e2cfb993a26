"""Whole federations as shadows: the same configuration with other seeds, whose coin put an example in or out anew.

Distillation-aware LiRA (Jagielski et al., 2023, arXiv 2303.03446) on the clients' final models, which are the students of this
pipeline: another seed draws the coins, the partition, the weights and all that follows, so that a shadow repeats the pipeline
from the data on. Each example is asked of the model of the client that holds it or, where it was held out, that it is assigned
to. Needs runs that share rows: ``max-samples`` draws by the seed. Threat model: who is given a client's final model, knows the
configuration and has data like the clients'.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedkd.attacks import distill_lira
from fedkd.channel_attacks import Attack, Scored
from fedkd.channel_candidates import Candidates, everyone
from fedkd.channel_signals import PERSONAL, Reader
from fedkd.errors import ConfigError
from fedkd.finished import Finished, final_models
from fedkd.intervals import Bools, Floats, Ints

LEAST = 4
"""Shadows that a spread needs."""


def shadow_attack(run: Finished, candidates: Candidates, shadows: Sequence[Finished], phi: Floats) -> Scored:
    """Distillation-aware LiRA of a run's candidates.

    Args:
        shadows: finished runs of the same configuration with other seeds.
        phi: [N] of the candidates under their own client's final model.

    Raises: ConfigError for too few shadows, another configuration or seed, or runs that share too few rows.
    """
    if len(shadows) < LEAST:
        raise ConfigError(f"{len(shadows)} shadow federations are too few; at least {LEAST} are needed")
    if any(s.setting.experiment.hash8() != run.setting.experiment.hash8() for s in shadows):
        raise ConfigError("a shadow federation has another configuration")
    seeds = [s.setting.seed for s in (run, *shadows)]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds {seeds} repeat: each shadow federation needs its own")
    rows = np.asarray(run.data.arrays["rows"])[candidates.ids]
    answers = [answer(s, rows, candidates.y) for s in shadows]
    known = np.all([np.isfinite(p) for p, _ in answers], axis=0)
    shared = [int((known & side).sum()) for side in (candidates.member, ~candidates.member)]
    if min(shared) < 2:
        raise ConfigError(f"the runs share {shared[0]} members and {shared[1]} others; use max-samples = 0")
    total = np.full(len(candidates), np.nan)
    total[known] = distill_lira.score(
        distill_lira.Config(queries=0),
        phi=phi[known],
        shadow_phi=np.stack([p[known] for p, _ in answers]),
        shadow_in=np.stack([inside[known] for _, inside in answers]),
    )
    attack = Attack(f"distill_lira ({len(shadows)} shadow federations)", PERSONAL, "phi", lambda own, others, client: own)
    return Scored(attack, (run.setting.rounds,), total[None], None, total)


def answer(shadow: Finished, rows: Ints, labels: Ints) -> tuple[Floats, Bools]:
    """(phi of rows of the data set, NaN where the run does not have one under its true label; which of them it trained on)."""
    held = everyone(shadow.data)
    order = np.argsort(held.ids, kind="stable")
    used = np.asarray(shadow.data.arrays["rows"])[held.ids[order]]
    at = np.minimum(np.searchsorted(used, rows), len(used) - 1)
    there = (used[at] == rows) & (held.y[order][at] == labels)
    reader = Reader(shadow.setting, held, 0)
    phi = np.full(len(held), np.nan)
    for client, params in final_models(shadow):
        if client in reader.rows:
            phi[reader.rows[client]] = reader.phi(params, client)
    found = np.where(there, phi[order][at], np.nan)
    return found, there & held.member[order][at]
