"""Drives the stock Flower app: bundles it, runs it on a private SuperLink with Flower's own simulation engine on Ray.

One node per client, one CPU per client, all cores of the host: ``client-resources-num-cpus=1`` (Flower's default of 2 would
leave half of this kind of host idle).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

from benchmarks.speed.inputs import Inputs, arguments, argv
from simulations.grids.flower import CONNECTION, superlink

HERE = Path(__file__).resolve().parent
PARTS = ("inputs.py", "nets.py", *(f"systems/{name}.py" for name in ("loop", "quickstart", "stock_client", "stock_server")))
PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "stock"
version = "1.0.0"
description = "A stock Flower app"
license = "MIT"
dependencies = []

[tool.flwr.app]
publisher = "bench"

[tool.flwr.app.components]
serverapp = "benchmarks.speed.systems.stock_server:app"
clientapp = "benchmarks.speed.systems.stock_client:app"

[tool.flwr.app.config]
inputs = ""
out = ""
rounds = 1
client = "staged"
"""
PATIENCE = 300.0
"""Seconds after which a run that has not ended is given up."""


def bundle(folder: Path) -> Path:
    """The app's folder: our driver's modules that its two halves import, and a pyproject.toml."""
    for part in PARTS:
        target = folder / "benchmarks" / "speed" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(HERE.parent / part, target)
    for package in ("benchmarks", "benchmarks/speed", "benchmarks/speed/systems"):
        (folder / package / "__init__.py").write_text("")
    (folder / "pyproject.toml").write_text(PYPROJECT)
    return folder


def run(inputs: Inputs, rounds: int, workers: int, out: Path, client: str) -> None:
    """Submit, follow and pass on the lines of the rounds. Raises: RuntimeError where the run failed."""
    with superlink() as link:
        settings = link.home / "run.toml"
        settings.write_text(
            f'inputs = "{inputs.folder}"\nout = "{out}"\nrounds = {rounds}\nclient = "{client}"\n', encoding="utf-8"
        )
        federation = (
            f"num-supernodes={inputs.meta['clients']} client-resources-num-cpus=1 client-resources-num-gpus=0 "
            f"init-args-num-cpus={workers}"
        )
        app = str(bundle(link.home / "app"))
        answer = link.flwr("run", app, CONNECTION, "-c", str(settings), "--federation-config", federation)
        started, seen, asked = time.monotonic(), 0, time.monotonic()
        while not (out / "done").exists() or seen < rounds:
            lines = (out / "rounds.jsonl").read_text().splitlines() if (out / "rounds.jsonl").exists() else []
            for line in lines[seen:]:
                print(line, flush=True)
            seen = max(seen, len(lines))
            if time.monotonic() - asked > 15:
                asked = time.monotonic()
                status, details = link.status(str(answer["run-id"]))
                if status.startswith("finished") and seen < rounds:
                    raise RuntimeError(f"{status} {details} {link.log(str(answer['run-id']))[-1500:]}")
            if time.monotonic() - started > PATIENCE:
                raise RuntimeError(f"no end within {PATIENCE:g} s: {link.log(str(answer['run-id']))[-1500:]}")
            time.sleep(0.05)


if __name__ == "__main__":
    inputs, rounds, workers, out = arguments(argv())
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    run(inputs, rounds, workers, out, argv()[5])
    json.loads((out / "cohort.json").read_text())
