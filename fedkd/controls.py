"""Controls that decide whether an audit may speak: known-leaky, known-clean, blind base line, label
permutation.

Specs: audit, section 2; Das et al. 2024, arXiv 2406.16201 and Meeus et al. 2024, arXiv 2406.17975 (membership
sets that a classifier without any model tells apart). A known-leaky control that is missed makes the verdict
inconclusive; a blind base line above chance withholds the membership results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedkd.inference import permutation_p
from fedkd.intervals import Bools, Floats
from fedkd.metrics import Estimate, TooFew, advantage, auc_delong, halves
from fedkd.verdict import show

BLIND_LEVEL = 0.999
"""Level of the blind base line's interval: a split is called broken only on strong evidence."""


@dataclass(frozen=True)
class Control:
    """The outcome of one control."""

    name: str
    """"known_leaky", "known_clean", "blind_baseline" or "label_permutation"."""
    status: str
    """"caught" or "missed"; "clean" or "flagged"; "broken"; "not run"."""
    detail: str
    """One line for the reader."""
    value: float | None = None
    """AUC of the blind base line, p value of the permutation null."""

    @property
    def blocks(self) -> bool:
        """True where no verdict may be given: a leak that was planted was not seen."""
        return self.name == "known_leaky" and self.status == "missed"


def plant_leak(member: Bools, score: Floats, rng: np.random.Generator, share: float = 0.5) -> Floats:
    """Known-leaky control at score level: a ``share`` of the members score above everybody else; [N] in, [N]
    out.

    It shows whether a gross leak would be seen at these sizes, splits and ties; a control that was *trained*
    to leak is stronger and is passed as scores of its own.
    """
    planted = score.copy()
    index = np.flatnonzero(member)
    chosen = rng.permutation(index)[: max(1, round(share * index.size))]
    top = float(score.max())
    planted[chosen] = top + max(1.0, abs(top)) * 1e-3
    return planted


def leaky_control(caught: bool, origin: str) -> Control:
    """The known-leaky control's outcome; ``origin`` says where its scores come from."""
    detail = f"{origin}: the leak was {'seen' if caught else 'missed, so nothing can be concluded'}"
    return Control("known_leaky", "caught" if caught else "missed", detail)


def clean_control(flagged: bool, origin: str, level: float) -> Control:
    """The known-clean control's outcome; a correct audit flags it in (1 - level) / 2 of all cases."""
    rate = 100.0 * (1.0 - level) / 2.0
    detail = f"{origin}: {'flagged' if flagged else 'not flagged'} (chance alone flags {rate:.3g} %)"
    return Control("known_clean", "flagged" if flagged else "clean", detail)


def blind_baseline(member: Bools, blind_score: Floats | None) -> Control:
    """Can a classifier that never saw the model tell members apart? [N] scores, or None where it was not
    run."""
    if blind_score is None:
        return Control("blind_baseline", "not run", "no column `blind` or `text`: a broken split would go unseen")
    estimate = auc_delong(blind_score[member], blind_score[~member], BLIND_LEVEL)
    interval = f"AUC {show(estimate.value)} [{show(estimate.low)}, {show(estimate.high)}] at 99.9 %"
    if estimate.low > 0.5:
        return Control("blind_baseline", "broken", f"{interval}: members differ without any model", estimate.value)
    return Control("blind_baseline", "clean", interval, estimate.value)


def label_permutation(member: Bools, score: Floats, rng: np.random.Generator, permutations: int) -> Control:
    """The rank sum under shuffled labels; a description beside the intervals, not a verdict."""
    p, used = permutation_p(member, score, rng, permutations)
    how = f"{used} shuffles" if used else "normal approximation with the exact permutation moments"
    return Control("label_permutation", "measured", f"one-sided p = {show(p)} ({how})", p)


def text_baseline(texts: Sequence[str], member: Bools, seed: int) -> Floats:
    """Out-of-fold scores of a bag-of-words and length classifier, [N]: what the split alone gives away.

    Raises: ValueError with fewer than 10 candidates of a class (five folds need them).
    """
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    if min(int(member.sum()), int((~member).sum())) < 10:
        raise ValueError("the blind base line needs at least 10 members and 10 non-members")
    words = HashingVectorizer(n_features=2**12, alternate_sign=False).transform(texts)
    sizes = np.log1p([[len(text), text.count(" ")] for text in texts])
    sizes = (sizes - sizes.mean(axis=0)) / np.maximum(sizes.std(axis=0), 1e-9)
    features = hstack([words, csr_matrix(sizes)]).tocsr()
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    model = LogisticRegression(max_iter=1000, random_state=seed)
    scores = cross_val_predict(model, features, member, cv=folds, method="decision_function")
    return np.asarray(scores, dtype=np.float64)


@dataclass(frozen=True)
class ClientRow:
    """Membership of one client's candidates; no TPR at a low FPR, for which one client has too few."""

    client: str
    """The client's name or number."""
    members: int
    """Members among its candidates."""
    non_members: int
    """Non-members among its candidates."""
    auc: Estimate | None
    """AUC with DeLong's interval; None with fewer than two candidates of a class."""
    advantage: Estimate | None
    """TPR - FPR at a threshold chosen on the other half; None with fewer than two candidates of a class."""


def per_client(
    member: Bools,  # [N]
    score: Floats,  # [N] higher = more likely member
    client: npt.ArrayLike,  # [N] client of each candidate
    rng: np.random.Generator,
    level: float = 0.95,
) -> tuple[ClientRow, ...]:
    """AUC and advantage of every client, by name; pool candidates with `pool_clients` for rates at a low FPR."""
    names = np.asarray(client)
    rows = []
    for name in np.unique(names):
        inside, own = member[names == name], score[names == name]
        sizes = (int(inside.sum()), int((~inside).sum()))
        try:
            auc = auc_delong(own[inside], own[~inside], level)
            rows.append(ClientRow(str(name), *sizes, auc, advantage(inside, own, halves(inside, rng), level)))
        except TooFew:
            rows.append(ClientRow(str(name), *sizes, None, None))
    return tuple(rows)


def pool_clients(
    score: npt.ArrayLike,  # [N] score of each candidate under its own client's model
    out_score: npt.ArrayLike,  # [S, N] the same under models that did not train on it (other clients, shadows)
    client: npt.ArrayLike,  # [N] client of each candidate
) -> Floats:
    """Per-example z-scores, [N], so that candidates of many small clients can stand in one ROC.

    Each example is centred on its own out models; the spread is pooled within a client, because a few out
    models per example give no usable spread of their own.

    Raises: ValueError for wrong shapes, values that are not finite, or fewer than two out models.
    """
    own, out = np.asarray(score, dtype=np.float64), np.asarray(out_score, dtype=np.float64)
    names = np.asarray(client)
    if own.ndim != 1 or out.ndim != 2 or out.shape[1] != own.size or names.shape != own.shape:
        raise ValueError(f"needs scores [N], out scores [S, N], clients [N]; got {own.shape}, {out.shape}, {names.shape}")
    if out.shape[0] < 2:
        raise ValueError("a spread needs at least two out models")
    if not (np.isfinite(own).all() and np.isfinite(out).all()):
        raise ValueError("scores must be finite")
    variance = out.var(axis=0, ddof=1)
    _, codes = np.unique(names, return_inverse=True)
    pooled = np.bincount(codes, weights=variance) / np.bincount(codes)
    spread = np.sqrt(np.maximum(pooled, 1e-24))[codes]
    return np.asarray((own - out.mean(axis=0)) / spread, dtype=np.float64)
