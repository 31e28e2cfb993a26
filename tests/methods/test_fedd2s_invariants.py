"""The invariants of FedD2S (specification 9.4) on four toy clients; the last test says where each of them is tested."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedkd import heads
from fedkd.errors import UploadError
from fedkd.setting import Setting
from fedkd.train import Job, sgd, to_tensors
from fedkd.types import Arrays, Broadcast, Upload
from tests import plain
from tests.toy import CLASSES, FOLLOW, LEVELS, STOP, History, block_of, collect, federate, same, toy_clients, toy_setting


@functools.cache
def run(args: str = "", **keys: Any) -> History:
    return federate(toy_setting(args=args, **{"num_server_rounds": 10, **keys}))


def job_of(history: History, t: int, n: int, setting: Setting | None = None, broadcast: Broadcast | None = None) -> Job:
    """What client n trained in round t, as prepared (optionally under another setting or broadcast)."""
    setting = setting or history.setting
    return setting.module.prepare(setting, held(history, t, n), broadcast or history.broadcasts[t][n], history.clients[n])


def held(history: History, t: int, n: int) -> Arrays:
    """Client n's state before round t."""
    return history.states[t - 1][n] if t else {}


# ----- gradients --------------------------------------------------------------------------------------------------------
def kl_alone(setting: Setting) -> Setting:
    """The same setting whose cross-entropies are constants: what is left of the loss is the KL term."""
    return dataclasses.replace(setting, supervised=lambda student, teacher, labels: torch.zeros(len(student)))


def fixed(cut: int, args: str, **keys: Any) -> tuple[History, int]:
    """Two rounds at one cut, and a client that took part in both: it has a teacher in the second."""
    args = f'{args}, schedule = "fixed", fixed_level = {cut}, kd_after_drop = "follow"'
    history = federate(toy_setting(args=args, num_server_rounds=3, **keys), rounds=2)
    return history, min(set(history.uploads[0]) & set(history.uploads[1]))


@pytest.mark.parametrize("knowledge", ["features", "heads", "class_means"])
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_i1_no_kl_gradient_beyond_the_cut(cut: int, knowledge: str) -> None:
    """kd_target "head": None or exactly 0 for blocks > l and the classifier; it reaches every block <= l and the head."""
    history, n = fixed(cut, f'knowledge = "{knowledge}"')
    job = job_of(history, 1, n, kl_alone(history.setting))
    params = {name: v.clone().requires_grad_(v.is_floating_point()) for name, v in job.params.items()}
    loss = job.loss(params, job.x, job.y, job.targets).mean()
    assert loss > 1e-4
    loss.backward()
    for name in history.setting.model.names:
        grad = params[name].grad
        if block_of(name) > cut:
            assert grad is None or not grad.any(), name
        else:
            assert grad is not None, name
            assert grad.any(), name
    assert all(params[name].grad is not None and params[name].grad.any() for name in heads.names(cut))  # type: ignore[union-attr]


def test_i1_exempts_kd_target_both() -> None:
    history, n = fixed(1, 'kd_target = "both"')
    job = job_of(history, 1, n, kl_alone(history.setting))
    params = {name: v.clone().requires_grad_(True) for name, v in job.params.items()}
    job.loss(params, job.x, job.y, job.targets).mean().backward()
    assert params["classifier.weight"].grad is not None
    assert params["classifier.weight"].grad.any()


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_i1_black_box_twin(cut: int) -> None:
    """Two different q, one optimiser step of the whole loss: beyond the cut the parameters end bit-identical."""
    history, n = fixed(cut, "head_pool = 4", batch_size=64, local_epochs=1)
    sent = history.broadcasts[1][n]
    other = {"soft_labels": {**sent.own["soft_labels"], "q": -3 * sent.own["soft_labels"]["q"] + 1}}
    left, right = (sgd(job_of(history, 1, n, broadcast=b)) for b in (sent, dataclasses.replace(sent, own=other)))
    assert len(job_of(history, 1, n).order[0]) <= 64
    for name in history.setting.model.names:
        assert torch.equal(left[name], right[name]) == (block_of(name) > cut), name


def test_without_a_cut_the_loss_is_cross_entropy_alone() -> None:
    """l = 0: L_n is CE(o_n, y), bit for bit the loss of local training."""
    history, local = run(), toy_setting("local")
    n = next(iter(history.uploads[9]))
    job, plain_job = job_of(history, 9, n), local.module.prepare(local, {}, Broadcast(0, n, {}, {}), history.clients[n])
    assert job.targets == {}
    assert torch.equal(job.loss(job.params, job.x, job.y, {}), plain_job.loss(job.params, job.x, job.y, {}))
    assert set(job.trainable) == set(history.setting.model.parameter_names)


def gradients(args: str) -> dict[str, torch.Tensor]:
    """Gradients of a first round's loss (no teacher yet) at cut 3 by parameter; absent = None."""
    setting = toy_setting(args=f'{args}, kd_after_drop = "follow"', num_server_rounds=10)
    job = setting.module.prepare(setting, {}, Broadcast(0, 0, {}, {}), toy_clients()[0])
    params = {name: v.clone().requires_grad_(True) for name, v in job.params.items()}
    job.loss(params, job.x, job.y, job.targets).mean().backward()
    return {name: v.grad for name, v in params.items() if v.grad is not None}


def test_mu_scales_what_the_blocks_feel_and_the_head_learns_at_full_weight() -> None:
    """mu CE(h(z)) + (1 - mu) CE(h(stopgrad z)): the blocks' gradient is linear in mu, g(0) that of CE(o_n, y) alone; the
    head's does not depend on mu; the classifier's neither."""
    none, quarter, full = (gradients(f"head_ce_weight = {mu}") for mu in (0.0, 0.25, 1.0))
    alone = gradients('head_ce_weight = 0.0, knowledge = "none"')
    for name, grad in alone.items():
        assert torch.equal(none[name], grad), name
        expected = grad + 0.25 * (full[name] - grad)
        assert torch.allclose(quarter[name], expected, rtol=0, atol=1e-6), name
        assert torch.equal(full[name], grad) == (block_of(name) == 4), name
    for name in heads.names(3):
        assert full[name].abs().max() > 1e-3
        assert torch.allclose(none[name], full[name], rtol=0, atol=1e-6)
        assert torch.allclose(quarter[name], full[name], rtol=0, atol=1e-6)


def test_warm_heads_learn_on_detached_features() -> None:
    """Heads of the other cuts get a gradient, and the blocks get the bits that they get without warm heads."""
    warm, cold = gradients("warm_heads = true"), gradients("warm_heads = false")
    assert set(warm) - set(cold) == {*heads.names(1), *heads.names(2)}
    assert all(torch.equal(warm[name], grad) for name, grad in cold.items())
    assert all(warm[name].any() for name in heads.names(1) + heads.names(2))


def test_the_kl_term_is_linear_in_its_weight_and_both_adds_it_on_the_output() -> None:
    """lam_c KL(q || h(z)), and with kd_target "both" + lam_c KL(q || o_n), q as delivered."""

    def value(args: str) -> tuple[float, Job, Setting]:
        setting = toy_setting(args=f'schedule = "fixed", fixed_level = 2, kd_after_drop = "follow"{args}', num_server_rounds=3)
        job = job_of(history, 1, n, kl_alone(setting))
        return float(job.loss(job.params, job.x, job.y, job.targets).mean()), job, setting

    history, n = fixed(2, "head_pool = 4")
    whole, job, setting = value("")
    half, both = value(", kd_weight_client = 0.5")[0], value(', kd_target = "both"')[0]
    out = setting.model.forward(job.params, job.x)[1]
    assert half == pytest.approx(whole / 2, rel=1e-5)
    assert both - whole == pytest.approx(float(setting.distillation(out, job.targets["q"], None).mean()), rel=1e-4)


def test_i11_the_distillation_term() -> None:
    """T^2 sum_c p (log p - log q) with p, q = softmax(. / T), T the method's temperature; 0 at equality; T = 1 is plain KL;
    the teacher gets no gradient; a batch's mean is over the samples that have a teacher."""
    generator = torch.Generator().manual_seed(0)
    teacher, student = (4 * torch.randn(9, CLASSES, generator=generator) for _ in range(2))

    def oracle(temperature: float, squared: bool) -> np.ndarray[Any, Any]:
        p, q = (np.exp(a.numpy().astype(np.float64) / temperature) for a in (teacher, student))
        p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
        return (p * np.log(p / q)).sum(1) * (temperature**2 if squared else 1)

    cases = (("", 3.0, True), ("temperature = 1.0", 1.0, True), ("temperature_squared = false", 3.0, False))
    for args, temperature, squared in cases:
        term = toy_setting(args=args).distillation
        assert np.allclose(term(student, teacher, None), oracle(temperature, squared), rtol=1e-4, atol=1e-6)
        assert (term(teacher, teacher, None).abs() < 1e-5).all()
        assert (term(student, teacher, None) >= 0).all()
    leaf = teacher.clone().requires_grad_(True)
    moving = student.clone().requires_grad_(True)
    toy_setting().distillation(moving, leaf, None).sum().backward()
    assert leaf.grad is None
    assert moving.grad is not None
    assert moving.grad.any()
    history = run('knowledge = "class_means", schedule = "none", min_class_count = 6')
    jobs = [job_of(history, t, n, kl_alone(history.setting)) for t in (1, 2) for n in history.uploads[t]]
    job = next(j for j in jobs if 0 < float(j.targets["has"].mean()) < 1)
    terms, has = job.loss(job.params, job.x, job.y, job.targets).detach(), job.targets["has"] > 0
    p = heads.features(history.setting, job.params, 3, job.x)[1]
    own = history.setting.distillation(p, job.targets["q"], None)
    assert float(terms.mean()) == pytest.approx(float(own[has].mean()), rel=1e-5)
    assert not terms[~has].any()


# ----- teachers by sample id --------------------------------------------------------------------------------------------
def test_i8_q_is_matched_by_sample_id_under_shuffling() -> None:
    """Soft labels in any row order give the same targets, in the order of the client's rows; a wrong or missing id raises."""
    history = run()
    n = next(iter(set(history.uploads[1]) & set(history.uploads[0])))
    sent, rows = history.broadcasts[1][n], history.clients[n].train
    labels = sent.own["soft_labels"]
    mixed = np.random.Generator(np.random.PCG64(0)).permutation(len(rows))
    shuffled = dataclasses.replace(sent, own={"soft_labels": {k: v[mixed] for k, v in labels.items()}})
    straight, other = job_of(history, 1, n), job_of(history, 1, n, broadcast=shuffled)
    assert torch.equal(straight.targets["q"], other.targets["q"])
    assert np.array_equal(straight.targets["q"].numpy(), labels["q"][np.argsort(labels["i"])])
    known = labels["i"]
    for ids in (np.where(known == known[0], 7777, known), known[:-1], np.full_like(known, known[0])):
        wrong = dataclasses.replace(sent, own={"soft_labels": {**labels, "i": ids.astype(np.int32)}})
        with pytest.raises(UploadError):
            job_of(history, 1, n, broadcast=wrong)


def test_i10_a_client_absent_across_drops() -> None:
    """Client 0 takes part in rounds 0, 8, 9; client 1 in 0, 5, 9. Levels 4 x 5, 3 x 3, 2, 1. Last averages: classifier 4,
    block 3 in 7, blocks 1 and 2 in 7 (before round 8), 8 and 8. Each block that left comes once, if last_b >= u_n."""
    present = {0: [0, 1, 2], 5: [1, 2], 8: [0, 2], 9: [0, 1]}
    setting = toy_setting(args='kd_after_drop = "follow"', num_server_rounds=10)
    history = federate(setting, sample=lambda t: present.get(t, [2, 3]))

    def blocks(t: int, n: int) -> set[int]:
        sent = history.broadcasts[t][n]
        return {block_of(name) for part in (sent.shared, sent.own) for name in part.get("weights", {})}

    assert blocks(0, 0) == set()
    assert blocks(8, 0) == {1, 2, 3, 4}, "the classifier's last average is of round 4 >= u = 0"
    assert blocks(9, 0) == {1, 2}, "level of round 8; what left never comes again"
    assert blocks(5, 1) == {1, 2, 3, 4}
    assert blocks(9, 1) == {1, 2, 3}, "classifier: 4 < u = 5; block 3: 7 >= 5"
    assert set(history.broadcasts[8][0].shared["weights"]) == set(setting.model.names_upto(3)), "of round 7: for everybody"
    assert {block_of(name) for name in history.broadcasts[8][0].own["weights"]} == {4}
    assert np.array_equal(history.broadcasts[8][0].own["weights"]["classifier.bias"], history.server[4]["avg/classifier.bias"])
    assert np.array_equal(history.broadcasts[9][1].own["weights"]["block3.1.bias"], history.server[7]["avg/block3.1.bias"])
    old = job_of(history, 8, 0).targets["q"].numpy()
    assert np.array_equal(old, history.server[0]["q/0"]), "its q of round 0, though the cut is now 2"
    assert float(job_of(history, 8, 0).targets["has"].min()) == 1


@pytest.mark.parametrize("args", ["", 'knowledge = "heads"', 'kd_after_drop = "follow"', 'knowledge = "none"'])
def test_i12_a_broadcast_writes_the_blocks_it_names_and_nothing_else(args: str) -> None:
    """Dropped blocks and all heads of the client are bit-identical before and after; the others equal the average."""
    history = run(args, fraction_train=0.5)
    last = dict.fromkeys(range(1, 5), -1)
    seen: dict[int, int] = {}
    kept = 0
    for t in range(10):
        for n in history.uploads[t]:
            before, after = held(history, t, n), job_of(history, t, n).params
            for name in after if before else ():
                comes = not name.startswith("head") and last[block_of(name)] >= max(0, seen[n])
                source = history.server[t - 1][f"avg/{name}"] if comes else before[name]
                assert np.array_equal(after[name].numpy(), source), name
                kept += not comes and not name.startswith("head")
            seen[n] = t
        last.update(dict.fromkeys(range(1, LEVELS[t] + 1), t))
    assert kept > 0, "some block had left for somebody"


def test_i12_without_averaging_the_whole_model_stays() -> None:
    history = run("average = false, schedule = 'equal', kd_after_drop = 'follow'", fraction_train=0.5)
    for t in range(1, 10):
        for n in history.uploads[t]:
            before, after = held(history, t, n), job_of(history, t, n).params
            assert all(np.array_equal(after[name].numpy(), before[name]) for name in (after if before else ()))


def test_i13_population_of_one_and_clients_without_rows() -> None:
    """N = 1: averaging is the identity, so R4 with knowledge "none" and mu = 0 is Local; an empty upload moves no bit."""
    one = toy_clients()[:1]
    ours = federate(toy_setting(args='knowledge = "none", head_ce_weight = 0', num_clients=1), one)
    local = federate(toy_setting("local", num_clients=1), one)
    assert all(same(a[0], b[0]) for a, b in zip(ours.models, local.models, strict=True))
    history = run()
    z, c = np.empty((0, 64), np.float32), np.empty((0, CLASSES), np.float32)
    ids = np.empty(0, np.int32)
    empty = Upload(3, 0, {"features": {"z": z}, "soft_labels": {"p": c}, "ids": {"i": ids}, "labels": {"y": ids}})
    rows = [u for u in history.uploads[2].values() if u.client != 3]
    setting, before = history.setting, history.server[1]
    received = [collect(setting, 2, given, cohort=4) for given in ([*rows, empty], rows)]
    with_it, without = (setting.module.aggregate(setting, before, 2, r)[0] for r in received)
    other = [name for name in without if not name.endswith("/3")]
    assert same({name: with_it[name] for name in other}, {name: without[name] for name in other})


@pytest.mark.parametrize("after", ["stop", "follow"])
def test_i19_averaged_heads_teach_on_averaged_blocks(after: str) -> None:
    """The teacher of round t is hbar^l on avg^1..l as aggregated in t - 1, computed separately; h_n^l is never overwritten;
    in the first round at a cut there is no hbar^l and no KL term."""
    history = run(f'knowledge = "heads", kd_after_drop = "{after}"')
    cuts, first = (FOLLOW, {0, 8, 9}) if after == "follow" else (STOP, {0, 8, 9})
    for t in range(10):
        for n in history.uploads[t]:
            job, before = job_of(history, t, n), held(history, t, n)
            for name, value in before.items():
                if name.startswith("head"):
                    assert np.array_equal(job.params[name].numpy(), value)
            assert bool(job.targets) == (t not in first)
            if not job.targets:
                continue
            net, cut = plain.network(history.setting), cuts[t]
            averages = {k[4:]: torch.tensor(v) for k, v in history.server[t - 1].items() if k.startswith("avg/")}
            net.load_state_dict({k: v for k, v in averages.items() if block_of(k) <= cut}, strict=False)
            sent = [(to_tensors(u.kinds["heads"], torch.device("cpu")), u.weight) for u in history.uploads[t - 1].values()]
            mean = plain.mean(sent)
            with torch.no_grad():
                z = net[:cut](job.x).flatten(1)
                expected = z @ mean[f"head{cut}.weight"].T + mean[f"head{cut}.bias"]
            assert torch.allclose(job.targets["q"], expected, rtol=0, atol=1e-5)


# ----- the list ---------------------------------------------------------------------------------------------------------
def test_every_invariant_is_named_by_a_test() -> None:
    """I1 to I19 stand in the name or the docstring of at least one test function of the suite.

    I15 over Ray and on a SuperLink is tested with the grids; here and in tests/contracts it is the in-process message path.
    """
    named: set[str] = set()
    root = Path(__file__).parents[1]
    for path in root.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                named |= {f"I{n}" for n in re.findall(r"_i(\d+)(?=_|$)", node.name)}
                named |= set(re.findall(r"\bI\d+\b", ast.get_docstring(node) or ""))
    missing = {f"I{n}" for n in range(1, 20)} - named
    assert not missing, f"no test names {sorted(missing)}"
