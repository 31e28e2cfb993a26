"""The ClientApp: unpack a message, hand it to this process's worker, pack the reply. It carries any method.

Node config (real devices): ``clients`` ("0" or "0,3,7": the client ids that live here), ``data`` (an absolute folder of
prepared data), ``state-root`` (an absolute folder). In simulation none is set and any node may run any client.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients import codec
from clients.cohort import Order, Worker, one_thread
from fedkd import setting as settings
from fedkd.config import Experiment, Scalar, experiment_from
from fedkd.errors import ConfigError
from fedkd.prepare import data_hash, open_data
from fedkd.store import ClientStore
from fedkd.types import Arrays

app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Who is here: protocol, state root, data hash and, on real devices, the client ids with their sizes."""
    one_thread()
    experiment = _experiment(context, message)
    clients = _own_clients(context)
    answer = {
        "protocol": codec.PROTOCOL,
        "state-root": str(_state_root(context, experiment)),
        "clients": clients,
        "data-hash": data_hash(experiment),
        "sizes": [],
    }
    if clients:
        data = open_data(_data_folder(context, experiment))
        answer["data-hash"] = data.meta["hash"]
        sizes = [int(data.sizes[c]) for c in clients]
        answer["sizes"] = sizes if experiment.metrics == "sent" else [min(1, k) for k in sizes]
    return Message(RecordDict({"hello": codec.config_record(answer)}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the clients that the message names."""
    worker, order = _open(message, context)
    return Message(worker.train(order), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the clients that the message names, without training."""
    worker, order = _open(message, context)
    return Message(worker.evaluate(order), reply_to=message)


def _open(message: Message, context: Context) -> tuple[Worker, Order]:
    one_thread()
    experiment = _experiment(context, message)
    config = message.content["config"]
    assert isinstance(config, ConfigRecord)
    if config["protocol"] != codec.PROTOCOL:
        raise ConfigError(
            f"protocol {config['protocol']!r} instead of {codec.PROTOCOL}: server and node run different versions"
        )
    clients = tuple(int(c) for c in config["clients"])  # type: ignore[union-attr]
    order = Order(
        round=int(config["round"]),  # type: ignore[arg-type]
        clients=clients,
        versions=tuple(int(v) for v in config["versions"]),  # type: ignore[union-attr]
        reduce=bool(config["reduce"]),
        shared=codec.unflatten(_read_only(_arrays(message.content, "shared"))),
        own={c: codec.unflatten(_arrays(message.content, f"own.{c}")) for c in clients},
    )
    data, root = str(_data_folder(context, experiment)), str(_state_root(context, experiment))
    return _worker(experiment, data, root, str(config["run"])), order


@lru_cache(maxsize=4)
def _worker(experiment: Experiment, data_folder: str, state_root: str, run: str) -> Worker:
    """Opened once per process and run: a cache that saves time, never a place where state lives."""
    data = open_data(Path(data_folder))
    setting = settings.build(experiment, data.shape, data.classes)
    return Worker(setting, data, ClientStore(Path(state_root), run))


def _arrays(content: RecordDict, name: str) -> Arrays:
    record = content.get(name)
    return codec.from_record(record) if isinstance(record, ArrayRecord) else {}


def _read_only(arrays: Arrays) -> Arrays:
    """What all clients of a cohort are given: none of them can change it for the next."""
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def _experiment(context: Context, message: Message) -> Experiment:
    config = message.content["config"]
    assert isinstance(config, ConfigRecord)
    index = config["index"]
    assert isinstance(index, int)
    return _runs(tuple(sorted(context.run_config.items())))[index]


@lru_cache(maxsize=4)
def _runs(items: tuple[tuple[str, Scalar], ...]) -> list[Experiment]:
    return experiment_from(dict(items)).runs()


def _own_clients(context: Context) -> list[int]:
    text = str(context.node_config.get("clients", ""))
    return [int(part) for part in text.split(",") if part.strip()]


def _state_root(context: Context, experiment: Experiment) -> Path:
    own = str(context.node_config.get("state-root", ""))
    root = Path(own or experiment.state_root or Path(experiment.output) / "state")
    if not root.is_absolute():
        raise ConfigError(f"state-root {str(root)!r} is not absolute; add -c 'output=\"/absolute/folder\"'")
    return root


def _data_folder(context: Context, experiment: Experiment) -> Path:
    own = str(context.node_config.get("data", ""))
    return Path(own) if own else _state_root(context, experiment) / "data" / data_hash(experiment)
