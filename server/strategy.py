"""The generic Strategy: sends a method's broadcasts, checks and aggregates its uploads, commits each round.

It names no method: what goes down, comes up and is averaged is in the method's functions (seams: a method's signature).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from clients import codec
from fedkd import outgoing
from fedkd.errors import RunError, WorkerLost
from fedkd.setting import Setting
from fedkd.store import ClientStore, Commit, Lines, write_commit
from fedkd.types import Array, Kinds
from fedkd.uploads import Uploads
from fedkd.vault import Vault
from server.nodes import balanced
from server.round import Round, fill_round, fill_score
from server.transcript import Transcript

OnRound = Callable[[dict[str, Any]], None]


class MethodStrategy(Strategy):
    """Carries one run of one method. Rounds are 0-based here; Flower's ``server_round`` is our round + 1."""

    def __init__(
        self,
        setting: Setting,
        nodes: list[int],
        home: Array,
        sizes: Array | None,
        run: str,
        index: int,
        commit: Commit,
        lines: Lines,
        folder: Path,
        vault: Vault,
        on_round: OnRound | None = None,
        movable: bool = False,
    ) -> None:
        self.setting, self.nodes, self.home, self.sizes = setting, nodes, home, sizes
        self.run, self.index = run, index
        self.commit, self.lines, self.folder, self.vault, self.on_round = commit, lines, folder, vault, on_round
        self.movable = movable
        self.method = setting.module
        self.homes = ClientStore(vault.folder.parent.parent, vault.folder.parent.name)
        self.round = self._open(max(0, commit.round))
        recording = setting.experiment.record == "messages"
        self.transcript = Transcript(folder / "transcript") if recording else None

    # ----- Flower's interface -------------------------------------------------------------------------------------------
    def summary(self) -> None:
        """Flower logs a strategy here; the run folder says everything."""

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """One message per node (split above max-message-mb) to the clients still without an answer."""
        missing = [c for c in self.round.cohort if c not in self.round.answers]
        return self._messages("train", server_round - 1, missing)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take the replies of one attempt."""
        self._receive(replies)
        return None, None

    def configure_evaluate(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """The evaluate-only messages after the last round (score = "after_average")."""
        return self._messages("evaluate", server_round - 1, self.round.cohort)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Scores of the evaluate-only round."""
        self._receive(replies)
        return None

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int | None = None,
        timeout: float | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run every round after the last committed one. State lives in commits, so Flower's Result stays empty.

        Raises: RunError by policy (a failed client, too few replies); OSError where the folder cannot be written.
        """
        rounds = num_rounds or self.setting.rounds
        wait = timeout or self.setting.experiment.round_timeout_s
        for number in range(self.commit.round + 1, rounds):
            self._train_round(grid, number, wait)
        if self.commit.pending is not None:
            self._final_scores(grid, rounds, wait)
        return Result()

    def _receive(self, replies: Iterable[Message]) -> None:
        """Take replies. With metrics = "home" a simulation reads the scores from its clients' disks: none is in a message."""
        self.round.receive(list(replies))
        if self.setting.experiment.metrics == "home":
            for client, answer in self.round.answers.items():
                answer.metrics.update(self.homes.metrics(client, self.round.number))

    def ledgers(self) -> tuple[dict[int, list[dict[str, Any]]], list[dict[str, Any]]]:
        """(entries of every client that took part and whose ledger is on this machine, the server's own)."""
        vaults = {c: Vault(self.homes.folder / str(c)) for c in np.flatnonzero(self.commit.last >= 0).tolist()}
        return {c: v.entries() for c, v in vaults.items() if v.folder.exists()}, self.vault.entries()

    # ----- one round ----------------------------------------------------------------------------------------------------
    def _train_round(self, grid: Grid, number: int, wait: float) -> None:
        experiment = self.setting.experiment
        self.round = self._open(number)
        attempts = 1 + (experiment.retries if experiment.on_failure == "retry" else 0)
        for attempt in range(attempts):
            self.round.attempt, self.round.asked = attempt, {}
            messages = list(self.configure_train(number + 1, ArrayRecord(), ConfigRecord(), grid))
            self.aggregate_train(number + 1, list(grid.send_and_receive(messages, timeout=wait)))
            if not self.round.failures:
                break
        self._apply_policy()
        self._close_round()

    def _apply_policy(self) -> None:
        """Raises: RunError where the policy or the missing replies end the run."""
        r, e = self.round, self.setting.experiment
        if not r.failures:
            return
        dead = [f for f in r.failures.values() if f.error == "FlowerError0"]
        if dead:
            raise WorkerLost(f"WorkerLost: node {dead[0].node}, round {r.number + 1}: {dead[0].message}")
        came = len(r.answers) + sum(f.replied for f in r.failures.values())
        first = next(iter(sorted(r.failures.items())))[1]
        said = first.message.strip().splitlines()
        why = f"client {first.client}, round {r.number + 1}: {first.error} {said[-1] if said else first.where}".strip()
        if e.on_failure == "abort" or came < e.min_replies * len(r.cohort) - 1e-9:
            self.lines.append("failures", r.failure_rows(), r.number)
            if e.on_failure == "abort":
                raise RunError(f"{len(r.failures)} of {len(r.cohort)} clients failed (on-failure = abort). First: {why}")
            raise RunError(f"{came} of {len(r.cohort)} replies came, min-replies = {e.min_replies}. First: {why}")

    def _close_round(self) -> None:
        """Aggregate, write the rows and commit."""
        r, commit, after = self.round, self.commit, self.setting.experiment.score == "after_average"
        began = time.perf_counter()
        state, extra = outgoing.split(commit.state)[0], {}
        r.uploads.sorted()
        if any(a.metrics.get("num-examples", 0) > 0 for a in r.answers.values()):
            uploads = outgoing.combined(self.setting, r.number, state, r.uploads, self.vault)
            state, extra = self.method.aggregate(self.setting, state, r.number, uploads)
        if self.transcript is not None:
            self.transcript.uploads(r.number, r.uploads.rows)
        extra = {"server_seconds": round(time.perf_counter() - began, 6), **extra}
        done = {**self.method.trace(self.setting, r.number), **extra}
        row, clients = r.row(done), r.client_rows("after_average" if after else "after_local")
        pending = {"round": row, "clients": clients} if after else None
        if after and commit.pending is not None:
            self._settle(commit.pending, r)
        elif not after:
            fill_round(row, clients)
        row["seconds"] = round(time.perf_counter() - r.started, 6)
        self._write(None if after else row, [] if after else clients)
        self.commit = self._next(outgoing.joined(state, r.held), pending)
        write_commit(self.folder / "checkpoints", self.commit)
        if self.on_round is not None:
            self.on_round(row)

    def _settle(self, pending: dict[str, Any], scored_by: Round) -> None:
        """Give the round before its scores, which came with this round's messages, and write it."""
        row, by_client = pending["round"], {c["client"]: c for c in pending["clients"]}
        for client, answer in sorted(scored_by.answers.items()):
            if "average-test-accuracy" not in answer.metrics:
                continue
            known = by_client.get(client)
            if known is None:
                (known,) = [c for c in scored_by.client_rows("after_average") if c["client"] == client]
                known.update(round=row["round"], bytes_up=0, bytes_down=0, seconds=0.0)
                by_client[client] = known
            fill_score(known, answer.metrics, "average")
        clients = [by_client[c] for c in sorted(by_client)]
        fill_round(row, clients)
        self._write(row, clients, failures=False)

    def _final_scores(self, grid: Grid, rounds: int, wait: float) -> None:
        self.round = self._open(rounds)
        self.round.sizes = None  # nobody trains: no reply names a number of samples
        messages = list(self.configure_evaluate(rounds + 1, ArrayRecord(), ConfigRecord(), grid))
        self.aggregate_evaluate(rounds + 1, list(grid.send_and_receive(messages, timeout=wait)))
        self._apply_policy()
        assert self.commit.pending is not None
        self._settle(self.commit.pending, self.round)
        self.lines.append("failures", self.round.failure_rows(), self.round.number)
        self.commit.counters["failures"] = self.commit.counters.get("failures", 0) + len(self.round.failures)

    def _write(self, row: dict[str, Any] | None, clients: list[dict[str, Any]], failures: bool = True) -> None:
        at = self.round.number
        if row is not None:
            self.lines.append("rounds", [row], at)
            self.lines.append("clients", clients, at)
        if failures:
            self.lines.append("failures", self.round.failure_rows(), at)

    def _next(self, state: dict[str, Array], pending: dict[str, Any] | None) -> Commit:
        r, c = self.round, self.commit
        versions, last, digests = c.versions.copy(), c.last.copy(), c.digests.copy()
        for client, answer in r.answers.items():
            if answer.metrics.get("num-examples", 0) > 0:
                versions[client], last[client] = answer.version, r.number
                digests[client] = np.frombuffer(bytes.fromhex(answer.digest or "00" * 32), np.uint8)
        counters = {
            "failures": c.counters.get("failures", 0) + len(r.failures),
            "seconds": c.counters.get("seconds", 0.0) + time.perf_counter() - r.started,
        }
        return Commit(r.number, state, versions, last, digests, self.lines.offsets(), counters, pending)

    def _open(self, number: int) -> Round:
        s = self.setting
        cohort = s.sample(number)
        schema = s.module.schema(s, number) if number < s.rounds else {}
        uploads = Uploads(number, len(cohort), schema)
        held = outgoing.split(self.commit.state)[1]
        sizes = self.sizes
        if sizes is not None and s.experiment.metrics == "home":  # K_n is not known here, unless rows give it away
            sizes = None if outgoing.has_rows(s, number) else np.minimum(sizes, 1)
        return Round(number, cohort, uploads, sizes, s.experiment.max_upload_mb * 2**20, held=held)

    def _down(self, number: int, clients: list[int]) -> tuple[Kinds, dict[int, Kinds]]:
        """(what is shared, what is each client's own) as it leaves: the method's broadcast through the mechanism."""
        s, r, state = self.setting, self.round, outgoing.split(self.commit.state)[0]
        down = {c: self.method.broadcast(s, state, number, c, int(self.commit.last[c])) for c in clients}
        shared: Kinds = down[clients[0]][0] if clients else {}
        everyone = outgoing.broadcast(s, number, outgoing.EVERYONE, r.held, shared, self.vault)
        r.held, own = everyone.held, dict[int, Kinds]()
        for client in clients:
            mine = outgoing.broadcast(s, number, client, r.held, down[client][1], self.vault)
            r.held, own[client] = mine.held, mine.kinds
            r.charges_down[client] = r.charges_down.get(client, 0) + everyone.charges + mine.charges
        return everyone.kinds, own

    # ----- messages -----------------------------------------------------------------------------------------------------
    def _messages(self, kind: str, number: int, clients: list[int]) -> list[Message]:
        """Messages to the clients' home nodes; what is shared is encoded once."""
        r, s = self.round, self.setting
        shared, down = self._down(number, clients)
        shared_record = codec.to_record(codec.flatten(shared)) if shared else None
        base = codec.broadcast_bytes(0, shared, {})
        for client, own in down.items():
            r.bytes_down[client] = codec.broadcast_bytes(client, shared, own) if own else base
            if self.transcript is not None and kind == "train":
                self.transcript.broadcast(number, client, shared, own)
        reduce = kind == "train" and self.transcript is None and r.uploads.cohort > 1
        reduce = reduce and self.method.reduction(s, number) == "mean"
        out: list[Message] = []
        for node, group in self._groups(clients, down, base, reduce):
            content = RecordDict({"config": self._config(number, group, reduce)})
            if shared_record is not None:
                content["shared"] = shared_record
            for client in group:
                if down[client]:
                    content[f"own.{client}"] = codec.to_record(codec.flatten(down[client]))
            group_id = f"{number}.{r.attempt}.{len(out)}"
            r.asked[group_id] = (node, group)
            r.wire_down += codec.message_bytes(content)
            out.append(Message(content, dst_node_id=node, message_type=kind, group_id=group_id))
        return out

    def _groups(self, clients: list[int], down: dict[int, Kinds], base: int, reduce: bool) -> list[tuple[int, list[int]]]:
        """Clients by home node, cut so that neither message (``base`` bytes at least) nor reply is above max-message-mb."""
        limit = self.setting.experiment.max_message_mb * 2**20
        groups: list[tuple[int, list[int]]] = []
        at = {c: int(self.home[c]) for c in clients}
        if self.movable:
            at = balanced(self.home, clients, self.sizes, len(self.nodes))
        for position in dict.fromkeys(at.values()):
            node = self.nodes[position]
            size, current = base, list[int]()
            for client in (c for c in clients if at[c] == position):
                own = codec.broadcast_bytes(client, {}, down[client]) if down[client] else 0
                weight = max(own, 0 if reduce else self._expected_upload(client))
                if current and size + weight > limit:
                    groups.append((node, current))
                    size, current = base, []
                current.append(client)
                size += weight
            groups.append((node, current))
        return groups

    def _expected_upload(self, client: int) -> int:
        rows = 0 if self.sizes is None else int(self.sizes[client])
        fields = [f for kind in self.round.schema.values() for f in kind.values()]
        return sum(
            4 * int(np.prod([(rows if f.most is None else f.most) if n is None else n for n in f.shape], dtype=np.int64))
            for f in fields
        )

    def _config(self, number: int, clients: list[int], reduce: bool) -> ConfigRecord:
        return codec.config_record(
            {
                "protocol": codec.PROTOCOL,
                "run": self.run,
                "index": self.index,
                "round": number,
                "clients": clients,
                "versions": [int(self.commit.versions[c]) for c in clients],
                "reduce": reduce,
                "kinds": sorted(self.round.schema),
            }
        )
