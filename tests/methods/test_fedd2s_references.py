"""I17: FedD2S against separately written references, from the specification, on plain modules and torch.optim.

Also FedPer and share-late, which are configurations of fedd2s, against one averaging oracle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedkd import rng
from fedkd.setting import Setting
from fedkd.types import ClientData
from tests import plain
from tests.toy import History, federate, largest_difference, toy_setting

Final = dict[int, plain.Weights]
TOLERANCE = 5e-6


def assert_close(history: History, reference: list[Final]) -> None:
    """Every client's model in every round it took part in; and they moved."""
    for ours, theirs in zip(history.models, reference, strict=True):
        assert ours.keys() == theirs.keys()
        for n in ours:
            assert largest_difference(ours[n], plain.arrays(theirs[n])) < TOLERANCE
    for n, model in history.final.items():
        assert largest_difference(model, history.setting.initial()) > 1e-2, n


def features_of(net: nn.Sequential, cut: int, x: Tensor) -> Tensor:
    """Output of block ``cut`` through the 4x4 pool, flat."""
    z = net[:cut](x)
    return F.adaptive_avg_pool2d(z, (min(4, z.shape[2]), min(4, z.shape[3]))).flatten(1) if z.dim() == 4 else z


# ----- R4, the default: about 80 lines, from section 2 of the specification ---------------------------------------------
class ServerHead:
    """G at one cut: Adam 2e-3, batches of 256, three epochs, twice as many in its first round."""

    def __init__(self, setting: Setting, cut: int, width: int) -> None:
        self.seed, self.net, self.fresh = setting.seed, plain.head(setting, cut, width), True
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=2e-3)

    def learn(self, t: int, rows: list[tuple[Tensor, Tensor, Tensor]], temperature: float) -> None:
        """rows: (z, p, y) per client, clients and samples ascending. CE + T^2 KL(p || G)."""
        z, p, y = (torch.cat(part) for part in zip(*rows, strict=True))
        shuffle = rng.experiment(self.seed, "server shuffle", t)
        for _ in range(6 if self.fresh else 3):
            for part in torch.tensor(shuffle.permutation(len(y))).split(256):
                out = self.net(z[part])
                loss = F.cross_entropy(out, y[part]) + kl(p[part], out, temperature)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
        self.fresh = False


def kl(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), batch mean."""
    log_q, p = F.log_softmax(student / temperature, 1), F.softmax(teacher.detach() / temperature, 1)
    return temperature**2 * F.kl_div(log_q, p, reduction="batchmean")


def late(rounds: int, t: int) -> int:
    """L = 3: level 4 until .50 R, 3 until .75 R, 2 until .90 R, then 1."""
    return 4 - sum(t >= math.ceil(a * rounds) for a in (0.5, 0.75, 0.9))


def reference_r4(setting: Setting, clients: Sequence[ClientData]) -> list[Final]:
    temperature, rounds, last = 3.0, setting.rounds, dict.fromkeys(range(1, 5), -math.inf)
    nets = {c.client: plain.network(setting) for c in clients}
    heads = {c.client: plain.head(setting, 3, 64) for c in clients}
    server, average = ServerHead(setting, 3, 64), dict[str, Tensor]()
    waiting, held = dict[int, Tensor](), dict[int, Tensor]()
    seen = dict.fromkeys(nets, -math.inf)
    out: list[Final] = []
    for t in range(rounds):
        s = late(rounds, t)
        knowledge = s >= 3  # "stop": until the first block below the classifier leaves
        rows, parts, trained = [], {}, {}
        for n in setting.sample(t):
            net, head = nets[n], heads[n]
            x, y = plain.rows_of(clients[n])
            blocks = [b for b in last if last[b] >= 0 and last[b] >= seen[n]]
            net.load_state_dict({m: average[m] for b in blocks for m in plain.block_names(net, b)}, strict=False)
            if knowledge and n in waiting:
                held[n] = waiting.pop(n)
            parameters = [*net.parameters(), *(head.parameters() if knowledge else ())]
            optimizer = plain.sgd(setting, parameters, t)
            for i in plain.batches(setting, t, n, len(y)):
                z = net[:3](x[i])
                loss = F.cross_entropy(net[3](z), y[i])
                if knowledge:
                    loss = loss + F.cross_entropy(head(z), y[i])
                if knowledge and n in held:
                    loss = loss + kl(held[n][i], head(z), temperature)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            seen[n] = t
            trained[n] = plain.copy_of(net)
            parts[n] = ({m: v for b in range(1, s + 1) for m in plain.block_names(net, b) for v in [trained[n][m]]}, len(y))
            if knowledge:
                with torch.no_grad():
                    z = net[:3](x)
                    rows.append((z, head(z), y))
        average.update(plain.mean([parts[n] for n in sorted(parts)]))
        last.update(dict.fromkeys(range(1, s + 1), t))
        if knowledge:
            server.learn(t, rows, temperature)
            with torch.no_grad():
                waiting.update({n: server.net(z) for n, (z, _, _) in zip(sorted(parts), rows, strict=True)})
        out.append(trained)
    return out


def test_i17_r4_default_equals_the_reference() -> None:
    """Ten rounds with every drop, three of four clients a round: levels 4 x 5, 3 x 3, 2, 1; knowledge ends in round 8."""
    setting = toy_setting(num_server_rounds=10)
    history = federate(setting)
    assert [late(10, t) for t in range(10)] == [4] * 5 + [3] * 3 + [2, 1]
    assert any("soft_labels" in b.own for broadcasts in history.broadcasts for b in broadcasts.values())
    assert_close(history, reference_r4(setting, history.clients))


# ----- R1 at a fixed cut: two-way KD without averaging ------------------------------------------------------------------
R1 = (
    'average = false, schedule = "fixed", kd_after_drop = "follow", temperature = 1.0, server_epochs = 1, '
    "server_warmup_factor = 1, warm_heads = false"
)


def reference_fixed_cut(setting: Setting, clients: Sequence[ClientData], cut: int, width: int) -> list[Final]:
    nets = {c.client: plain.network(setting) for c in clients}
    heads = {c.client: plain.head(setting, cut, width) for c in clients}
    server = plain.head(setting, cut, width)
    adam = torch.optim.Adam(server.parameters(), lr=2e-3)
    teacher: dict[int, Tensor] = {}
    out: list[Final] = []
    for t in range(setting.rounds):
        sent: list[tuple[Tensor, Tensor, Tensor]] = []
        for n in setting.sample(t):
            net, head = nets[n], heads[n]
            x, y = plain.rows_of(clients[n])
            optimizer = plain.sgd(setting, [*net.parameters(), *head.parameters()], t)
            for i in plain.batches(setting, t, n, len(y)):
                student = head(features_of(net, cut, x[i]))
                loss = F.cross_entropy(net(x[i]), y[i]) + F.cross_entropy(student, y[i])
                if n in teacher:
                    loss = loss + kl(teacher[n][i], student, 1.0)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                z = features_of(net, cut, x)
                sent.append((z, head(z), y))
        z, p, y = (torch.cat(part) for part in zip(*sent, strict=True))
        for i in torch.tensor(rng.experiment(setting.seed, "server shuffle", t).permutation(len(y))).split(256):
            loss = F.cross_entropy(server(z[i]), y[i]) + kl(p[i], server(z[i]), 1.0)
            adam.zero_grad()
            loss.backward()
            adam.step()
        with torch.no_grad():
            teacher.update({n: server(part[0]) for n, part in zip(setting.sample(t), sent, strict=True)})
        out.append({n: plain.copy_of(nets[n]) for n in setting.sample(t)})
    return out


@pytest.mark.parametrize(("cut", "width"), [(1, 16 * 4 * 4), (2, 32 * 2 * 2), (3, 64)])
def test_i17_fixed_cut_equals_the_reference(cut: int, width: int) -> None:
    """lam_c = lam_s = mu = 1, else neutral, at every cut."""
    setting = toy_setting(args=f"{R1}, fixed_level = {cut}")
    history = federate(setting)
    assert_close(history, reference_fixed_cut(setting, history.clients, cut, width))


# ----- FedPer, share-late and auxiliary heads: averaging alone ----------------------------------------------------------
def averaging_oracle(setting: Setting, clients: Sequence[ClientData], level: Callable[[int], int], aux: int = 0) -> list[Final]:
    """Blocks 1..s(t) are averaged; a client gets what was averaged in or after its previous round. ``aux``: a head's CE at
    this cut until the level falls below it."""
    nets = {c.client: plain.network(setting) for c in clients}
    heads = {c.client: plain.head(setting, aux, 64) for c in clients} if aux else {}
    seen, average, made = dict.fromkeys(nets, -1), dict[str, Tensor](), dict[str, int]()
    out: list[Final] = []
    for t in range(setting.rounds):
        parts: list[tuple[plain.Weights, int]] = []
        for n in setting.sample(t):
            net, on = nets[n], bool(aux) and level(t) >= aux
            net.load_state_dict({m: v for m, v in average.items() if made[m] >= seen[n]}, strict=False)
            x, y = plain.rows_of(clients[n])
            optimizer = plain.sgd(setting, [*net.parameters(), *(heads[n].parameters() if on else ())], t)
            for i in plain.batches(setting, t, n, len(y)):
                loss = F.cross_entropy(net(x[i]), y[i])
                if on:
                    loss = loss + F.cross_entropy(heads[n](features_of(net, aux, x[i])), y[i])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            seen[n] = t
            shared = [m for b in range(1, level(t) + 1) for m in plain.block_names(net, b)]
            parts.append((plain.copy_of(net, shared), len(y)))
        fresh = plain.mean(parts) if level(t) else {}
        average.update(fresh)
        made.update(dict.fromkeys(fresh, t))
        out.append({n: plain.copy_of(nets[n]) for n in setting.sample(t)})
    return out


@pytest.mark.parametrize(
    ("args", "level", "aux"),
    [
        ('schedule = "none", top_level = 3, head_ce_weight = 0', lambda t: 3, 0),
        ("head_ce_weight = 0", lambda t: late(10, t), 0),
        ("", lambda t: late(10, t), 3),
        ('schedule = "shallow_to_deep", kd_after_drop = "follow", head_ce_weight = 0',
         [1, 1, 2, 2, 2, 3, 3, 4, 4, 4].__getitem__, 0),
    ],
    ids=["fedper", "share-late", "share-late + aux", "shallow to deep"],
)  # fmt: skip
def test_averaging_configurations_equal_the_oracle(args: str, level: Callable[[int], int], aux: int) -> None:
    args = ", ".join(a for a in ('knowledge = "none"', args) if a)
    setting = toy_setting(args=args, num_server_rounds=10, fraction_train=0.5)
    history = federate(setting)
    assert [setting.module.trace(setting, t)["level"] for t in range(10)] == [level(t) for t in range(10)]
    assert_close(history, averaging_oracle(setting, history.clients, level, aux))


def test_fedper_keeps_classifiers_apart_and_bodies_together() -> None:
    """After a full round every body is the average, every classifier its own."""
    setting = toy_setting(args='knowledge = "none", schedule = "none", top_level = 3, head_ce_weight = 0', fraction_train=1.0)
    history = federate(setting, rounds=2)
    jobs = [
        setting.module.prepare(setting, history.states[0][n], history.broadcasts[1][n], history.clients[n]) for n in range(4)
    ]
    for name in setting.model.names:
        different = len({job.params[name].numpy().tobytes() for job in jobs})
        assert different == (4 if name.startswith("classifier") else 1)
    assert np.isfinite([float(job.params["classifier.bias"].sum()) for job in jobs]).all()
