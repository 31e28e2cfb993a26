"""One round as the server sees it: who was asked, who answered, who failed and why, and the rows that it leaves behind."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from clients import codec
from fedkd.errors import UploadError
from fedkd.fixed_point import Sums
from fedkd.spread import worst_decile
from fedkd.store import NEVER
from fedkd.types import Array, Arrays, Schema, Upload
from fedkd.uploads import Uploads, check

COUNTED = ("num-examples", "num-test", "seconds", "taught", "charges", "spent")
"""Metrics of an answer that sums and rows are made of: they must be finite and not negative."""


Claim = tuple[dict[str, float], int, int, str]
"""A client's metrics, and its weight, version and digest."""


@dataclass
class Answer:
    """One client's accepted answer."""

    metrics: dict[str, float]
    version: int
    digest: str
    bytes_up: int


@dataclass
class Failure:
    """Why a client's part of a round was lost. ``replied``: a failure record came, rather than nothing at all."""

    client: int
    node: int
    error: str
    where: str
    message: str
    replied: bool


@dataclass
class Round:
    """Bookkeeping of round ``number``, over all attempts."""

    number: int
    cohort: list[int]
    uploads: Uploads
    sizes: Array | None
    max_bytes: float
    attempt: int = 0
    started: float = field(default_factory=time.perf_counter)
    asked: dict[str, tuple[int, list[int]]] = field(default_factory=dict)
    """group id of a message -> (node, clients)"""
    answers: dict[int, Answer] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)
    bytes_down: dict[int, int] = field(default_factory=dict)
    held: Arrays = field(default_factory=dict)
    """the mechanism's state on the server, committed with the round"""
    charges_down: dict[int, int] = field(default_factory=dict)
    """rows that the mechanism released anew to a client in this round"""
    wire_up: int = 0
    wire_down: int = 0
    _sizes_by_digits: dict[int, int] = field(default_factory=dict)

    @property
    def schema(self) -> Schema:
        """What every upload of this round must look like."""
        return self.uploads.schema

    def receive(self, replies: list[Message]) -> None:
        """Sort replies into answers and failures; clients of a message without a reply fail as "NoReply"."""
        waiting = dict(self.asked)
        for reply in replies:
            node, clients = waiting.pop(reply.metadata.group_id, (reply.metadata.src_node_id, []))
            if reply.has_error():
                reason = str(reply.error.reason or "").splitlines()
                for client in clients:
                    self._fail(client, node, f"FlowerError{reply.error.code}", "", reason[0] if reason else "", replied=False)
                continue
            self.wire_up += codec.message_bytes(reply.content)
            try:
                summed = self._take_sums(reply, clients)
            except (UploadError, KeyError, TypeError, ValueError, OverflowError) as error:
                for client in clients:
                    self._fail(client, node, "UploadError", "", str(error), replied=True)
                continue
            for client in clients:
                self._take(reply, node, client, summed.get(client))
        for node, clients in waiting.values():
            for client in clients:
                self._fail(client, node, "NoReply", "", "no reply within round-timeout-s", replied=False)

    def _take(self, reply: Message, node: int, client: int, summed: Claim | None) -> None:
        content = reply.content
        failure = content.get(f"failure.{client}")
        if isinstance(failure, ConfigRecord):
            said = {k: str(failure.get(k, "")) for k in ("error", "where", "message")}
            self._fail(client, node, said["error"], said["where"], said["message"], replied=True)
            return
        try:
            metrics, weight, version, digest = summed or self._claim(content, client)
            kinds = {} if summed or weight == 0 else codec.read_client(content, client)
            if not summed and weight > 0:
                upload = Upload(client, weight, kinds)
                check(self.schema, upload, self.max_bytes)
                self.uploads.rows.append(upload)
            size = self._summed_bytes(len(str(client))) if summed else codec.upload_bytes(client, kinds)
            self.answers[client] = Answer(metrics, version, digest, size)
            self.failures.pop(client, None)
        except UploadError as error:
            self._fail(client, node, "UploadError", "", str(error), replied=True)

    def _claim(self, content: RecordDict, client: int) -> Claim:
        """A client's metrics, weight, version and digest. Raises: UploadError."""
        numbers = content.get(f"metrics.{client}")
        if not isinstance(numbers, MetricRecord) or f"failure.{client}" in content:
            raise UploadError("neither metrics nor a failure record came")
        metrics = {k: float(v) for k, v in numbers.items() if isinstance(v, int | float)}
        for name in COUNTED:
            if not 0 <= metrics.get(name, 0) < math.inf:
                raise UploadError(f"{name} = {metrics[name]} is not a count")
        weight = int(metrics.get("num-examples", 0))
        spent = weight == 0 and metrics.get("spent") == 1  # its privacy budget is used up: it changes nothing
        if self.sizes is not None and weight != int(self.sizes[client]) and not spent:
            raise UploadError(f"num-examples = {weight} is not this client's number of training samples")
        return metrics, weight, *_state_of(content.get(f"state.{client}"), self.number)

    def _take_sums(self, reply: Message, clients: list[int]) -> dict[int, Claim]:
        """Add a worker's sums and return whose they are, and what these clients claim.

        Raises: UploadError (or KeyError, TypeError, ValueError from records of another form) where they do not fit what
            was declared; the sums are then refused whole, with every client of the message.
        """
        meta = reply.content.get("sum-meta")
        if not isinstance(meta, ConfigRecord):
            return {}
        summed = [int(c) for c in meta["clients"]]  # type: ignore[union-attr]
        weight = int(meta["weight"])  # type: ignore[arg-type]
        if not set(summed) <= set(clients) or len(set(summed)) != len(summed) or weight <= 0:
            raise UploadError("the sums name clients that were not asked")
        claims = {c: self._claim(reply.content, c) for c in summed}
        if weight != sum(claim[1] for claim in claims.values()):
            raise UploadError("the weight of the sums is not the clients' number of samples")
        sums: dict[str, Sums] = {}
        for kind, fields in self.schema.items():
            part = codec.from_record(reply.content[f"sum.{kind}"])  # type: ignore[arg-type]
            if {n: v.shape for n, v in part.items()} != {n: f.shape for n, f in fields.items()}:
                raise UploadError(f"sum.{kind}: names or shapes are not as declared")
            if any(str(v.dtype) != "int64" for v in part.values()):
                raise UploadError(f"sum.{kind}: not int64 fixed point")
            sums[kind] = part
        self.uploads.add_sums(sums, weight, summed)
        return claims

    def _summed_bytes(self, digits: int) -> int:
        """Bytes of a client's own record that a worker has summed: from the declaration, and the length of its id."""
        if digits not in self._sizes_by_digits:
            fixed = {
                kind: {n: np.empty([d or 0 for d in f.shape], f.dtype) for n, f in fields.items()}
                for kind, fields in self.schema.items()
            }
            self._sizes_by_digits[digits] = codec.upload_bytes(10 ** (digits - 1), fixed)
        return self._sizes_by_digits[digits]

    def _fail(self, client: int, node: int, error: str, where: str, message: str, *, replied: bool) -> None:
        self.failures[client] = Failure(client, node, error, where, message, replied)

    # ----- rows ---------------------------------------------------------------------------------------------------------
    def failure_rows(self) -> list[dict[str, Any]]:
        """Objects of ``failures.jsonl``."""
        return [
            {
                "round": self.number,
                "client": f.client,
                "node": str(f.node),
                "error": f.error,
                "where": f.where,
                "message": f.message,
            }
            for _, f in sorted(self.failures.items())
        ]

    def client_rows(self, when: str) -> list[dict[str, Any]]:
        """Objects of ``clients.jsonl``, one per client that took part, ascending; scores of "local" training filled in."""
        rows: list[dict[str, Any]] = []
        for client, answer in sorted(self.answers.items()):
            row: dict[str, Any] = {
                "round": self.number,
                "client": client,
                "num_train": int(answer.metrics.get("num-examples", 0)),
                "num_test": int(answer.metrics.get("num-test", 0)),
                "accuracy": None,
                "loss": None,
                "bytes_up": answer.bytes_up,
                "bytes_down": self.bytes_down.get(client, 0),
                "seconds": round(answer.metrics.get("seconds", 0.0), 6),
                "split": "test",
                "when": when,
                "val_accuracy": None,
                "val_loss": None,
            }
            if "spent" in answer.metrics:
                row["spent"] = True
            if "charges" in answer.metrics:  # only a run with a mechanism counts releases
                row["charges"] = int(answer.metrics["charges"])
                row["charges_down"] = self.charges_down.get(client, 0)
            fill_score(row, answer.metrics, "local")
            rows.append(row)
        return rows

    def row(self, extra: dict[str, Any]) -> dict[str, Any]:
        """The object of ``rounds.jsonl``, scores still empty."""
        up = sum(a.bytes_up for a in self.answers.values())
        return {
            "round": self.number,
            "seconds": 0.0,
            "accuracy_mean": None,
            "accuracy_std": None,
            "accuracy_worst_decile": None,
            "loss_mean": None,
            "bytes_up": up,
            "bytes_down": sum(self.bytes_down.get(c, 0) for c in self.answers),
            "wire_bytes_up": self.wire_up,
            "wire_bytes_down": self.wire_down,
            "clients_trained": sum(1 for a in self.answers.values() if a.metrics.get("num-examples", 0) > 0),
            "clients_failed": len(self.failures),
            "clients_scored": 0,
            "teachers": int(sum(a.metrics.get("taught", 0) for a in self.answers.values())),
            **extra,
        }


def fill_score(row: dict[str, Any], metrics: dict[str, float], when: str) -> None:
    """Write a client's test and validation score into its row, where there is one."""
    row["accuracy"] = number(metrics.get(f"{when}-test-accuracy"))
    row["loss"] = number(metrics.get(f"{when}-test-loss"))
    row["val_accuracy"] = number(metrics.get(f"{when}-val-accuracy"))
    row["val_loss"] = number(metrics.get(f"{when}-val-loss"))


def fill_round(row: dict[str, Any], clients: list[dict[str, Any]]) -> None:
    """Means over the clients that have a score; a client without one counts in nothing."""
    scored = [c for c in clients if c["accuracy"] is not None]
    row["clients_scored"] = len(scored)
    if scored:
        row.update(spread([c["accuracy"] for c in scored]))
        losses = [c["loss"] for c in scored if c["loss"] is not None]
        row["loss_mean"] = sum(losses) / len(losses) if losses else None


def spread(accuracies: list[float]) -> dict[str, float]:
    """Mean, population standard deviation and worst decile over clients."""
    mean = math.fsum(accuracies) / len(accuracies)
    variance = math.fsum((a - mean) ** 2 for a in accuracies) / len(accuracies)
    return {
        "accuracy_mean": mean,
        "accuracy_std": math.sqrt(variance),
        "accuracy_worst_decile": float(worst_decile(accuracies)),
    }


def number(value: float | None) -> float | None:
    """None for what JSON cannot hold."""
    return None if value is None or not math.isfinite(value) else float(value)


def _state_of(record: Any, round: int) -> tuple[int, str]:
    if not isinstance(record, ConfigRecord):
        return NEVER, ""
    version, digest = record.get("version"), record.get("digest")
    if not isinstance(version, int) or version not in (round, NEVER):
        raise UploadError("the state record names another version than this round's")
    if not isinstance(digest, str) or not re.fullmatch("([0-9a-f]{64})?", digest):
        raise UploadError("the state digest is not the hexadecimal form of a sha256")
    return version, digest
