"""What the messages of a run say about each candidate: one number per candidate, round and model, the client's own first.

Every signal is computed under the candidate's own client's message and under those of a few other clients, which never saw
the candidate: they are the sample of what a non-member looks like (Shi et al., 2025, arXiv 2502.08001, co-op; FedMIA, Zhu et
al., 2024, arXiv 2402.06289). A client's candidates are computed in a batch of their own (the bits of a row depend on its
batch). Higher = more likely a member, everywhere. Threat model: who reads the named channel, and asks about given examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional as F

from fedkd import clipping, heads, outgoing, signals
from fedkd.channel_candidates import Candidates
from fedkd.channel_messages import Round, Sent
from fedkd.intervals import Floats
from fedkd.layers import Params
from fedkd.mechanisms import permute, pool
from fedkd.setting import Setting
from fedkd.train import to_tensors
from fedkd.transcripts import softmax
from fedkd.types import Array, Arrays

FEATURES, SOFT, WEIGHTS, HEADS = "features up", "soft labels up", "weights up", "heads up"
WEIGHTS_DOWN, HEADS_DOWN, PERSONAL = "weights down", "heads down", "personal models"
LARGEST = 50_000_000
"""Numbers that following rows over rounds may keep."""
CHUNK = 64
"""Rows per batch of per-example gradients."""
Key = tuple[str, str]
"""(channel, signal)"""
One = Callable[[int, int], Floats]
"""(client whose candidates, client whose message) -> a signal of these candidates"""


@dataclass
class Values:
    """One signal on one channel."""

    rounds: list[int] = field(default_factory=list)
    own: list[Floats] = field(default_factory=list)
    """per round [N]: under the candidate's own client; NaN where it sent nothing"""
    others: list[Floats] = field(default_factory=list)
    """per round [S, N]: under other clients; S = 0 where the message is the same for all"""


class Reader:
    """Reads signals off messages, for one set of candidates."""

    def __init__(self, setting: Setting, candidates: Candidates, references: int) -> None:
        self.setting, self.candidates, self.references = setting, candidates, references
        self.values: dict[Key, Values] = {}
        self.rows = {int(c): candidates.of(int(c)) for c in np.unique(candidates.client)}
        self._tracks: dict[tuple[int, int], Floats] = {}
        self._ids: dict[int, Array] = {}
        self._x = {c: torch.tensor(candidates.x[rows], device=setting.device) for c, rows in self.rows.items()}
        self._y = {c: torch.tensor(candidates.y[rows], device=setting.device) for c, rows in self.rows.items()}

    def read(self, r: Round) -> None:
        """Add one round."""
        s, whole = self.setting, set(self.setting.model.names)
        full = {c: sent for c, sent in r.up.items() if whole <= sent.params.keys()}
        if full:
            models = {c: to_tensors(sent.params, s.device) for c, sent in full.items()}
            self.add(WEIGHTS, "phi", r.number, full, lambda c, m: self.phi(models[m], c))
            cosines = {c: self._cosines(c, full) for c in full if c in self.rows}
            self.add(WEIGHTS, "update_cosine", r.number, full, lambda c, m: cosines[c][m] if c in cosines else self._none(c))
        below = set(s.model.names_upto(r.cut)) if r.cut else set()
        headed = {c: sent for c, sent in r.up.items() if r.cut and below | set(heads.names(r.cut)) <= sent.params.keys()}
        if headed:
            models = {c: to_tensors({**s.initial(), **sent.params}, s.device) for c, sent in headed.items()}
            self.add(HEADS, "phi", r.number, headed, lambda c, m: self.phi_at(models[m], r.cut, c))
        rows = {c: sent for c, sent in r.up.items() if "features" in sent.kinds and len(sent.kinds["features"]["z"])}
        rows = {c: sent for c, sent in rows.items() if r.cut and below <= sent.params.keys()}
        if rows:
            self._rows(r, rows)
        self._down(r)

    def add(self, channel: str, signal: str, round: int, present: Iterable[int], one: One) -> None:
        """One round of a signal, under the own client and the next ``references`` others that are present."""
        clients = sorted(present)
        size = min(self.references, len(clients) - 1)
        own = np.full(len(self.candidates), np.nan)
        others = np.full((size, len(self.candidates)), np.nan)
        for c, rows in self.rows.items():
            if c not in clients:
                continue
            at = clients.index(c)
            own[rows] = one(c, c)
            for k in range(size):
                others[k, rows] = one(c, clients[(at + 1 + k) % len(clients)])
        self._keep(channel, signal, round, own, others)

    def same_for_all(self, channel: str, round: int, phi: Callable[[int], Floats]) -> None:
        """One round of a message that everyone gets."""
        own = np.full(len(self.candidates), np.nan)
        for c, rows in self.rows.items():
            own[rows] = phi(c)
        self._keep(channel, "phi", round, own, np.zeros((0, len(own))))

    def phi(self, params: Params, client: int) -> Floats:
        """log(p / (1 - p)) of the label under a whole model, of a client's candidates."""
        found = signals.classifier(lambda x: self.setting.model.forward(params, x)[1], self._x[client], self._y[client])
        return np.asarray(found["phi"], dtype=np.float64)

    def phi_at(self, params: Params, cut: int, client: int) -> Floats:
        """The same under a head at a cut."""
        found = signals.classifier(lambda x: heads.features(self.setting, params, cut, x)[1], self._x[client], self._y[client])
        return np.asarray(found["phi"], dtype=np.float64)

    def _keep(self, channel: str, signal: str, round: int, own: Floats, others: Floats) -> None:
        kept = self.values.setdefault((channel, signal), Values())
        kept.rounds.append(round)
        kept.own.append(own)
        kept.others.append(others)

    def _none(self, client: int) -> Floats:
        return np.full(len(self.rows[client]), np.nan)

    def _cosines(self, client: int, full: Mapping[int, Sent]) -> dict[int, Floats]:
        """Cosine of minus the loss gradient at what this client started from with each client's update."""
        model, names = self.setting.model, self.setting.model.parameter_names
        clients = sorted(full)
        updates = torch.stack([torch.tensor(flat_update(full[m], names), device=self.setting.device) for m in clients], 1)
        updates = updates / updates.norm(dim=0).clamp_min(1e-30)
        base = to_tensors(full[client].base, self.setting.device)
        fixed = {n: v for n, v in base.items() if n not in names}

        def loss(trained: Params, x: Tensor, y: Tensor) -> Tensor:
            out: Tensor = model.forward({**fixed, **trained}, x[None])[1]
            return F.cross_entropy(out, y[None])

        gradients = vmap(grad(loss), in_dims=(None, 0, 0))
        parts: list[Tensor] = []
        for x, y in zip(self._x[client].split(CHUNK), self._y[client].split(CHUNK), strict=True):
            found = gradients({n: base[n] for n in names}, x, y)
            flat = torch.cat([found[n].flatten(1) for n in names], 1)
            parts.append(-(flat @ updates) / flat.norm(dim=1, keepdim=True).clamp_min(1e-30))
        cosines = torch.cat(parts).double().cpu().numpy()
        return {m: cosines[:, k] for k, m in enumerate(clients)}

    @torch.no_grad()
    def _rows(self, r: Round, rows: Mapping[int, Sent]) -> None:
        s = self.setting
        models = {c: to_tensors({**s.initial(), **sent.params}, s.device) for c, sent in rows.items()}
        unused = dict(zip(heads.names(r.cut), to_tensors(heads.initial(s, r.cut), s.device).values(), strict=True))
        seen: dict[tuple[int, int], Floats] = {}

        def features(c: int, m: int) -> Floats:
            if (c, m) not in seen:
                z = heads.features(s, {**models[m], **unused}, r.cut, self._x[c])[0]
                seen[c, m] = as_sent(s, z.cpu().numpy()).astype(np.float64)
            return seen[c, m]

        def nearest(c: int, m: int) -> Floats:
            nearest_row = cdist(features(c, m), rows[m].kinds["features"]["z"].astype(np.float64)).min(axis=1)
            return np.asarray(-nearest_row, dtype=np.float64)

        self.add(FEATURES, "nearest_feature", r.number, rows, nearest)
        self._follow(r, rows, features)
        if all("soft_labels" in sent.kinds for sent in rows.values()):
            maps = {m: linear_head(sent.kinds["features"]["z"], sent.kinds["soft_labels"]["p"]) for m, sent in rows.items()}

            def divergence(c: int, m: int) -> Floats:
                y = rows[m].kinds["labels"]["y"] if "labels" in rows[m].kinds else None
                said = softmax(_with_one(features(c, m)) @ maps[m])
                return -nearest_soft_label(said, softmax(rows[m].kinds["soft_labels"]["p"]), self._labels(c), y)

            self.add(SOFT, "nearest_soft_label", r.number, rows, divergence)

    def _follow(self, r: Round, rows: Mapping[int, Sent], features: Callable[[int, int], Floats]) -> None:
        """Each uploaded row followed over rounds by its id: sum of 2 <candidate, row> - |candidate|^2, the best row so far.

        A matched filter: fresh noise on the row averages out, its own length does not count. Only where ids are the same in
        every round, and where the sums fit into memory.
        """
        named = {m: rows[m].kinds["ids"]["i"] for m in rows if "ids" in rows[m].kinds}
        size = sum(len(i) for i in named.values()) * len(self.candidates) // max(1, len(named)) * (self.references + 1)
        renamed = any(s.mechanism.module is permute and s.mechanism.config.every for s in outgoing.each(self.setting))
        if renamed or len(named) < len(rows) or size > LARGEST:
            return

        def followed(c: int, m: int) -> Floats:
            order = np.argsort(named[m], kind="stable")
            if not np.array_equal(self._ids.setdefault(m, named[m][order]), named[m][order]):
                return self._none(c)
            z, f = rows[m].kinds["features"]["z"][order].astype(np.float64), features(c, m)
            fit = 2.0 * f @ z.T - np.square(f).sum(axis=1, keepdims=True)
            self._tracks[c, m] = self._tracks[c, m] + fit if (c, m) in self._tracks else fit
            return np.asarray(self._tracks[c, m].max(axis=1), dtype=np.float64)

        self.add(FEATURES, "followed_row", r.number, rows, followed)

    def _labels(self, client: int) -> Array:
        found: Array = self.candidates.y[self.rows[client]]
        return found

    def _down(self, r: Round) -> None:
        s, whole = self.setting, set(self.setting.model.names)
        came = [k for k in r.down.values() if whole <= k.get("weights", {}).keys()]
        if came:
            self.average(r.number, came[0]["weights"])
        for kinds in r.down.values():
            below = set(s.model.names_upto(r.cut)) if r.cut else set()
            if r.cut and "heads" in kinds and below <= kinds.get("weights", {}).keys():
                params = to_tensors({**s.initial(), **kinds["weights"], **kinds["heads"]}, s.device)
                self.same_for_all(HEADS_DOWN, r.number, lambda c, p=params: self.phi_at(p, r.cut, c))  # type: ignore[misc]
                break

    def average(self, round: int, weights: Arrays) -> None:
        """A whole averaged model, as everyone gets it."""
        params = to_tensors(weights, self.setting.device)
        self.same_for_all(WEIGHTS_DOWN, round, lambda c: self.phi(params, c))


def flat_update(sent: Sent, names: Iterable[str]) -> Array:  # -> [P] float32
    """What training changed of the named parameters."""
    return np.concatenate([(sent.params[n].astype(np.float64) - sent.base[n]).ravel() for n in names]).astype(np.float32)


def as_sent(setting: Setting, z: Array) -> Array:  # [m, d] -> [m, d]
    """Features through what the mechanisms do to a row without chance, which every receiver knows too."""
    for s in outgoing.each(setting):
        name, c = s.mechanism.module.__name__.rpartition(".")[2], s.mechanism.config
        if name == "pool":
            z = pool.coarse(z, c.group)
        elif name == "clip_noise" and "features" in c.kinds and np.isfinite(c.clip):
            z = clipping.clipped_rows(z, c.clip).astype(z.dtype)
    return z


def linear_head(z: Array, p: Array) -> Floats:  # [m, d], [m, C] -> [d + 1, C]
    """The linear map that a receiver fits from uploaded features to uploaded soft labels (least squares, smallest norm)."""
    found = np.linalg.lstsq(_with_one(z.astype(np.float64)), p.astype(np.float64), rcond=1e-6)[0]
    return np.asarray(found, dtype=np.float64)


def nearest_soft_label(said: Floats, sent: Floats, labels: Array, sent_labels: Array | None) -> Floats:  # -> [n]
    """Smallest KL(row || candidate) over the rows that carry the candidate's label, nats; over all where none does."""
    logs = np.log(np.maximum(sent, 1e-12)), np.log(np.maximum(said, 1e-12))
    entropy = (sent * logs[0]).sum(axis=1)
    divergence = entropy[None, :] - logs[1] @ sent.T
    if sent_labels is not None:
        alike = labels[:, None] == sent_labels[None, :]
        alike[~alike.any(axis=1)] = True
        divergence = np.where(alike, divergence, np.inf)
    return np.asarray(np.maximum(divergence.min(axis=1), 0.0), dtype=np.float64)


def _with_one(z: Floats) -> Floats:
    return np.hstack([z, np.ones((len(z), 1))])


def personal(reader: Reader, models: Iterable[tuple[int, Mapping[str, Tensor]]], round: int) -> None:
    """The clients' final models as a channel of its own."""
    held = dict(models)
    reader.add(PERSONAL, "phi", round, held, lambda c, m: reader.phi(held[m], c))
