"""Which client holds which sample: a thin layer over the partitioners of flwr-datasets, on labels in memory.

The only module that imports ``flwr_datasets``, inside a function, as that import takes seconds. Partitioners: iid;
Dirichlet label skew per class (Yurochkin et al., 2019, arXiv 1905.12022); pathological, a fixed number of classes per
client (Li et al., 2021, arXiv 2102.02079); natural, by the data set's own client id. Redrawing until each client has
enough samples is as in PFLlib, but bounded; the split 70/5/25 is PFLlib's 75/25 with 5 % for validation.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedkd import rng
from fedkd.errors import ConfigError
from fedkd.types import Array

Indices = npt.NDArray[np.int64]
Draw = Callable[[int, int], list[Indices] | int]
"""(draw number, smallest size asked for) -> index lists, or the smallest size where that is already too small."""

WORK = 4_000_000
"""Bound of Dirichlet's redraws: draws x clients x classes, with 20 to 2,000 draws (a pathological one has 50)."""


@dataclass(frozen=True)
class Iid:
    """Equal shares of a random order."""


@dataclass(frozen=True)
class Dirichlet:
    """Label skew: each class is divided over the clients in proportions drawn from Dirichlet(alpha)."""

    alpha: float = 0.5
    """concentration, > 0; small = few classes per client, 100 = nearly iid"""


@dataclass(frozen=True)
class Pathological:
    """Each client has a fixed number of classes; the first is client id modulo C, so that all classes are used."""

    classes_per_client: int = 2
    """1 to C"""


@dataclass(frozen=True)
class Natural:
    """One client per natural group of the data set; a seeded draw of them where the set has more than enough."""


CONFIGS: dict[str, type[Iid] | type[Dirichlet] | type[Pathological] | type[Natural]] = {
    "iid": Iid,
    "dirichlet": Dirichlet,
    "pathological": Pathological,
    "natural": Natural,
}


def config_of(name: str, args: str) -> Iid | Dirichlet | Pathological | Natural:
    """The Config of partition ``name`` from ``partition.args``. Raises: ConfigError for unknown names and fields."""
    from fedkd.config import parse_args

    if name not in CONFIGS:
        raise ConfigError(f"partition.name = {name!r}; valid values: {', '.join(CONFIGS)}")
    return parse_args(args, CONFIGS[name], "partition.args")


def partition(
    name: str,
    args: str,
    labels: Array,  # [n] integer labels
    groups: Array | None,  # [n] natural client ids, for "natural"
    num_clients: int,
    min_client_samples: int,
    seed: int,
) -> list[Indices]:  # num_clients disjoint, ascending lists of positions in labels
    """Spread the samples over clients; redraw with derived seeds until each has ``min_client_samples`` (at least 1).

    Raises: ConfigError for more clients than samples, a field out of range, a set without natural clients, or where no
    draw reaches the minimum (the message names the smallest client of the best draw).
    """
    config = config_of(name, args)
    least = max(1, min_client_samples)
    classes = np.unique(labels)
    _check(config, labels, classes, groups, num_clients, least)
    draw = _DRAWS[type(config)](config, labels, classes, groups, num_clients, seed)
    tries = _tries(config, num_clients * len(classes))
    best = 0
    for number in range(tries):
        parts = draw(number, least)
        smallest = parts if isinstance(parts, int) else min(map(len, parts))
        if not isinstance(parts, int) and smallest >= least:
            return [np.sort(part) for part in parts]
        best = max(best, smallest)
    raise ConfigError(
        f"partition {name}({args}): the smallest of {num_clients} clients reached {best} samples in {tries} draws, "
        f"min-client-samples asks for {least}; use fewer clients, more samples, a smaller minimum or a larger alpha"
    )


def split(labels: Array, indices: Array, seed: int, client: int) -> tuple[Indices, Indices, Indices]:
    """One client's indices -> (train, val, test), sorted and disjoint, of sizes given by ``split_sizes``.

    Classes with two or more samples give val and test samples in proportion to their size and keep at least one for
    train; classes with one sample stay in train unless nothing else is left.
    """
    stream = rng.experiment(seed, "split", client=client)
    order = stream.permutation(np.asarray(indices, dtype=np.int64))  # ties and rows are drawn once, here
    own = np.asarray(labels)[order]
    _, test, val = split_sizes(len(order))
    taken = np.zeros(len(order), dtype=bool)
    parts = []
    for size in (test, val):
        rows = _stratified(own, taken, size)
        taken[rows] = True
        parts.append(np.sort(order[rows]))
    return np.sort(order[~taken]), parts[1], parts[0]


def split_sizes(n: int) -> tuple[int, int, int]:
    """(train, test, val) sizes for ``n`` samples of a client: test n/4, val n/20, rounded half up; the rest trains."""
    test, val = (n + 2) // 4 if n > 1 else 0, (n + 10) // 20
    return n - test - val, test, val


def quotas(counts: Array, total: int, caps: Array) -> Indices:
    """``total`` divided in proportion to ``counts`` by largest remainders (first wins ties), at most ``caps`` each.

    What a cap cuts off goes to no other class here: the sum may be below ``total``.
    """
    whole = int(np.sum(counts))
    if whole == 0:
        return np.zeros(len(counts), dtype=np.int64)
    exact = np.asarray(counts, dtype=np.int64) * total
    share, remainder = exact // whole, exact % whole
    extra = np.argsort(-remainder, kind="stable")[: total - int(share.sum())]
    share[extra] += 1
    return np.minimum(share, caps)


def _stratified(labels: Array, taken: npt.NDArray[np.bool_], size: int) -> Indices:
    """Positions of ``size`` samples that are not taken, spread over classes; each class keeps one while that can be."""
    _, first, codes = np.unique(labels, return_index=True, return_inverse=True)
    codes = np.argsort(np.argsort(first))[codes]  # classes in the random order of the rows: ties favour no class
    counts = np.bincount(codes)
    free = np.bincount(codes[~taken], minlength=len(counts))
    spare = np.maximum(free - 1, 0)
    want = quotas(np.where(counts > 1, counts, 0), size, spare)
    for room in (spare, free):
        while (missing := size - int(want.sum())) > 0 and (gap := room - want).any():
            want[np.argsort(-gap, kind="stable")[: min(missing, int((gap > 0).sum()))]] += 1
    positions = [np.flatnonzero((codes == c) & ~taken)[:n] for c, n in enumerate(want) if n]
    return np.concatenate([np.zeros(0, dtype=np.int64), *positions])


def _tries(config: Any, cells: int) -> int:
    if isinstance(config, Natural | Iid):
        return 1  # another draw has the same sizes
    return 50 if isinstance(config, Pathological) else int(np.clip(WORK // cells, 20, 2000))


def _check(config: Any, labels: Array, classes: Array, groups: Array | None, clients: int, least: int) -> None:
    if clients < 1 or clients > len(labels):
        raise ConfigError(f"num-clients = {clients}, but there are {len(labels)} samples; each client needs one or more")
    if clients * least > len(labels):
        raise ConfigError(
            f"min-client-samples = {least} for {clients} clients needs {clients * least} samples; there are "
            f"{len(labels)}, so the smallest client can reach {len(labels) // clients}"
        )
    if isinstance(config, Dirichlet) and not 0 < config.alpha < float("inf"):
        raise ConfigError(f"partition.args: alpha = {config.alpha}; it must be above 0 and finite")
    if isinstance(config, Pathological) and not 1 <= config.classes_per_client <= len(classes):
        raise ConfigError(
            f"partition.args: classes_per_client = {config.classes_per_client}; valid: 1 to {len(classes)} classes"
        )
    if isinstance(config, Natural) and groups is None:
        raise ConfigError("partition.name = 'natural' needs a data set with natural client ids; this one has none")


def _iid(config: Iid, labels: Array, classes: Array, groups: Any, clients: int, seed: int) -> Draw:
    order = rng.experiment(seed, "partition", 0).permutation(len(labels))

    def draw(number: int, least: int) -> list[Indices]:
        return [order[part] for part in _load("IidPartitioner", {"label": labels}, clients, num_partitions=clients)]

    return draw


def _dirichlet(config: Dirichlet, labels: Array, classes: Array, groups: Any, clients: int, seed: int) -> Draw:
    per_class = np.array([np.count_nonzero(labels == c) for c in classes])

    def draw(number: int, least: int) -> list[Indices] | int:
        own_seed = _seed(seed, number)
        sizes = dirichlet_sizes(config.alpha, per_class, clients, own_seed)
        if sizes.min() < least:  # the partitioner would draw the same sizes, a thousand times slower
            return int(sizes.min())
        options = {"alpha": config.alpha, "min_partition_size": 0, "self_balancing": False}
        return _by_label("DirichletPartitioner", labels, clients, own_seed, options)

    return draw


def dirichlet_sizes(alpha: float, per_class: Array, clients: int, seed: int) -> Indices:  # [clients]
    """Client sizes that flwr-datasets' DirichletPartitioner draws under ``seed``, without lists (a test compares)."""
    stream = np.random.default_rng(seed)
    sizes = np.zeros(clients, dtype=np.int64)
    for count in per_class:
        ends = (np.cumsum(stream.dirichlet(np.full(clients, alpha))) * count).astype(np.int64)
        ends[-1] = count
        sizes += np.diff(ends, prepend=0)
    return sizes


def _pathological(config: Pathological, labels: Array, classes: Array, groups: Any, clients: int, seed: int) -> Draw:
    def draw(number: int, least: int) -> list[Indices]:
        options = {
            "num_classes_per_partition": config.classes_per_client,
            "class_assignment_mode": "first-deterministic",
        }
        return _by_label("PathologicalPartitioner", labels, clients, _seed(seed, number), options)

    return draw


def _natural(config: Natural, labels: Array, classes: Array, groups: Any, clients: int, seed: int) -> Draw:
    names, sizes = np.unique(groups, return_counts=True)

    def draw(number: int, least: int) -> list[Indices] | int:
        fit = np.flatnonzero(sizes >= least)
        if len(fit) < clients:
            return int(np.sort(sizes)[::-1][clients - 1]) if len(sizes) >= clients else 0
        chosen = np.sort(rng.experiment(seed, "partition").choice(fit, clients, replace=False))
        parts = _load("NaturalIdPartitioner", {"group": groups}, len(names), partition_by="group")
        return [parts[c] for c in chosen]

    return draw


_DRAWS: dict[Any, Callable[..., Draw]] = {
    Iid: _iid,
    Dirichlet: _dirichlet,
    Pathological: _pathological,
    Natural: _natural,
}


def _seed(seed: int, number: int) -> int:
    return rng.key(seed, "partition", number) & (2**63 - 1)


def _by_label(partitioner: str, labels: Array, clients: int, seed: int, options: dict[str, Any]) -> list[Indices]:
    shared = {"num_partitions": clients, "partition_by": "label", "shuffle": False, "seed": seed}
    return _load(partitioner, {"label": labels}, clients, **shared, **options)


def _load(partitioner: str, columns: dict[str, Array], parts: int, **options: Any) -> list[Indices]:
    """Index lists of a flwr-datasets partitioner on in-memory columns, without its progress bars and warnings."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        import datasets
        from flwr_datasets import partitioner as partitioners

        class Rows(datasets.Dataset):  # type: ignore[misc]
            """Answers with row indices where a data set copies rows: a copy per client takes 20 ms."""

            def __getitem__(self, column: Any) -> Any:
                return columns[column]

            def select(self, indices: Any, *args: Any, **kwargs: Any) -> Any:
                return indices

        maker = getattr(partitioners, partitioner)(**options)
        maker.dataset = Rows(datasets.Dataset.from_dict(columns).data)
        try:
            return [np.asarray(maker.load_partition(i), dtype=np.int64) for i in range(parts)]
        except ValueError as error:
            raise ConfigError(f"partition: {error}") from None
