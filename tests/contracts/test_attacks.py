"""Laws of the whole ``attacks`` folder: a new attack is tested before its author writes a test.

Membership attacks (``score``) get signals by parameter name from `signals`; attacks with their own report (``audit``)
get a leaky and a clean world from `WORLDS`. A new parameter name or a new ``audit`` needs one entry there.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fedkd import metrics
from fedkd.plugins import available, field_docs
from fedkd.scores import Table

ATTACKS = {name: importlib.import_module(f"fedkd.attacks.{name}") for name in available("attacks")}
SCORING = sorted(name for name, module in ATTACKS.items() if hasattr(module, "score"))
AUDITING = sorted(name for name, module in ATTACKS.items() if hasattr(module, "audit"))
SIZE, CLIENTS, CLASSES = 600, 6, 10


def signals(leak: float, seed: int = 0) -> tuple[dict[str, Any], np.ndarray]:
    """Every signal for SIZE candidates, members favoured by ``leak`` standard deviations; and who is a member."""
    rng = np.random.default_rng(seed)
    member = rng.random(SIZE) < 0.5
    edge = leak * member
    tokens = -np.exp(rng.normal(size=(SIZE, 12)) - 0.8 * edge[:, None])
    inside = rng.random((8, SIZE)) < 0.5
    inside[0], inside[1] = False, True
    cosine = rng.normal(size=(SIZE, CLIENTS, 4))
    client = rng.integers(CLIENTS, size=SIZE)
    cosine[np.arange(SIZE), client] += edge[:, None]
    mass = np.exp(rng.normal(size=SIZE) + edge).reshape(-1, CLASSES)
    every = {
        "target_logprob": tokens,
        "reference_logprob": -np.exp(rng.normal(size=(SIZE, 12))),
        "logprob_mean": np.full((SIZE, 12), -2.0),
        "logprob_sd": np.ones((SIZE, 12)),
        "lengths": np.full(SIZE, 12),
        "zlib_bytes": np.full(SIZE, 40) + rng.integers(0, 5, SIZE),
        "phi": rng.normal(size=SIZE) + edge,
        "shadow_phi": rng.normal(size=(8, SIZE)) + leak * inside,
        "shadow_logprob": -np.exp(0.3 * rng.normal(size=(8, SIZE))),
        "shadow_in": inside,
        "client": client,
        "update_cosine": cosine,
        "client_loss": -cosine,
        "class_mass": mass,
        "lowered_logprob": tokens - np.abs(rng.normal(size=(SIZE, 12))) - edge[:, None],
        "lowered_lengths": np.full(SIZE, 12),
        "transfer_phi": rng.normal(size=50),
        "shadow_transfer_phi": rng.normal(size=(8, 50)),
        "log_q": rng.normal(size=(SIZE, CLASSES)) / (1 + edge[:, None]),
        "proxies": rng.integers(50, size=(SIZE, 8)),
    }
    return every, member


def run_score(module: ModuleType, every: dict[str, Any], rows: np.ndarray | None = None) -> np.ndarray:
    wanted = [p.name for p in inspect.signature(module.score).parameters.values() if p.kind is p.KEYWORD_ONLY]
    unknown = set(wanted) - set(every)
    assert not unknown, f"signals without a synthetic form here: {unknown}"
    chosen = {}
    for name in wanted:
        value = every[name]
        whole = rows is None or "transfer" in name
        chosen[name] = value if whole else value[:, rows] if name.startswith("shadow_") else value[rows]
    return module.score(module.Config(), **chosen)


@pytest.mark.parametrize("name", SCORING)
def test_a_leaky_control_is_caught(name: str) -> None:
    every, member = signals(2.0)
    score = run_score(ATTACKS[name], every)
    assert score.shape == (SIZE,)
    assert score.dtype == np.float64
    assert np.isfinite(score).all()
    assert metrics.auc_delong(score[member], score[~member]).low > 0.6


@pytest.mark.parametrize("name", SCORING)
def test_shuffled_labels_give_chance(name: str) -> None:
    """0.1 % intervals of ten shuffles all hold 1/2 (one false alarm in 100 runs of an attack; the seed is fixed)."""
    every, member = signals(2.0)
    score = run_score(ATTACKS[name], every)
    for seed in range(10):
        shuffled = np.random.default_rng(seed).permutation(member)
        estimate = metrics.auc_delong(score[shuffled], score[~shuffled], 0.999)
        assert estimate.low <= 0.5 <= estimate.high


@pytest.mark.parametrize("name", SCORING)
def test_negated_scores_mirror_the_auc(name: str) -> None:
    every, member = signals(1.0)
    score = run_score(ATTACKS[name], every)
    assert metrics.auc(-score[member], -score[~member]) == pytest.approx(1 - metrics.auc(score[member], score[~member]))


@pytest.mark.parametrize("name", sorted(set(SCORING) - {"label_histogram"}))
def test_permuted_candidates_permute_the_scores(name: str) -> None:
    every, _ = signals(1.0)
    rows = np.random.default_rng(9).permutation(SIZE)
    assert run_score(ATTACKS[name], every, rows) == pytest.approx(run_score(ATTACKS[name], every)[rows])


def test_permuted_clients_permute_the_label_scores() -> None:
    """Here a candidate is a (client, class) pair, so whole clients are permuted."""
    module, mass = ATTACKS["label_histogram"], signals(1.0)[0]["class_mass"]
    rows = np.random.default_rng(9).permutation(len(mass))
    whole = module.score(module.Config(), class_mass=mass).reshape(mass.shape)
    assert module.score(module.Config(), class_mass=mass[rows]).reshape(mass.shape) == pytest.approx(whole[rows])


@pytest.mark.parametrize("name", SCORING)
def test_inputs_are_not_changed(name: str) -> None:
    every, _ = signals(1.0)
    before = {key: value.copy() for key, value in every.items()}
    run_score(ATTACKS[name], every)
    assert all(np.array_equal(every[key], before[key]) for key in every)


@pytest.mark.parametrize("name", SCORING)
@pytest.mark.parametrize("side", [0, 1])
def test_one_class_makes_the_evaluator_refuse(name: str, side: int) -> None:
    from fedkd.errors import ConfigError
    from fedkd.evaluate import Config, evaluate

    score = run_score(ATTACKS[name], signals(1.0)[0])
    with pytest.raises(ConfigError, match="at least 2 of each"):
        evaluate(Table(np.full(SIZE, bool(side)), score), Config())


def _exposure(leak: float, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    canaries = rng.normal(size=60) + leak
    return {"canary_score": canaries, "reference_score": rng.normal(size=2000), "repetitions": np.ones(60)}


def _extraction(leak: float, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"train": rng.random(400) < 0.05 + 0.1 * leak, "held_out": rng.random(400) < 0.05}


def _coins(leak: float, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    member = rng.random(1000) < 0.5
    return {"score": leak * member + rng.normal(size=1000), "member": member}


def _labels(leak: float, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    counts = np.stack([rng.multinomial(60, share) for share in rng.dirichlet(np.full(10, 0.3), size=25)])
    noise = rng.dirichlet(np.ones(10), size=25) * 60
    return {"class_mass": leak * counts + noise, "label_counts": counts}


def _images(leak: float, seed: int) -> dict[str, Any]:
    """Rebuilt images hold ``leak`` / 4 of the true one beside noise of their own; chance is grey, the control noise too."""
    rng = np.random.default_rng(seed)
    true, noise, wrong, pool = (rng.random((40, 7, 7)) for _ in range(4))
    share = leak / 4
    images = {"true": true, "rebuilt": share * true + (1 - share) * noise, "shuffled": wrong, "pool": pool}
    return {**images, "chance": np.full((40, 7, 7), 0.5), "labels": np.zeros(40), "pool_labels": np.zeros(40)}


def _linkage(leak: float, seed: int) -> dict[str, Any]:
    return {"distance": np.random.default_rng(seed).normal(size=(20, 20)) - leak * np.eye(20)}


WORLDS: dict[str, tuple[Callable[[float, int], dict[str, Any]], Callable[[Any], bool]]] = {
    "exposure": (_exposure, lambda report: report.smallest_significant is not None),
    "extraction": (_extraction, lambda report: report.leak_shown),
    "inversion": (_images, lambda report: report.leak_shown),
    "label_histogram": (_labels, lambda report: report.leak_shown),
    "linkage": (_linkage, lambda report: report.leak_shown),
    "one_run": (_coins, lambda bound: bound.epsilon > 0),
    "two_sample": (_coins, lambda bound: bound.epsilon > 0),
}


def _config(module: ModuleType) -> Any:
    required = [f.name for f in dataclasses.fields(module.Config) if f.default is dataclasses.MISSING]
    return module.Config(**dict.fromkeys(required, 1e-6))


def false_alarms(name: str, repeats: int) -> int:
    module = ATTACKS[name]
    world, shown = WORLDS[name]
    return sum(shown(module.audit(_config(module), **world(0.0, seed))) for seed in range(repeats))


@pytest.mark.parametrize("name", AUDITING)
def test_audits_catch_a_leak_and_stay_quiet_without_one(name: str) -> None:
    """40 clean worlds at a stated rate of 5 %: more than 7 alarms have a probability below 0.2 %."""
    module = ATTACKS[name]
    assert name in WORLDS, f"give {name} a leaky and a clean world here"
    world, shown = WORLDS[name]
    report = module.audit(_config(module), **world(3.0, 0))
    assert dataclasses.is_dataclass(report)
    assert shown(report)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(report, dataclasses.fields(report)[0].name, None)
    assert false_alarms(name, 40) <= 7


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_each_file_has_a_documented_frozen_config(name: str) -> None:
    module = ATTACKS[name]
    assert module.__doc__
    assert "arXiv" in module.__doc__
    assert hasattr(module, "score") or hasattr(module, "audit")
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(_config(module), dataclasses.fields(module.Config)[0].name, None)
    docs = field_docs(module.Config)
    assert all(docs.get(field.name) for field in dataclasses.fields(module.Config))


def test_no_attack_imports_torch_or_flower() -> None:
    code = (
        "import sys, pkgutil, importlib, fedkd.attacks as a\n"
        "[importlib.import_module('fedkd.attacks.' + m.name) for m in pkgutil.iter_modules(a.__path__)]\n"
        "import fedkd.cli, fedkd.metrics, fedkd.report.scores, fedkd.evaluate, fedkd.gate, fedkd.canary\n"
        "sys.exit(', '.join(m for m in ('torch', 'flwr', 'ray', 'transformers', 'pandas') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", SCORING)
def test_five_thousand_null_simulations_of_a_membership_attack(name: str) -> None:
    """Labels drawn apart from the signals: the rule "AUC lower end > 1/2" errs in 2.5 % of cases.

    The count of 5,000 must be consistent with 2.5 % in a binomial test at 0.1 % (DeLong is an approximation: the rate
    tested is 2.5 +- 0.5 points).
    """
    from scipy import stats

    score = run_score(ATTACKS[name], signals(0.0)[0])
    rng = np.random.default_rng(12)
    alarms = 0
    for _ in range(5000):
        member = rng.random(SIZE) < 0.5
        alarms += metrics.auc_delong(score[member], score[~member]).low > 0.5
    assert stats.binom.sf(alarms - 1, 5000, 0.03) > 0.001
    assert stats.binom.cdf(alarms, 5000, 0.02) > 0.001


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(AUDITING) - {"inversion", "label_histogram"}))
def test_five_thousand_null_simulations_of_an_audit(name: str) -> None:
    """False alarms are at most the stated 5 %: binomial test at 0.1 %."""
    from scipy import stats

    assert stats.binom.sf(false_alarms(name, 5000) - 1, 5000, 0.05) > 0.001


@pytest.mark.slow
def test_label_disclosure_null_simulations() -> None:
    """5,000 worlds of evidence that knows nothing: a false alarm is rarer than the one-sided 2.5 % of its interval."""
    from scipy import stats

    module = ATTACKS["label_histogram"]
    config = module.Config(resamples=200)
    alarms = sum(module.audit(config, **_labels(0.0, seed)).leak_shown for seed in range(5000))
    assert stats.binom.sf(alarms - 1, 5000, 0.025) > 0.001


@pytest.mark.slow
def test_inversion_null_simulations() -> None:
    """1,000 worlds whose reconstructions know nothing: false alarms are at most the stated 5 %, binomial test at 0.1 %."""
    from scipy import stats

    module = ATTACKS["inversion"]
    config = module.Config(resamples=200)
    alarms = sum(module.audit(config, **_images(0.0, seed)).leak_shown for seed in range(1000))
    assert stats.binom.sf(alarms - 1, 1000, 0.05) > 0.001
