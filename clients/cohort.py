"""What one worker does with one message: train and score its cohort of clients, each isolated from the others' failures."""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import RecordDict
from torch import Tensor

from clients import codec
from fedkd import faults, outgoing
from fedkd.errors import BudgetSpent, UploadError
from fedkd.fixed_point import Running
from fedkd.prepare import Prepared
from fedkd.setting import Setting
from fedkd.store import ClientStore
from fedkd.train import Job, evaluate, stage
from fedkd.types import Arrays, Broadcast, ClientData, Kinds, Schema, Split, Upload
from fedkd.uploads import check
from fedkd.vault import Vault

SPENT = {"num-examples": 0, "spent": 1}
"""The answer of a client whose privacy budget does not last for this round: it changes nothing."""

KEPT = 4096
"""Clients whose data a worker with a GPU keeps there (``fedkd.train.stage``)."""


Held = dict[int, tuple[Arrays, Broadcast, ClientData, Vault, float]]
"""What is kept of each client while it trains: state, what came down, data, vault, and when it began."""


@dataclass(frozen=True)
class Order:
    """What a train or evaluate message asks for."""

    round: int
    clients: tuple[int, ...]
    versions: tuple[int, ...]
    """base version of each client's state (-1 = none)"""
    reduce: bool
    """pre-aggregate this cohort's uploads"""
    shared: Kinds
    own: dict[int, Kinds]


@dataclass
class Reply:
    """The records of a reply, filled client by client."""

    content: RecordDict = field(default_factory=RecordDict)
    running: Running = field(default_factory=Running)
    weight: int = 0
    summed: list[int] = field(default_factory=list)
    schema: Schema | None = None
    """what the method declared for this round, once asked"""

    def fail(self, client: int, error: BaseException, trusted: bool) -> None:
        """One client's failure: class, file:line and a hash travel; the message only where the server is trusted."""
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        full = "".join(traceback.format_exception(error))
        self.content[f"failure.{client}"] = codec.config_record(
            {
                "error": type(error).__name__,
                "where": where,
                "hash": hashlib.sha256(full.encode()).hexdigest()[:16],
                "message": (str(error) if isinstance(error, UploadError) else full) if trusted else "",
            }
        )

    def seal(self) -> RecordDict:
        """Add the sums and return the content."""
        for kind, total in self.running.sums.items():
            self.content[f"sum.{kind}"] = codec.to_record(total)
        if self.summed:
            self.content["sum-meta"] = codec.config_record({"clients": self.summed, "weight": self.weight})
        return self.content


class Worker:
    """One run's clients in this process: setting, data and store, opened once."""

    def __init__(self, setting: Setting, data: Prepared, store: ClientStore) -> None:
        self.setting, self.data, self.store = setting, data, store
        self.executor = setting.executor
        self.max_bytes = setting.experiment.max_upload_mb * 2**20
        self.schema_of = setting.module.schema
        self._kept = lru_cache(maxsize=KEPT)(data.client)

    def train(self, order: Order) -> RecordDict:
        """Train each client of the order from its base version and write its new one."""
        reply = Reply()
        held: Held = {}
        for job, outcome in self.executor.run(self._jobs(order, reply, held)):
            state, broadcast, data, vault, started = held.pop(job.client)
            try:
                if isinstance(outcome, Exception):
                    raise outcome
                self._finish(order, reply, job, outcome, state, broadcast, data, vault, started)
            except BudgetSpent:
                reply.content[f"metrics.{job.client}"] = codec.metric_record(SPENT)
            except Exception as error:  # one client's failure is its own: the rest of the cohort goes on
                reply.fail(job.client, error, self.setting.experiment.trusted)
        return reply.seal()

    def evaluate(self, order: Order) -> RecordDict:
        """Score each client on what came down, training nothing and writing nothing."""
        reply = Reply()
        for client, version in zip(order.clients, order.versions, strict=True):
            try:
                state, broadcast, data = self._open(order, client, version)
                metrics = self._score(self._evaluation(outgoing.split(state)[0], broadcast, data), data, "average")
                self._tell(reply, order.round, client, metrics, {"num-examples": 0})
            except Exception as error:
                reply.fail(client, error, self.setting.experiment.trusted)
        return reply.seal()

    def _open(self, order: Order, client: int, version: int) -> tuple[Arrays, Broadcast, ClientData]:
        """The state is whole; a method is given its part of it alone, and what came down under its own names."""
        state = self.store.read(client, version)
        own = outgoing.download(self.setting, order.round, outgoing.split(state)[1], order.own.get(client, {}))
        data = self._kept(client) if self.setting.device.type == "cuda" else self.data.client(client)
        return state, Broadcast(order.round, client, order.shared, own), data

    def _jobs(self, order: Order, reply: Reply, held: Held) -> Iterator[Job]:
        for client, version in zip(order.clients, order.versions, strict=True):
            started = time.perf_counter()
            try:
                self.store.prune(client, version)
                state, broadcast, data = self._open(order, client, version)
                if data.num_examples == 0:
                    reply.content[f"metrics.{client}"] = codec.metric_record({"num-examples": 0})
                    continue
                vault = Vault(self.store.folder / str(client))
                if not outgoing.allowed(self.setting, order.round, data, vault):
                    reply.content[f"metrics.{client}"] = codec.metric_record(SPENT)
                    continue
                job = self.setting.module.prepare(self.setting, outgoing.split(state)[0], broadcast, data)
                job = outgoing.local(self.setting, order.round, data, job, vault)
            except Exception as error:
                reply.fail(client, error, self.setting.experiment.trusted)
                continue
            held[client] = (state, broadcast, data, vault, started)
            yield job

    def _finish(
        self,
        order: Order,
        reply: Reply,
        job: Job,
        params: dict[str, Tensor],
        state: Arrays,
        broadcast: Broadcast,
        data: ClientData,
        vault: Vault,
        started: float,
    ) -> None:
        setting, client = self.setting, job.client
        state, held = outgoing.split(state)
        metrics: dict[str, float] = {"num-examples": data.num_examples, "num-test": len(data.test)}
        if setting.experiment.score == "after_local":
            metrics.update(self._score(params, data, "local"))
        elif order.round > 0:
            metrics.update(self._score(self._evaluation(state, broadcast, data), data, "average"))
        new_state, kinds = setting.module.finish(setting, state, broadcast, data, job, params)
        if job.trace:
            vault.keep_trace(order.round, job.trace)
        out = outgoing.upload(setting, order.round, data, new_state, held, kinds, vault, broadcast)
        new_state = outgoing.joined(new_state, out.held)
        kinds = faults.spoil(out.kinds, order.round, client)
        upload = Upload(client, outgoing.weight(setting, order.round, data), kinds)
        if reply.schema is None:
            reply.schema = self.schema_of(setting, order.round)
        check(reply.schema, upload, self.max_bytes, finite=not order.reduce)
        factor = outgoing.mean_weight(setting, upload.weight)
        summand = reply.running.check(kinds, factor) if order.reduce else None
        digest = self.store.write(client, order.round, new_state)
        if summand is not None:
            reply.running.take(summand)
            reply.weight += upload.weight
            reply.summed.append(client)
        else:
            reply.content.update(codec.client_records(client, kinds))
        metrics["taught"] = int(bool(job.targets))
        if outgoing.notes(setting):
            metrics["charges"] = out.charges
        metrics["seconds"] = time.perf_counter() - started
        self._tell(reply, order.round, client, metrics, {"num-examples": upload.weight})
        version = order.round if new_state else -1
        reply.content[f"state.{client}"] = codec.config_record({"version": version, "digest": digest})

    def _tell(self, reply: Reply, round: int, client: int, metrics: dict[str, float], least: dict[str, float]) -> None:
        """Put a client's metrics into the reply or, with metrics = "home", on its own disk; then the reply has the least."""
        if self.setting.experiment.metrics == "home":
            self.store.keep_metrics(client, round, metrics)
            metrics = least
        reply.content[f"metrics.{client}"] = codec.metric_record(metrics)

    def _evaluation(self, state: Arrays, broadcast: Broadcast, data: ClientData) -> dict[str, Tensor]:
        """Parameters to score after averaging: as they are, or a fine-tuned copy that is discarded afterwards."""
        job = self.setting.module.evaluate_with(self.setting, state, broadcast, data)
        if job.epochs == 0:
            return job.params  # type: ignore[no-any-return]
        ((_, outcome),) = self.executor.run([job])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[no-any-return]

    def _score(self, params: dict[str, Tensor], data: ClientData, when: str) -> dict[str, float]:
        """Accuracy and loss on the client's own test and validation splits; a split without rows has no score."""
        out: dict[str, float] = {}
        parts: tuple[tuple[str, Split], ...] = (("test", data.test), ("val", data.val))
        for name, split in parts:
            if len(split):
                x, y = stage(split, self.setting.device)
                accuracy, loss = evaluate(self.setting.model, params, x, y)
                out[f"{when}-{name}-accuracy"], out[f"{when}-{name}-loss"] = accuracy, loss
                out[f"num-{name}"] = len(split)
        return out


def one_thread() -> None:
    """One intra-op thread in every process, set before the first tensor: results do not depend on the machine's cores."""
    torch.set_num_threads(1)
