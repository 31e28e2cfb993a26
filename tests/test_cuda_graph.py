"""Functions by key: plain on the CPU, captured once per shapes, plain where a capture fails; the capture itself on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from fedkd.cuda_graph import KEPT, Captured, Function, Graphs
from fedkd.executors import loop, stacked
from fedkd.jobs import local_job
from tests.toy import toy_clients, toy_setting


def double(x: Tensor) -> list[Tensor]:
    return [2 * x]


class Recorder:
    """Stands for a capture: counts, and checks that it is called with what it was made for."""

    def __init__(self) -> None:
        self.made: list[torch.Size] = []

    def __call__(self, function: Function, inputs: Sequence[Tensor]) -> Function:
        self.made.append(inputs[0].shape)
        return lambda x: [v + 0.5 for v in function(x)]


def test_on_the_cpu_a_function_is_called_as_it_is() -> None:
    recorder = Recorder()
    graphs = Graphs(recorder)
    assert graphs.call("k", double, [torch.ones(2)])[0].tolist() == [2, 2]
    assert not recorder.made and not graphs.known


def test_a_key_is_captured_once_and_the_oldest_goes() -> None:
    recorder = Recorder()
    graphs = Graphs(recorder)
    for _ in range(3):
        assert graphs.replay(("k", 2), double, [torch.ones(2)])[0].tolist() == [2.5, 2.5]
    assert len(recorder.made) == 1
    for n in range(KEPT):
        graphs.replay(("k", 2), double, [torch.ones(2)])
        graphs.replay(n, double, [torch.ones(3)])
    assert len(graphs.known) == KEPT
    assert ("k", 2) in graphs.known and 0 not in graphs.known


def test_what_cannot_be_captured_is_called_as_it_is() -> None:
    def refuses(function: Function, inputs: Sequence[Tensor]) -> Function:
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = Graphs(refuses)
    assert [graphs.replay("k", double, [torch.full((1,), v)])[0].item() for v in (1.0, 2.0)] == [2.0, 4.0]


@pytest.mark.gpu
def test_a_captured_function_follows_its_inputs() -> None:
    captured = Captured(double, [torch.zeros(4, device="cuda")])
    first = captured(torch.ones(4, device="cuda"))[0]
    second = captured(torch.full((4,), 3.0, device="cuda"))[0]
    assert first.tolist() == [2] * 4 and second.tolist() == [6] * 4, "outputs are copies"


@pytest.mark.gpu
def test_stacked_epochs_as_one_graph_are_those_of_loop_on_the_gpu() -> None:
    """Two rounds with other values and rates: one graph per bucket, replayed the second time; tolerance of the contract."""
    setting = toy_setting("fedd2s", device="cuda")
    stacked._graphs.known.clear()
    for round in range(2):
        clients = toy_clients((32, 30, 7, 1))
        params = setting.initial(round)
        jobs = [local_job(setting, round, data, params, learning_rate=0.05 / (1 + round)) for data in clients]
        for (_, one), (_, other) in zip(loop.run(jobs), stacked.run(jobs), strict=True):
            assert isinstance(one, dict) and isinstance(other, dict)
            assert all(float((one[n] - other[n]).abs().max()) <= 1e-5 for n in one)
    assert len(stacked._graphs.known) == 2
    assert all(isinstance(g, Captured) for g in stacked._graphs.known.values())
