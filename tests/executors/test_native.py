"""The native step: agreement with ``loop`` and float64, ties, bits, divergence, and refusals before C sees anything wrong."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedkd import rng
from fedkd.backward import CrossEntropy
from fedkd.executors import loop, native
from fedkd.jobs import batch_order, local_job
from fedkd.layers import LayeredModel
from fedkd.losses import ce
from fedkd.native import compiler, network
from fedkd.train import Job
from tests.small_runs import final_hash, run, small
from tests.toy import CLASSES, has_compiler, toy_clients, toy_setting

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C compiler on this machine")
ROOT = Path(__file__).resolve().parents[2]
SHAPES = {"lenet": (3, 32, 32), "mlp": (1, 28, 28), "fedavg_cnn": (1, 28, 28), "cnn_small": (1, 28, 28)}


@pytest.fixture(autouse=True)
def layers_draw_their_own() -> Iterator[None]:
    """Layers draw weights as they are built, which these tests do in many places."""
    with rng.torch_scope(5):
        yield


def job_of(model: str, rows: int = 7, epochs: int = 1, shape: tuple[int, ...] = (), **keys: Any) -> Job:
    shape = shape or SHAPES[model]
    setting = toy_setting("fedavg", shape=shape, model_name=model, **{"batch_size": 10, "learning_rate": 0.01, **keys})
    return local_job(setting, 0, toy_clients((rows,), shape=shape)[0], setting.initial(), epochs=epochs)


def outcome(job: Job, run: Callable[..., Any] = native.run) -> dict[str, Tensor]:
    ((_, params),) = run([job])
    if isinstance(params, Exception):
        raise params
    return params  # type: ignore[no-any-return]


def digest(params: dict[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(params[n].numpy().tobytes() for n in sorted(params))).hexdigest()


def job_on(layers: list[nn.Module], x: Tensor, classes: int = CLASSES, **keys: Any) -> Job:
    """A job of one batch and one plain step on a model of these layers, the last of which is the classifier."""
    *body, last = layers
    module = nn.Sequential(OrderedDict(block1=nn.Sequential(*body), classifier=last))
    model = LayeredModel(module, tuple(x.shape[1:]), classes)
    params = {n: torch.tensor(v) for n, v in model.initial(3).items()}
    y, order = torch.arange(len(x)) % classes, np.arange(len(x))[None]
    loss = CrossEntropy(model, lambda out, _, y: ce.loss(ce.Config(), out, None, y))
    fields = {"learning_rate": 1e3, "momentum": 0.0, "weight_decay": 0.0, "batch_size": len(x), **keys}
    return Job(0, params, model.parameter_names, x, y, loss, order, **fields)


def assert_gradient(job: Job) -> None:
    """One step of rate 1000 moves by the float64 gradient of autograd."""
    assert network.fitting(job) is not None
    leaves = {n: v.double().requires_grad_(True) for n, v in job.params.items()}
    wanted = torch.autograd.grad(job.loss(leaves, job.x.double(), job.y, {}).mean(), list(leaves.values()))
    after = outcome(job)
    for (name, before), g in zip(job.params.items(), wanted, strict=True):
        moved = (before.double() - after[name].double()) / 1e3
        assert g.abs().max() > 0, name
        assert float((moved - g).abs().max()) <= 1e-5 * float(g.abs().max()) + 1e-9, name


def images(rows: int, shape: tuple[int, ...], levels: int = 0) -> Tensor:
    """Normal pixels; with ``levels`` few values, so that maxima have ties."""
    stream = np.random.default_rng(rows)
    drawn = stream.integers(0, levels, (rows, *shape)) if levels else stream.standard_normal((rows, *shape))
    return torch.tensor(drawn, dtype=torch.float32)


@pytest.mark.parametrize("model", SHAPES)
@pytest.mark.parametrize("rows", [1, 7, 32, 50])
@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.9, 1e-3), (0.0, 1e-3)])
def test_training_is_that_of_loop(model: str, rows: int, momentum: float, decay: float) -> None:
    epochs = 1 if model == "fedavg_cnn" else 3
    job = job_of(model, rows, epochs, momentum=momentum, weight_decay=decay)
    ours, theirs = outcome(job), outcome(job, loop.run)
    assert list(ours) == list(theirs) == list(job.params)
    assert (network.fitting(job) is None) == (model == "cnn_small"), "its convolutions have a stride"
    for name in theirs:
        assert float((ours[name] - theirs[name]).abs().max()) <= 1e-5
        assert float((theirs[name] - job.params[name]).abs().max()) > 1e-4


@pytest.mark.parametrize("rows", [1, 3, 10, 16, 33])
def test_random_nets_have_the_gradient_of_float64(rows: int) -> None:
    """Odd sides, kernels that are no square, paddings (one wider than its kernel), layers in a row, ReLU and pool first."""
    stream = np.random.default_rng(rows)
    for _ in range(6):
        c, h, w = int(stream.integers(1, 4)), int(stream.integers(9, 14)), int(stream.integers(9, 14))
        x, layers = images(rows, (c, h, w)), list[nn.Module]()
        if stream.random() < 0.3:
            layers.append(nn.ReLU())
        for _ in range(int(stream.integers(1, 4))):
            kernel = (int(stream.integers(1, min(h, 6) + 1)), int(stream.integers(1, min(w, 8) + 1)))
            padding = (int(stream.integers(0, 3)), int(stream.integers(0, 3)))
            out = int(stream.integers(1, 15))
            layers.append(nn.Conv2d(c, out, kernel, padding=padding))
            c, h, w = out, h + 2 * padding[0] - kernel[0] + 1, w + 2 * padding[1] - kernel[1] + 1
            layers += [nn.ReLU()] if stream.random() < 0.6 else []
            if min(h, w) >= 4 and stream.random() < 0.5:
                layers += [nn.MaxPool2d(2), nn.ReLU()]
                h, w = h // 2, w // 2
        classes, hidden = int(stream.integers(2, 24)), int(stream.integers(1, 40))
        layers += [nn.Flatten(), nn.Linear(c * h * w, hidden), nn.Linear(hidden, classes)]
        assert_gradient(job_on(layers, x, classes))


@pytest.mark.parametrize("shape", [(5,), (17,), (3, 7), (2, 3, 4)])
def test_flat_inputs(shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape))
    layers = [nn.Flatten(), nn.Linear(size, 31), nn.ReLU(), nn.Linear(31, CLASSES)]
    assert_gradient(job_on(layers, images(9, shape)))


@pytest.mark.parametrize("rows", [1, 10, 20])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ties_in_a_pool_go_to_the_first_place_in_reading_order(rows: int, levels: int) -> None:
    """The deeper convolution of one pixel and one weight keeps ties; the one before it tells where a gradient went."""
    x = images(rows, (2, 9, 7), levels) + torch.eye(9, 7) * 0.5
    layers = [nn.Conv2d(2, 3, 1), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, CLASSES)]
    job = job_on(layers, x)
    tied = x[:, 0, 0:2, 2:4].flatten(1)
    assert levels > 1 or bool((tied == tied[:, :1]).all())
    job.params["block1.0.weight"].copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])[..., None, None])
    job.params["block1.0.bias"].fill_(0.25)
    assert_gradient(job)


def test_same_bits_again_after_other_jobs_elsewhere_and_in_threads() -> None:
    job, other = job_of("lenet", 13, 2), job_of("mlp", 32)
    first = digest(outcome(job))
    shared = [o for _, o in native.run([other, job, job_of("fedavg_cnn", 3), job])]
    assert digest(shared[1]) == digest(shared[3]) == first  # type: ignore[arg-type]
    odd = torch.empty(job.x.numel() + 1)[1:].view(job.x.shape).copy_(job.x)
    assert odd.data_ptr() % 64
    assert digest(outcome(replace(job, x=odd))) == first
    assert digest(outcome(replace(job, x=job.x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)))) == first
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(digest(outcome(job)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [first] * 3
    command = "from tests.executors.test_native import *; print(digest(outcome(job_of('lenet', 13, 2))))"
    said = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, cwd=ROOT, timeout=120)
    assert said.stdout.split() == [first]


def test_a_federation_has_the_same_bits_with_any_number_of_workers(tmp_path: Path) -> None:
    """Half of its clients trains with other companions, in another process."""
    ends = [final_hash(run(small(tmp_path / f"{w}", executor_name="native", num_clients=4, workers=w))) for w in (1, 2)]
    assert ends[0] == ends[1]
    assert ends[0] != final_hash(run(small(tmp_path / "loop", num_clients=4)))


def test_what_the_scratch_held_before_changes_no_bit() -> None:
    """Batches of 10 and a rest of 3, in memory full of NaN."""
    job, scratch = job_of("lenet", 13, 2), network.Scratch()
    found = network.fitting(job)
    assert found is not None
    first = digest(network.train(job, found, scratch))
    scratch._bytes.fill(255)
    assert digest(network.train(job, found, scratch)) == first == digest(outcome(job))


def test_a_pass_over_fewer_rows_and_the_rest_of_each() -> None:
    job = job_of("lenet", 7, 3, batch_size=3)
    job.order = batch_order(toy_setting("fedavg"), 0, 0, 7, 3)
    job.order[1, 4:] = -1
    ours, theirs = outcome(job), outcome(job, loop.run)
    assert all(float((ours[n] - theirs[n]).abs().max()) <= 1e-5 for n in ours)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("model", ["lenet", "mlp", "fedavg_cnn"])
def test_a_diverged_client_stays_visible(model: str, bad: float) -> None:
    job = job_of(model, 7)
    job.x = job.x.clone()
    job.x[3, 0, 10:14, 10:14] = bad
    assert all(bool(v.isnan().any()) for v in outcome(job).values())
    steep = outcome(job_of(model, 50, 3, learning_rate=1e30))
    assert any(not bool(v.isfinite().all()) for v in steep.values())


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_pool_does_not_compare_nan_away(place: tuple[int, int]) -> None:
    x = images(3, (1, 4, 6))
    x[1, 0, place[0], 2 + place[1]] = float("nan")
    job = job_on([nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6, CLASSES)], x, learning_rate=0.1)
    assert all(bool(v.isnan().any()) for v in outcome(job).values())
    deeper = [nn.Conv2d(1, 2, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, CLASSES)]
    assert all(bool(v.isnan().any()) for v in outcome(job_on(deeper, x, learning_rate=0.1)).values())


def test_what_the_loss_does_not_read_moves_by_weight_decay_alone() -> None:
    setting = toy_setting("fedavg", shape=(1, 28, 28), model_name="mlp", weight_decay=0.5, learning_rate=0.01, batch_size=10)
    client, params = toy_clients((25,), shape=(1, 28, 28))[0], {**setting.initial(), "rest": np.ones(3, np.float32)}
    job = local_job(setting, 0, client, params, extra_trainable=("rest",), epochs=2)
    ours, theirs = outcome(job), outcome(job, loop.run)
    assert network.fitting(job) is not None
    assert torch.equal(ours["rest"], theirs["rest"])
    assert float(ours["rest"][0]) < 0.99
    job.trainable = job.trainable[:-1]
    assert outcome(job)["rest"].tolist() == [1.0] * 3


def test_jobs_that_c_does_not_take_have_the_bits_of_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "train", lambda *given: pytest.fail("no C here"))
    plain = job_of("mlp", 20)
    part = replace(plain, trainable=plain.trainable[2:])
    wrapped = replace(plain, loss=lambda *given: plain.loss(*given))
    wide = replace(plain, x=plain.x.double(), params={n: v.double() for n, v in plain.params.items()})
    for job in (job_of("cnn_small", 20), part, wrapped):
        assert digest(outcome(job)) == digest(outcome(job, loop.run))
    assert network.fitting(wide) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"y": torch.full((7,), CLASSES)}, "labels from 5 to 5"),
        ({"y": torch.full((7,), -100)}, "labels from -100"),
        ({"y": torch.zeros(6, dtype=torch.int64)}, "7 rows but labels"),
        ({"order": np.array([[0, 7]])}, "row 7 of 7"),
        ({"order": np.arange(7)}, "order has shape"),
        ({"batch_size": 0}, "batches 0 rows"),
        ({"x": torch.zeros(7, 3, 32, 31)}, "x has shape"),
        ({"x": torch.zeros(7, 32, 32, 3)}, "x has shape"),
    ],
)
def test_sizes_and_labels_are_refused_before_c_sees_them(
    change: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "library", lambda: pytest.fail("C was asked"))
    with pytest.raises((ValueError, IndexError), match=said):
        outcome(replace(job_of("lenet"), **change))


def test_a_parameter_of_another_shape_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "library", lambda: pytest.fail("C was asked"))
    job = job_of("lenet")
    job.params["block1.0.weight"] = torch.zeros(6, 3, 5, 4)
    with pytest.raises(ValueError, match=r"block1\.0\.weight has shape"):
        outcome(job)


def test_c_itself_refuses_what_would_leave_its_memory() -> None:
    """A second lock: what ``network`` checks is checked once more before anything is written."""
    library = compiler.library()
    job = job_of("mlp", 3)
    found = network.fitting(job)
    assert found is not None
    table, room = found.table(), network.Scratch()
    size = library.fedkd_scratch(table.ctypes.data, len(table), 2)
    out = {n: torch.full(shape, 7.0) for n, shape in found.shapes.items()}
    before, after = network._addresses(job.params), network._addresses(out)

    def call(table: Any, y: Tensor, order: Any, bytes_: int, shift: int = 0) -> int:
        return int(library.fedkd_train(
            table.ctypes.data, len(table), before, after, job.x.data_ptr(), y.data_ptr(), 3, order.ctypes.data, 1,
            order.shape[1], 2, 0.1, 0.9, 0.0, room.room(size + 64) + shift, bytes_,
        ))  # fmt: skip

    order, broken = np.array([[0, 2, 1]]), table.copy()
    broken[0, 4] += 1  # its outputs are not the next layer's inputs
    assert call(broken, job.y, order, size) == 1
    assert call(table, job.y, order, size - 1) == 2
    assert call(table, job.y, order, size, shift=4) == 2
    assert call(table, job.y, np.array([[0, 3, 1]]), size) == 3
    assert call(table, torch.tensor([0, CLASSES, 1]), order, size) == 3
    assert all(bool((v == 7).all()) for v in out.values())
    assert call(table, job.y, order, size) == 0
    for field in range(11):
        broken = table.copy()
        broken[0, field] = 1 << 40
        assert library.fedkd_scratch(broken.ctypes.data, len(broken), 2) == -1
