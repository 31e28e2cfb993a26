"""A synthetic run folder with every file that a run writes, and numbers that a test can predict."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from fedkd.report import build

LAYERS = 3


def levels(rounds: int, schedule: str) -> list[tuple[int, int]]:
    """(level, cut) per round of the "late" schedule for three blocks, knowledge stopping when block 3 leaves."""
    if schedule != "late":
        return []
    marks = [(int(np.ceil(a * rounds - 1e-9)), level) for a, level in ((0.0, 4), (0.5, 3), (0.75, 2), (0.9, 1))]
    table = [[level for start, level in marks if start <= t][-1] for t in range(rounds)]
    return [(level, LAYERS if level >= LAYERS else 0) for level in table]


def accuracies(rounds: int, clients: int, gain: float, seed: int) -> Any:
    """[rounds, clients] accuracies that rise and level off; the offset of a client is the same for every method."""
    rng = np.random.default_rng(seed)
    offset = rng.normal(0, 0.09, clients)
    rise = 0.35 * np.exp(-np.arange(rounds) / max(1.0, rounds / 6))
    wobble = np.random.default_rng(seed + 1000 + int(1000 * gain)).normal(0, 0.012, (rounds, clients))
    return np.clip(0.76 + gain + offset[None, :] * (1 - 2 * gain) - rise[:, None] + wobble, 0.0, 1.0)


def decile(values: Any) -> float:
    ordered = np.sort(values)
    return float(ordered[: int(np.ceil(len(ordered) / 10 - 1e-9))].mean())


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run_rows(scores: Any, trained: int, schedule: str, bytes_client: int) -> tuple[list[Any], list[Any]]:
    rounds, clients = scores.shape
    table = levels(rounds, schedule)
    round_rows, client_rows = [], []
    for t in range(rounds):
        cohort = [(t * trained + i) % clients for i in range(trained)]
        own = scores[t, cohort]
        level, cut = table[t] if table else (LAYERS + 1, 0)
        up = bytes_client * level // (LAYERS + 1)
        row = {
            "round": t, "seconds": 0.25, "accuracy_mean": float(own.mean()), "accuracy_std": float(own.std()),
            "accuracy_worst_decile": decile(own), "loss_mean": 0.7, "bytes_up": up * trained,
            "bytes_down": (up * trained * 9 // 10) if t else 0, "wire_bytes_up": up * trained + 2000,
            "wire_bytes_down": up * 2 if t else 0, "clients_trained": trained, "clients_failed": 0,
            "clients_scored": trained,
        }  # fmt: skip
        if table:
            row |= {
                "level": level,
                "cut": cut,
                "teachers": trained if t and cut else 0,
                "server_head_loss": 1.0 if cut else None,
            }
        round_rows.append(row)
        client_rows += [
            {
                "round": t, "client": c, "num_train": 60, "num_test": 40, "accuracy": float(scores[t, c]), "loss": 0.7,
                "bytes_up": up, "bytes_down": up * 9 // 10 if t else 0, "seconds": 0.01, "split": "test",
                "when": "after_local",
            }
            for c in sorted(cohort)
        ]  # fmt: skip
    return round_rows, client_rows


def partition_of(clients: int, classes: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    kept = min(clients, 200)
    histogram = [[int(v) for v in rng.multinomial(60, rng.dirichlet([0.5] * classes))] for _ in range(kept)]
    value: dict[str, Any] = {
        "schema": 1, "data": "digits", "hash": f"{seed:08x}" * 8, "classes": classes, "sizes": [60] * kept,
        "num_val": [4] * kept, "num_test": [40] * kept, "histogram": histogram, "notes": [],
    }  # fmt: skip
    return value | ({"truncated": True} if clients > 200 else {})


def environment_of(partition_hash: str) -> dict[str, Any]:
    return {
        "schema": 1, "python": "3.11.9", "platform": "Linux-6.1-x86_64", "cpu": "a processor", "cores": 2,
        "versions": {"torch": "2.6.0", "flwr": "1.41.0", "safetensors": "0.5.0", "ray": None}, "git_commit": "0" * 40,
        "dirty": False, "grid": "inprocess", "workers": 1, "nodes": 2, "data_hash": partition_hash,
        "data_sha256": {"digits.csv.gz": "a" * 64},
        "command": "python -m simulations run configs/demo.toml --set seed=0",
    }  # fmt: skip


def write(
    root: Path, name: str = "demo", *, label: str = "", method: str = "fedd2s", args: str = "", gain: float = 0.05,
    seed: int = 0, rounds: int = 40, clients: int = 20, classes: int = 10, trained: int | None = None,
    bytes_client: int = 153_000, status: str = "completed", failures: list[dict[str, Any]] | None = None,
    config: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Write a run folder below ``root`` and return it."""
    folder = root / name / f"{crc32((name + args).encode()):08x}-s{seed}"
    folder.mkdir(parents=True)
    scores = accuracies(rounds, clients, gain, seed)
    schedule = "late" if method == "fedd2s" else ""
    trained = trained or clients
    round_rows, client_rows = run_rows(scores, trained, schedule, bytes_client)
    write_lines(folder / "rounds.jsonl", round_rows)
    write_lines(folder / "clients.jsonl", client_rows)
    final = scores[-3:].mean(axis=0)
    keys = {
        "name": name, "label": label, "seed": seed, "num-server-rounds": rounds, "num-clients": clients,
        "method.name": method, "method.args": args, "model.name": "cnn_small", "data.name": "digits",
        "partition.name": "dirichlet", "partition.args": "alpha = 0.5", "learning-rate": 0.05, "output": "runs",
    } | (config or {})  # fmt: skip
    folder.joinpath("config.toml").write_text("".join(f'"{k}" = {json.dumps(v)}\n' for k, v in keys.items()))
    partition = partition_of(clients, classes, seed)
    folder.joinpath("partition.json").write_text(json.dumps(partition))
    folder.joinpath("environment.json").write_text(json.dumps(environment_of(partition["hash"])))
    write_lines(folder / "failures.jsonl", failures or [])
    up, down = (sum(row[key] for row in round_rows) for key in ("bytes_up", "bytes_down"))
    summary = {
        "schema": 1, "name": name, "label": label, "method": method, "dataset": "digits", "model": "cnn_small",
        "seed": seed, "rounds": rounds, "clients": clients, "status": status, "accuracy_mean": float(final.mean()),
        "accuracy_std": float(final.std()), "accuracy_worst_decile": decile(final),
        "accuracy_clients": {str(c): float(v) for c, v in enumerate(final)}, "bytes_up": up, "bytes_down": down,
        "bytes_up_client_round": up / rounds / trained, "bytes_down_client_round": down / rounds / trained,
        "seconds": 8.9, "failures": len(failures or []), "final_state_sha256": "b" * 64, "privacy": None,
        "audits": [],
    }  # fmt: skip
    folder.joinpath("summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """``write_run("local", gain=0.0, ...)`` writes a folder and returns it."""
    return partial(write, tmp_path)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(FedD2S run with one failure and its page built against local, the local run); read only."""
    root = tmp_path_factory.mktemp("demo")
    failure = {
        "round": 7, "client": 3, "node": 2, "error": "UploadError", "where": "codec.py:88",
        "message": "<script>alert(1)</script> & shape (64, 12)",
    }  # fmt: skip
    local = write(root, "local", method="local", gain=0.0)
    run = write(root, failures=[failure])
    build(run, [local])
    return run, local
