"""Which node hosts which client: a bounded wait for the nodes, the hello exchange, and the placement in simulation."""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from clients import codec
from fedkd.errors import RunError, WaitExpired
from fedkd.types import Array


@dataclass(frozen=True)
class Hello:
    """What a node answered."""

    node: int
    state_root: str
    data_hash: str
    clients: tuple[int, ...]
    """client ids that live on this node; empty in simulation"""
    sizes: tuple[int, ...]


def wait_for_nodes(grid: Grid, count: int, seconds: float) -> list[int]:
    """Node ids, once ``count`` are there. Raises: WaitExpired naming how many came."""
    deadline = time.monotonic() + seconds
    while True:
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= count:
            return nodes[:count]
        if time.monotonic() > deadline:
            raise WaitExpired(f"{len(nodes)} of {count} nodes came within node-wait-s = {seconds:g}")
        time.sleep(0.1)


def greet(grid: Grid, nodes: Sequence[int], index: int, seconds: float) -> list[Hello]:
    """Ask every node who it is in run ``index`` of this start.

    Raises: WaitExpired where one stays silent; RunError for an error or another protocol.
    """
    content = {"config": codec.config_record({"protocol": codec.PROTOCOL, "index": index})}
    messages = [Message(RecordDict(dict(content)), dst_node_id=n, message_type="query.hello") for n in nodes]
    hellos: list[Hello] = []
    for reply in grid.send_and_receive(messages, timeout=seconds):
        if reply.has_error():
            raise RunError(f"node {reply.metadata.src_node_id} cannot take part: {reply.error.reason}")
        hellos.append(_read_hello(reply.metadata.src_node_id, reply.content.get("hello")))
    if len(hellos) < len(nodes):
        raise WaitExpired(f"{len(hellos)} of {len(nodes)} nodes answered within {seconds:g} s")
    return sorted(hellos, key=lambda h: h.node)


def _read_hello(node: int, record: Any) -> Hello:
    if not isinstance(record, ConfigRecord) or record.get("protocol") != codec.PROTOCOL:
        raise RunError(f"node {node} speaks another protocol than {codec.PROTOCOL}")
    clients = tuple(int(c) for c in record["clients"])  # type: ignore[union-attr]
    sizes = tuple(int(s) for s in record["sizes"])  # type: ignore[union-attr]
    return Hello(node, str(record["state-root"]), str(record["data-hash"]), clients, sizes)


def place(hellos: Sequence[Hello], num_clients: int, sizes: Array | None) -> Array:
    """[N] position in ``hellos`` of each client's node (Flower's node ids need 64 bits without sign).

    Real devices say which clients they hold. In simulation, largest client first onto the node with the least so far:
    fixed for the run, never in results.

    Raises: RunError for a client id that is missing or held twice.
    """
    home = np.full(num_clients, -1, dtype=np.int64)
    if any(h.clients for h in hellos):
        for position, hello in enumerate(hellos):
            for client in hello.clients:
                if not 0 <= client < num_clients or home[client] != -1:
                    raise RunError(f"node {hello.node} offers client {client}: outside the population or held twice")
                home[client] = position
        missing = np.flatnonzero(home == -1)
        if len(missing):
            raise RunError(f"no node holds client {missing[0]} ({len(missing)} of {num_clients} are missing)")
        return home
    weights = np.ones(num_clients) if sizes is None else np.asarray(sizes)
    load = [(0, position) for position in range(len(hellos))]
    heapq.heapify(load)
    for client in np.lexsort((np.arange(num_clients), -weights)):
        least, position = heapq.heappop(load)
        home[client] = position
        heapq.heappush(load, (least + int(weights[client]), position))
    return home


def balanced(home: Array, clients: Sequence[int], sizes: Array | None, nodes: int) -> dict[int, int]:
    """Client -> position of its node in one round of a simulation: at home, except those few that even out the nodes.

    A drawn cohort is not half and half: of 100 clients on two nodes the fuller one has 54 on average, and the round waits.
    Where a client runs is never in results. Each move takes the client whose size is nearest to half the gap.
    """
    at = {c: int(home[c]) for c in clients}
    weight = {c: 1 if sizes is None else int(sizes[c]) for c in clients}
    load = [sum(weight[c] for c in clients if at[c] == n) for n in range(nodes)]
    while True:
        full, empty = max(range(nodes), key=lambda n: (load[n], -n)), min(range(nodes), key=lambda n: (load[n], n))
        gap = load[full] - load[empty]
        movable = [c for c in clients if at[c] == full and 0 < weight[c] < gap]
        if not movable:
            return at
        moved = min(movable, key=lambda c: (abs(2 * weight[c] - gap), c))
        at[moved] = empty
        load[full] -= weight[moved]
        load[empty] += weight[moved]
