"""Labels and links: what messages say about their sender's labels, and whether two rounds' messages are one sender's.

Label evidence: raw labels, summed soft labels, counts of class-wise records, and the classifier's bias (a class that a client
holds has its bias raised by training; Yin et al., 2021, arXiv 2104.07586). Links: each message of a round, its client id taken
away, is matched to the nearest message of the next round; rows of one client likewise, their sample ids taken away. Threat
model: an honest-but-curious receiver; for links one that sees messages without names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from fedkd import heads, outgoing, rng
from fedkd.attacks import linkage
from fedkd.channel_messages import Round, Sent
from fedkd.finished import Finished
from fedkd.intervals import Floats
from fedkd.mechanisms import permute
from fedkd.setting import Setting
from fedkd.transcripts import softmax
from fedkd.types import Array
from fedkd.vault import Vault

UPDATES = "weights up"
ROWS = {"features": "z", "soft_labels": "p"}


class Link(NamedTuple):
    """Messages of two consecutive rounds matched without names."""

    channel: str
    round: int
    """the later of the two"""
    distance: Floats
    """[n, n] earlier message to later message; equal senders on the diagonal"""


class RowLink(NamedTuple):
    """One client's rows of two consecutive rounds matched without sample ids."""

    round: int
    client: int
    hits: float
    rows: int


@dataclass
class Evidence:
    """What was read off the messages of all rounds."""

    setting: Setting
    run: Finished
    mass: dict[str, dict[int, Floats]] = field(default_factory=dict)
    """channel -> client -> evidence per class [C]"""
    links: list[Link] = field(default_factory=list)
    row_links: list[RowLink] = field(default_factory=list)
    _before: Round | None = None

    def read(self, r: Round) -> None:
        """Add one round."""
        for client, sent in r.up.items():
            for channel, mass in label_evidence(self.setting, r.cut, sent).items():
                held = self.mass.setdefault(channel, {})
                held[client] = held.get(client, np.zeros(self.setting.classes)) + mass
        before, self._before = self._before, r
        if before is None:
            return
        both = sorted(set(before.up) & set(r.up))
        if len(both) < 2:
            return
        for channel, distance in distances(before, r, both).items():
            self.links.append(Link(channel, r.number, distance))
        if before.cut == r.cut:
            for client in both:
                link = self._rows(before, r, client)
                if link is not None:
                    self.row_links.append(link)

    def _rows(self, before: Round, r: Round, client: int) -> RowLink | None:
        first, second = before.up[client].kinds, r.up[client].kinds
        if "features" not in first or "features" not in second:
            return None
        names = true_ids(self.run, before.number, client, first), true_ids(self.run, r.number, client, second)
        if names[0] is None or names[1] is None or len(names[0]) < 2:
            return None
        order = np.argsort(names[0], kind="stable"), np.argsort(names[1], kind="stable")
        if not np.array_equal(names[0][order[0]], names[1][order[1]]):
            return None
        distance = cdist(first["features"]["z"][order[0]], second["features"]["z"][order[1]])
        found = linkage.audit(linkage.Config(), distance=distance)
        return RowLink(r.number, client, found.top1.value * len(distance), len(distance))


def label_evidence(setting: Setting, cut: int, sent: Sent) -> dict[str, Floats]:
    """Channel -> evidence per class [C] of one message."""
    found: dict[str, Floats] = {}
    kinds, classes = sent.kinds, setting.classes
    if "labels" in kinds:
        found["labels up"] = np.bincount(kinds["labels"]["y"], minlength=classes).astype(np.float64)
    if "soft_labels" in kinds and len(kinds["soft_labels"]["p"]):
        found["soft labels up"] = softmax(kinds["soft_labels"]["p"]).sum(axis=0)
    if "class_means" in kinds:
        found["class means up"] = kinds["class_means"]["n"].astype(np.float64)
    places = {"weights up": setting.model.names_of_block[-1], "heads up": heads.names(cut) if cut else ()}
    for channel, names in places.items():
        bias = [n for n in names if n.endswith("bias") and n in sent.params and n in sent.base]
        if bias:
            found[channel] = np.maximum(sent.params[bias[0]].astype(np.float64) - sent.base[bias[0]], 0.0)
    return found


def distances(before: Round, after: Round, clients: list[int]) -> dict[str, Floats]:
    """Channel -> [n, n] distances between two rounds' messages, where both rounds have that kind in the same form."""
    found: dict[str, Floats] = {}
    for kind, name in ROWS.items():
        sets = [[r.up[c].kinds.get(kind, {}).get(name) for c in clients] for r in (before, after)]
        rows = [[v for v in one if v is not None and len(v)] for one in sets]
        if any(len(one) < len(clients) for one in rows) or len({v.shape[1] for one in rows for v in one}) > 1:
            continue
        if kind == "soft_labels":
            rows = [[softmax(v) for v in one] for one in rows]
        found[f"{kind.replace('_', ' ')} up"] = between_sets(*rows)
    names = sorted(set.intersection(*(set(r.up[c].params) & set(r.up[c].base) for r in (before, after) for c in clients)))
    if names:
        flat = [np.stack([_update(r.up[c], names) for c in clients]) for r in (before, after)]
        found[UPDATES] = 1.0 - flat[0] @ flat[1].T
    return found


def between_sets(first: list[Array], second: list[Array]) -> Floats:
    """[n, n] mean distance of a set's rows to their nearest rows of another set."""
    whole = cdist(np.concatenate(first), np.concatenate(second))
    starts = [np.cumsum([0, *(len(v) for v in one[:-1])]) for one in (first, second)]
    nearest = np.minimum.reduceat(whole, starts[1], axis=1)
    sizes = np.array([len(v) for v in first])
    return np.asarray(np.add.reduceat(nearest, starts[0], axis=0) / sizes[:, None], dtype=np.float64)


def _update(sent: Sent, names: list[str]) -> Floats:
    flat = np.concatenate([(sent.params[n].astype(np.float64) - sent.base[n]).ravel() for n in names])
    return np.asarray(flat / max(float(np.linalg.norm(flat)), 1e-30), dtype=np.float64)


def true_ids(run: Finished, round: int, client: int, kinds: Mapping[str, Mapping[str, Array]]) -> Array | None:
    """Sample ids of an upload's rows: as sent or, where ``permute`` renamed them, from the client's own secret, which the
    auditor of a simulation holds and no receiver does; None where that is not on this machine."""
    wire: Array = kinds["ids"]["i"]
    for s in outgoing.each(run.setting):
        c = s.mechanism.config
        if s.mechanism.module is not permute or not c.every:
            continue
        folder = run.store.folder / str(client)
        if c.insecure_seeded_noise:
            number = rng.key(s.seed, "insecure mechanism noise", client=client)
        elif (folder / "secret").is_file():
            number = Vault(folder).secret()
        else:
            return None
        ids = np.asarray(run.data.client(client).train.ids)
        return ids[permute.order(c, number, round, client, len(ids))][wire] if len(ids) == len(wire) else None
    return wire
