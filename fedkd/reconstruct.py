"""Feature inversion of a finished run: images rebuilt from the rows of features that its clients really uploaded.

Specs: audit, section 7 (B16, level 1). Threat model: an honest-but-curious server. It knows the architecture, holds the blocks
up to the cut, knows the mechanism's configuration and holds public rows of the same data set that no client owns. It passes
the public rows through the blocks and through the sender's own mechanism with randomness of its own (`pool`: the same map;
`clip_noise`: the same law, drawn anew in each epoch; `permute`: nothing changes, since a row is inverted alone), trains a
decoder (``fedkd.decoder``) on these pairs, and applies it to the transcript. Where raw labels travel, the decoder reads them.
Two attackers: one holds the **averaged** blocks that the round ended with, which every recipient of the next broadcast holds
too; one also keeps **each client's** blocks as uploaded, and trains on public rows dealt out over them.

Control: the averaged attacker's decoder with features and images paired wrongly inside each class. The clients' private heads
never travel, so the soft labels beside a row are not used: what is found here is a lower bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from fedkd import decoder, guarantees, plugins, rng
from fedkd.attacks import inversion
from fedkd.config import parse_args
from fedkd.errors import ConfigError
from fedkd.finished import Finished, open_finished
from fedkd.replay import SecretOrder, Sent, as_sent, averaged, features, order_sent, rounds_with_features, uploads
from fedkd.types import Array
from fedkd.verdict import LEAK, MEASURED, NO_LEAK, NOT_TESTED, Row

AVERAGED, EACH = "averaged blocks", "each client's blocks"
ATTACKERS = (AVERAGED, EACH)
VIEW = "features up"
ATTACK = "inversion"
LEAST = 200
"""Public rows below which no decoder is trained."""


@dataclass(frozen=True)
class Config:
    """Options of the attack; fixed before a run is looked at."""

    attackers: tuple[str, ...] = ATTACKERS
    """who attacks: "averaged blocks", "each client's blocks" """
    rounds: Literal["first", "last", "both"] = "last"
    """which of a cut's rounds are attacked; in the last one the clients' blocks lie closest to the averaged ones"""
    public_rows: int = 4000
    """rows that the decoder learns from, fewer where the data set has no more"""
    pool: int = 1000
    """images of its class that a true image ranks among, itself included; fewer where the data set has no more"""
    shown: int = 8
    """pairs kept per cut: of the first clients by id, the uploaded row with the lowest sample id"""
    hidden: int = decoder.Config.hidden
    """units of the decoder's hidden layer"""
    epochs: int = decoder.Config.epochs
    """passes of the decoder over the public rows"""
    seed: int = 0
    """of the public rows, the decoder and the bootstrap"""
    level: float = 0.95
    """of the intervals"""
    comparisons: int = 0
    """decisions that share the error probability; 0 = the audits of this run"""
    resamples: int = 2000
    """of the bootstrap over clients"""

    def __post_init__(self) -> None:
        if not self.attackers or not set(self.attackers) <= set(ATTACKERS):
            raise ConfigError(f"attackers = {list(self.attackers)}; valid: one or both of {list(ATTACKERS)}")
        if self.rounds not in ("first", "last", "both"):
            raise ConfigError(f'rounds = {self.rounds!r}; valid: "first", "last", "both"')


class Public(NamedTuple):
    """Rows that no client owns, split into what the decoder learns from and what ranks are taken among."""

    x: Array
    """[P, *shape] as the model reads it"""
    images: Array
    """[P, *shape] in 0..1"""
    y: Array
    pool: Array
    """[M, *shape] in 0..1"""
    pool_y: Array
    low: float
    high: float
    """what 0 and 1 stand for in the model's unit"""

    def to_images(self, x: Array) -> Array:
        """Rows of the model's unit as images in 0..1."""
        out: Array = np.clip((x - self.low) / (self.high - self.low), 0.0, 1.0).astype(np.float32)
        return out


def audit_features(
    folder: Path, states: Path, config: Config | None = None
) -> tuple[list[dict[str, Any]], list[Row], dict[str, Array]]:
    """Attack every cut that a finished run's schedule visits.

    Args:
        folder: the run folder, with ``transcript/`` (record = "messages").
        states: ``<state-root>/<run>``, where the clients' versions lie beside ``../data``.
        config: options; None = the defaults.

    Returns:
        One record per cut, round and attacker; rows with verdicts ("not tested" with its reason where the attack does not
        apply); and ``cut<k>_true``, ``cut<k>_rebuilt``, ``cut<k>_chance`` [m, H, W] float32 of the last attacked round of a
        cut and the first attacker, by the fixed rule of ``Config.shown``.

    Raises: ConfigError as ``open_finished``; DataError where the data set's files are gone.
    """
    c = config or Config()
    run = open_finished(folder, states)
    label = run.setting.experiment.label
    reason = does_not_apply(run)
    if reason:
        return [], [_untested(label, reason)], {}
    public = public_rows(run, c)
    if len(public.y) < LEAST:
        return [], [_untested(label, f"{len(public.y)} rows belong to no client; a decoder needs {LEAST}")], {}
    places = attacked(run, c)
    c = c if c.comparisons else replace(c, comparisons=len(places) * len(c.attackers))
    records: list[dict[str, Any]] = []
    rows: list[Row] = []
    pairs: dict[str, Array] = {}
    for cut, round in places:
        for record, found, shown in _audits(run, c, public, cut, round, len({t for k, t in places if k == cut}) > 1):
            records.append(record)
            rows += found
            if record["attacker"] == c.attackers[0]:
                pairs.update({f"cut{cut}_{name}": value for name, value in shown.items()})
    return records, rows, pairs


def does_not_apply(run: Finished) -> str:
    """Why there is nothing to invert, or "" where there is."""
    setting = run.setting
    kinds = guarantees.sent(setting)
    if "features" not in kinds:
        return "does not apply: no row of features leaves a client"
    if "weights" not in kinds:
        return "no blocks travel, so this attacker holds none; an attacker that first rebuilds them is not built here"
    if len(run.data.shape) != 3 or min(run.data.shape[1:]) < inversion.Config.window:
        return f"does not apply: rows of shape {run.data.shape} are no images of {inversion.Config.window} pixels or more"
    if not next(iter(rounds_with_features(run)), None):
        return "no round with features was recorded"
    try:
        for client in range(run.data.num_clients):
            order_sent(run, rounds_with_features(run)[0][1], run.data.client(client))
    except SecretOrder:
        return "rows left in an order that only the client knows; set insecure_seeded_noise = true to score them"
    return ""


def attacked(run: Finished, config: Config) -> list[tuple[int, int]]:
    """(cut, round) in the order of rounds: the first, the last or both rounds of each cut."""
    by_cut: dict[int, list[int]] = {}
    for cut, round in rounds_with_features(run):
        by_cut.setdefault(cut, []).append(round)
    ends = {"first": slice(0, 1), "last": slice(-1, None)}
    chosen = {(k, t) for k, ts in by_cut.items() for end in ends if config.rounds in (end, "both") for t in ts[ends[end]]}
    return sorted(chosen, key=lambda place: place[1])


def public_rows(run: Finished, config: Config) -> Public:
    """Rows of the data set that no client holds; where they are few, public transfer rows and unseen test rows too.

    A row whose bytes equal one that the run uses is left out.
    """
    e, data = run.setting.experiment, run.data
    module = plugins.find("data", e.data_name)
    table = module.load(parse_args(e.data_args, module.Config, "data.args"), e.data_root)
    used = np.asarray(data.arrays["rows"])
    free = np.setdiff1d(np.arange(len(table)), used)
    if len(free) < config.public_rows + config.pool * data.classes:
        more = [np.asarray(data.arrays[part]) for part in ("extra", "public") if part in data.arrays]
        free = np.union1d(free, used[np.concatenate(more)])
    held = {row.tobytes() for row in np.asarray(table.x[np.setdiff1d(used, free)])}
    free = np.array([i for i in free if table.x[i].tobytes() not in held], dtype=np.int64)
    free = rng.experiment(config.seed, "inversion public rows").permutation(free)
    others = [free[table.y[free] == k] for k in range(data.classes)]
    kept = np.concatenate([rows[: min(config.pool - 1, len(rows) // 3)] for rows in others])
    learn = free[~np.isin(free, kept)][: config.public_rows]
    low, high = (float(v) for v in (table.x[learn].min(initial=0.0), table.x[learn].max(initial=1.0)))
    blank = Public(table.x[learn], table.x[:0], table.y[learn], table.x[:0], table.y[kept], low, high)
    return blank._replace(images=blank.to_images(table.x[learn]), pool=blank.to_images(table.x[kept]))


def _audits(
    run: Finished, c: Config, public: Public, cut: int, round: int, several: bool
) -> Iterator[tuple[dict[str, Any], list[Row], dict[str, Array]]]:
    """The attackers of one cut and round, the control with the first of them."""
    sent = list(uploads(run, round))
    if not sent:
        return
    y, x = np.concatenate([s.true_labels for s in sent]), np.concatenate([s.x for s in sent])
    told = [s.labels for s in sent]
    known = all(t is not None and np.array_equal(t, s.true_labels) for t, s in zip(told, sent, strict=True))
    true, z = public.to_images(x), np.concatenate([s.z for s in sent])
    means = np.stack([public.images[public.y == k].mean(axis=0) for k in range(run.data.classes)])
    clients = np.repeat([s.client for s in sent], [len(s.true_labels) for s in sent])
    wrong: Array | None = None
    for attacker in c.attackers:
        made = _public_features(run, attacker, cut, round, public, sent)
        rebuilt = _rebuild(run, c, round, made, public, z, y if known else None).reshape(true.shape)
        if wrong is None:
            shuffled = made[_shuffled(public.y, c.seed)]
            wrong = _rebuild(run, c, round, shuffled, public, z, y if known else None).reshape(true.shape)
        scoring = inversion.Config(level=c.level, comparisons=c.comparisons, resamples=c.resamples, seed=c.seed)
        report = inversion.audit(
            scoring, true=true, rebuilt=rebuilt, chance=means[y], shuffled=wrong, labels=y, pool=public.pool,
            pool_labels=public.pool_y, clients=clients if len(sent) > 1 else None,
        )  # fmt: skip
        first = np.flatnonzero(np.r_[True, clients[1:] != clients[:-1]])[: c.shown]
        shown = {"true": true[first], "rebuilt": rebuilt[first], "chance": means[y][first]}
        group = f"cut {cut}" + (f", round {round + 1}" if several else "")
        record = _record(run, report, attacker, cut, round, known, len(sent), len(public.y))
        yield record, _rows(run, c, report, attacker, group), {n: v.mean(axis=1) for n, v in shown.items()}


def _public_features(run: Finished, attacker: str, cut: int, round: int, public: Public, sent: list[Sent]) -> Array:
    if attacker == AVERAGED:
        return features(run, averaged(run, round), cut, public.x)
    turn = np.arange(len(public.y)) % len(sent)
    parts = [features(run, s.blocks, cut, public.x[turn == i]) for i, s in enumerate(sent)]
    out = np.empty((len(turn), parts[0].shape[1]), np.float32)
    for i, part in enumerate(parts):
        out[turn == i] = part
    return out


def _rebuild(
    run: Finished, c: Config, round: int, made: Array, public: Public, z: Array, labels: Array | None
) -> Array:  # [m, D]
    learning = decoder.Config(hidden=c.hidden, epochs=c.epochs, seed=c.seed)

    def draw(epoch: int) -> Array:
        return as_sent(run, round, made, c.seed, epoch)

    images = public.images.reshape(len(public.y), -1)
    return decoder.train(learning, draw, None if labels is None else public.y, images, run.data.classes)(z, labels)


def _shuffled(y: Array, seed: int) -> Array:  # [P] labels -> [P] a permutation inside each class
    order = np.arange(len(y))
    for k in np.unique(y):
        rows = np.flatnonzero(y == k)
        order[rows] = rng.experiment(seed, "shuffled pairs", client=int(k)).permutation(rows)
    return order


def _record(
    run: Finished, report: inversion.Report, attacker: str, cut: int, round: int, known: bool, clients: int, learned: int
) -> dict[str, Any]:
    e, r = run.setting.experiment, report
    found: dict[str, Any] = {
        "cut": cut, "round": round, "mechanism": e.mechanisms_names or e.mechanism_name, "attacker": attacker, "n": r.n,
        "clients": clients, "label_known": known, "public_rows": learned,
    }  # fmt: skip
    for name, value in (("ssim", r.ssim), ("chance", r.chance), ("gain", r.gain)):
        found.update({"chance_ssim" if name == "chance" else name: value.value, f"{name}_low": value.low})
        found[f"{name}_high"] = value.high
    found.update(rank_median=r.rank.value, rank_low=r.rank.low, rank_high=r.rank.high, pool=r.pool)
    found.update(top1=r.top1.value, top1_low=r.top1.low, top1_high=r.top1.high)
    found["shuffled_ssim"] = None if r.shuffled is None else r.shuffled.value
    return found


def _rows(run: Finished, c: Config, report: inversion.Report, attacker: str, group: str) -> list[Row]:
    r = report
    said = "chance: the class-mean image of the label; control: a decoder trained on pairs shuffled inside each class"
    near = f"the true image among {r.pool} of its class, by distance to the rebuilt one; chance {1 / r.pool:.2g}"
    one = Row(
        f"honest-but-curious server with {attacker} and public rows", ATTACK, run.setting.experiment.label, group, "record",
        VIEW, "ssim", r.ssim.value, r.ssim.low, r.ssim.high, c.level, r.n, r.pool - 1, "none", r.detectable,
        len(c.attackers), LEAK if r.ssim_shown else NO_LEAK, said,
    )  # fmt: skip
    described = replace(one, detectable=None, status=MEASURED)
    return [
        one,
        replace(described, statistic="ssim_gain", value=r.gain.value, low=r.gain.low, high=r.gain.high),
        replace(described, statistic="rank_median", value=r.rank.value, low=r.rank.low, high=r.rank.high, reason=near),
        replace(
            one, statistic="rank_top1", value=r.top1.value, low=r.top1.low, high=r.top1.high, detectable=r.detectable_top1,
            status=LEAK if r.top1_shown else NO_LEAK, reason=near,
        ),
    ]  # fmt: skip


def _untested(label: str, reason: str) -> Row:
    return Row(
        "honest-but-curious server with public rows", ATTACK, label, "all", "record", VIEW, "ssim", None, None, None, 0.95, 0,
        0, "none", None, 1, NOT_TESTED, reason,
    )  # fmt: skip
