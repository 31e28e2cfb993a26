"""A toy federation for tests: in-memory clients, settings in one line, and a driver without Flower.

``federate`` is the server's loop in its barest form (sample, broadcast, prepare, train, finish, aggregate), so that a test
can look at every broadcast, upload and state. That it is the same federation as the one over Flower's messages is itself
a test (``tests/contracts/test_methods.py``).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedkd import fixed_point, rng
from fedkd import setting as settings
from fedkd.config import Experiment
from fedkd.data import synthetic
from fedkd.errors import ConfigError
from fedkd.native import compiler
from fedkd.setting import Setting
from fedkd.types import Arrays, Broadcast, ClientData, Split, Upload
from fedkd.uploads import Uploads

SHAPE, CLASSES = (1, 8, 8), 5
SIZES = (19, 9, 26, 14)
"""Training samples of the four clients: unequal, and no multiple of the batch size."""
ROUNDS = 6
PUBLIC = 30
"""Public transfer rows: more than any toy client holds."""
LEVELS = [4] * 5 + [3] * 3 + [2, 1]
"""s(t) of "late" for L = 3 and R = 10: boundaries 5, 7.5 -> 8, 9."""
STOP, FOLLOW = [3] * 8 + [0] * 2, [3] * 8 + [2, 1]
PARAMETERS = {1: 16 * 9 + 16, 2: 32 * 16 * 9 + 32, 3: 128 * 64 + 64, 4: 64 * CLASSES + CLASSES}
"""numbers in each block of ``cnn_small`` on the toy images; 4 = the classifier"""
WIDTH = {1: 16 * 4 * 4, 2: 32 * 2 * 2, 3: 64}
"""d_l after the 4x4 pool"""


def toy_setting(method: str = "fedd2s", args: str = "", shape: tuple[int, ...] = SHAPE, **keys: Any) -> Setting:
    """A resolved experiment of four clients with three of them a round; ``keys`` override the experiment's."""
    values: dict[str, Any] = {
        "num_clients": 4,
        "fraction_train": 0.75,
        "num_server_rounds": ROUNDS,
        "batch_size": 16,
        "weight_decay": 1e-3,
        "public_samples": PUBLIC,
        "method_name": method,
        "method_args": args,
    }
    return settings.build(Experiment(**{**values, **keys}), shape, CLASSES)


def block_of(name: str) -> int:
    """1..L for blocks, L + 1 = 4 for the classifier."""
    return 4 if name.startswith("classifier") else int(name[5])


def refusal(call: Callable[[], object]) -> str:
    """The message of the ConfigError that ``call`` raises."""
    try:
        call()
    except ConfigError as error:
        return str(error)
    raise AssertionError("nothing was refused")


def has_compiler() -> bool:
    """Whether a C compiler is here, without which executor ``native`` is refused."""
    try:
        return bool(compiler.find_compiler())
    except ConfigError:
        return False


@functools.lru_cache(maxsize=32)
def toy_clients(sizes: tuple[int, ...] = SIZES, shape: tuple[int, ...] = SHAPE, seed: int = 7) -> tuple[ClientData, ...]:
    """Clients with class pictures plus noise; sample ids ascend with gaps, so that no id is a row number."""
    public = _client(len(sizes), PUBLIC, shape, seed).train
    return tuple(dataclasses.replace(_client(n, size, shape, seed), public=public) for n, size in enumerate(sizes))


def _client(client: int, size: int, shape: tuple[int, ...], seed: int) -> ClientData:
    stream = rng.experiment(seed, "toy", client=client)
    config = synthetic.Config(shape, CLASSES, size + 10, alpha=2.0)
    table = synthetic.generate(config, seed, client)
    ids = np.sort(stream.choice(1000, size + 10, replace=False)).astype(np.int32) + 1000 * client
    cuts = (slice(0, size), slice(size, size + 2), slice(size + 2, size + 10))
    return ClientData(client, *(Split(table.x[c], table.y[c], ids[c]) for c in cuts))


@dataclass
class History:
    """What a federation did; lists are by round."""

    setting: Setting
    clients: Sequence[ClientData]
    server: list[Arrays] = field(default_factory=list)
    """server state after each round"""
    extra: list[dict[str, float | None]] = field(default_factory=list)
    broadcasts: list[dict[int, Broadcast]] = field(default_factory=list)
    uploads: list[dict[int, Upload]] = field(default_factory=list)
    models: list[dict[int, Arrays]] = field(default_factory=list)
    """f_n as trained in this round, by client: what is scored after local training"""
    states: list[dict[int, Arrays]] = field(default_factory=list)
    """committed state of every client after each round"""

    @property
    def final(self) -> dict[int, Arrays]:
        """Last trained model of every client."""
        return {c: m for models in self.models for c, m in models.items()}


def federate(setting: Setting, clients: Sequence[ClientData] | None = None, rounds: int | None = None, **how: Any) -> History:
    """Run rounds 0, 1, ...

    Args:
        how: ``sample`` (round -> client ids), ``arrange`` (list of uploads -> list, the order of arrival),
            ``reduce`` (pre-aggregate as a worker would, where the method allows it).
    """
    clients = toy_clients() if clients is None else clients
    sample: Callable[[int], list[int]] = how.get("sample", setting.sample)
    arrange: Callable[[list[Upload]], list[Upload]] = how.get("arrange", lambda uploads: uploads)
    history = History(setting, clients)
    server, states, last = setting.module.init(setting), {c.client: {} for c in clients}, dict.fromkeys(range(len(clients)), -1)
    for t in range(setting.rounds if rounds is None else rounds):
        broadcasts, uploads, models = {}, {}, {}
        for n in sample(t):
            shared, own = setting.module.broadcast(setting, server, t, n, last[n])
            broadcasts[n] = Broadcast(t, n, shared, own)
            states[n], uploads[n], models[n] = train_one(setting, states[n], broadcasts[n], clients[n])
        last.update(dict.fromkeys(broadcasts, t))
        received = collect(setting, t, arrange(list(uploads.values())), **how)
        server, extra = setting.module.aggregate(setting, server, t, received)
        history.server.append(server)
        history.extra.append(extra)
        history.broadcasts.append(broadcasts)
        history.uploads.append(uploads)
        history.models.append(models)
        history.states.append(dict(states))
    return history


def train_one(setting: Setting, state: Arrays, broadcast: Broadcast, data: ClientData) -> tuple[Arrays, Upload, Arrays]:
    """(new state, upload, trained model) of one client's round on the configured executor."""
    job = setting.module.prepare(setting, state, broadcast, data)
    ((_, params),) = setting.executor.run([job])
    if isinstance(params, Exception):
        raise params
    new, kinds = setting.module.finish(setting, state, broadcast, data, job, params)
    model = {n: params[n].cpu().numpy().copy() for n in setting.model.names}
    return new, Upload(data.client, data.num_examples, kinds), model


def collect(setting: Setting, round: int, rows: list[Upload], reduce: bool = False, cohort: int = 0, **_: Any) -> Uploads:
    """A round's uploads as the server holds them: rows, or sums where ``reduce`` and the method allow it."""
    uploads = Uploads(round, cohort or len(rows), setting.module.schema(setting, round))
    if not reduce or uploads.cohort == 1 or setting.module.reduction(setting, round) != "mean":
        uploads.rows = rows
        return uploads
    for u in rows:
        uploads.add_sums({k: fixed_point.encode(v, u.weight) for k, v in u.kinds.items()}, u.weight, [u.client])
    return uploads


def same(left: Arrays, right: Arrays) -> bool:
    """Equal names, dtypes, shapes and bits."""
    return left.keys() == right.keys() and all(
        left[n].dtype == right[n].dtype and left[n].shape == right[n].shape and left[n].tobytes() == right[n].tobytes()
        for n in left
    )


def largest_difference(left: Arrays, right: Arrays) -> float:
    """max |left - right| over all names (which must agree)."""
    assert left.keys() == right.keys()
    return max(float(np.abs(left[n].astype(np.float64) - right[n].astype(np.float64)).max()) for n in left)
