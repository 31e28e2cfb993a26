"""Who hosts whom: bounded waits, the hello exchange, and the placement."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from clients import codec
from fedkd.errors import RunError, WaitExpired
from server.nodes import Hello, balanced, greet, place, wait_for_nodes
from simulations.grids.dispatch import identify, stamp


class Nodes:
    """A grid of made-up nodes; ``late`` are there only from the second look on."""

    def __init__(self, answers: dict[int, Any], late: tuple[int, ...] = ()) -> None:
        identify(run_id=1)
        self.answers, self.late, self.looks = answers, late, 0
        self.timeouts: list[float | None] = []

    def get_node_ids(self) -> Iterable[int]:
        self.looks += 1
        return [n for n in self.answers if self.looks > 1 or n not in self.late]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        self.timeouts.append(timeout)
        out = []
        for message in reversed(list(messages)):  # replies come in any order
            answer = self.answers[message.metadata.dst_node_id]
            if isinstance(answer, Error):
                out.append(Message(answer, reply_to=stamp(message)))
            elif answer is not None:
                out.append(Message(RecordDict(answer), reply_to=stamp(message)))
        return out


def hello(clients: tuple[int, ...] = (), sizes: tuple[int, ...] = (), **changes: Any) -> dict[str, Any]:
    record = {"protocol": codec.PROTOCOL, "state-root": "/s", "data-hash": "h", "clients": list(clients), "sizes": list(sizes)}
    return {"hello": codec.config_record({**record, **changes})}


# ----- waiting -------------------------------------------------------------------------------------------------------
def test_waits_until_enough_nodes_are_there_and_takes_the_lowest_ids() -> None:
    grid = Nodes({9: None, 2: None, 5: None}, late=(2, 5))
    assert wait_for_nodes(grid, 2, 10.0) == [2, 5]  # type: ignore[arg-type]
    assert grid.looks == 2


def test_the_wait_for_nodes_is_bounded_and_says_how_many_came() -> None:
    started = time.monotonic()
    with pytest.raises(WaitExpired, match=r"1 of 3 nodes came within node-wait-s = 0\.2"):
        wait_for_nodes(Nodes({1: None}), 3, 0.2)  # type: ignore[arg-type]
    assert 0.2 <= time.monotonic() - started < 5


# ----- hello ---------------------------------------------------------------------------------------------------------
def test_hellos_are_sorted_by_node_and_the_wait_is_bounded() -> None:
    grid = Nodes({4: hello((1,), (30,)), 2: hello((0,), (20,))})
    got = greet(grid, [2, 4], index=5, seconds=7.0)
    assert got == [Hello(2, "/s", "h", (0,), (20,)), Hello(4, "/s", "h", (1,), (30,))]
    assert grid.timeouts == [7.0]


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (None, WaitExpired, "1 of 2 nodes answered within 3 s"),
        (Error(2, "ConfigError: no such data"), RunError, "node 4 cannot take part: ConfigError: no such data"),
        (hello(protocol=99), RunError, "node 4 speaks another protocol"),
        ({}, RunError, "node 4 speaks another protocol"),
        ({"hello": codec.config_record({})}, RunError, "node 4 speaks another protocol"),
        ({"hello": codec.metric_record({"protocol": 1})}, RunError, "node 4 speaks another protocol"),
    ],
)
def test_a_node_that_cannot_take_part_stops_the_run(answer: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        greet(Nodes({2: hello(), 4: answer}), [2, 4], index=0, seconds=3.0)


# ----- placement -----------------------------------------------------------------------------------------------------
def nodes(*clients: tuple[int, ...]) -> list[Hello]:
    return [Hello(10 + i, "/s", "h", own, ()) for i, own in enumerate(clients)]


def test_real_devices_say_where_their_clients_live() -> None:
    assert place(nodes((2,), (0, 3), (1,)), 4, None).tolist() == [1, 2, 0, 1]


@pytest.mark.parametrize(
    ("clients", "said"),
    [
        (((0, 1), (1,)), "node 11 offers client 1: outside the population or held twice"),
        (((0,), (3,)), "node 11 offers client 3: outside"),
        (((0,), (-1,)), "client -1: outside"),
        (((0, 0), (1,)), "client 0: outside the population or held twice"),
        (((0,), (2,)), r"no node holds client 1 \(1 of 3 are missing\)"),
        (((1,), ()), r"no node holds client 0 \(2 of 3 are missing\)"),
    ],
)
def test_a_duplicate_or_missing_client_stops_the_run(clients: tuple[tuple[int, ...], ...], said: str) -> None:
    with pytest.raises(RunError, match=said):
        place(nodes(*clients), 3, None)


def test_in_simulation_the_largest_client_goes_first_to_the_emptiest_node() -> None:
    # sizes 50, 40, 30, 20, 10 on two nodes: 50 | 40; 30 -> node 1 (70); 20 -> node 0 (70); 10 -> node 0 (tie, lower)
    assert place(nodes((), ()), 5, np.array([10, 50, 30, 40, 20])).tolist() == [0, 0, 1, 1, 0]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40), st.integers(1, 7))
def test_every_client_has_one_node_and_no_node_is_more_than_one_client_ahead(sizes: list[int], count: int) -> None:
    home = place(nodes(*([()] * count)), len(sizes), np.array(sizes))
    assert ((home >= 0) & (home < count)).all()
    loads = [sum(s for s, h in zip(sizes, home, strict=True) if h == n) for n in range(count)]
    assert max(loads) - min(loads) <= max(sizes)
    again = place(nodes(*([()] * count)), len(sizes), np.array(sizes))
    assert home.tolist() == again.tolist()


def test_without_sizes_clients_are_spread_evenly() -> None:
    assert np.bincount(place(nodes((), (), ()), 7, None)).tolist() == [3, 2, 2]


def test_a_round_moves_as_few_clients_as_it_takes() -> None:
    # six of one size, five at home on node 0: the gap of 4 is closed by two moves, lowest ids first
    assert balanced(np.array([0, 0, 0, 0, 0, 1]), range(6), None, 2) == {0: 1, 1: 1, 2: 0, 3: 0, 4: 0, 5: 1}
    # 50 and 10 against 20: a gap of 40; the 10 moves (nearer to 20 than 50, which would only turn the gap round)
    assert balanced(np.array([0, 0, 1]), [0, 1, 2], np.array([50, 10, 20]), 2) == {0: 0, 1: 1, 2: 1}


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 4)), min_size=1, max_size=40))
def test_a_balanced_round_is_never_less_even_and_no_client_is_lost(drawn: list[tuple[int, int]]) -> None:
    sizes, home = (np.array(v) for v in zip(*drawn, strict=True))
    at = balanced(home, range(len(drawn)), sizes, 5)
    assert sorted(at) == list(range(len(drawn)))
    before, after = np.bincount(home, sizes, 5), np.bincount(list(at.values()), sizes, 5)
    assert after.max() <= before.max()
    assert after.max() - after.min() <= max(sizes)
