"""Look before a run: versions, ports, Ray, disk, data, model; each finding with its one-line fix."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from fedkd.config import Experiment
from fedkd.errors import ConfigError, WaitExpired

MIN_FREE = 1 << 30
"""Bytes of free disk below which doctor warns."""


@dataclass(frozen=True)
class Finding:
    """One check."""

    check: str
    ok: bool
    detail: str
    fix: str = ""


def examine(experiment: Experiment | None = None, port: int = 0, ray_address: str = "") -> list[dict[str, object]]:
    """All checks, in a fixed order; with an experiment also its data, folder and model; with an address the cluster's nodes."""
    checks: list[Callable[[], Iterator[Finding]]] = [_versions, _ray, lambda: _port(port), _home, _disk, _cpus, _native]
    if experiment is not None:
        checks += [lambda: _output(experiment), lambda: _experiment(experiment), lambda: _resources(experiment)]
    if ray_address:
        checks += [lambda: _cluster(ray_address, experiment)]
    return [asdict(finding) for check in checks for finding in check()]


def _versions() -> Iterator[Finding]:
    low = (3, 11)
    yield Finding("python", sys.version_info >= low, sys.version.split()[0], "use Python 3.11 or newer")
    for package, least in (
        ("flwr", "1.41"),
        ("torch", "2.6"),
        ("torchvision", "0.21"),
        ("flwr-datasets", "0.6"),
        ("ray", "2.31"),
    ):
        try:
            found = metadata.version(package)
            yield Finding(package, _at_least(found, least), found, f"pip install '{package}>={least}'")
        except metadata.PackageNotFoundError:
            yield Finding(package, package == "ray", "not installed", f"pip install '{package}>={least}'")
    if importlib.util.find_spec("torchvision"):
        try:
            import torchvision  # noqa: F401

            yield Finding("torch pair", True, "torchvision imports")
        except Exception as error:
            yield Finding(
                "torch pair", False, str(error).splitlines()[0], "install torch and torchvision together, from one source"
            )


def _ray() -> Iterator[Finding]:
    marker = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    yield Finding(
        "ray cluster file", not marker.exists(), str(marker), f"ray stop; rm {marker}  (a left-over makes flwr run hang)"
    )
    yield Finding("RAY_ADDRESS", "RAY_ADDRESS" not in os.environ, os.environ.get("RAY_ADDRESS", "unset"), "unset RAY_ADDRESS")


def _port(port: int) -> Iterator[Finding]:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
            yield Finding("port", True, f"{port or 'any'} is free on loopback")
        except OSError as error:
            yield Finding("port", False, f"{port}: {error.strerror}", "choose another port, or 0 for any free one")


def _home() -> Iterator[Finding]:
    home = Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr")
    existing = next(p for p in (home, *home.parents) if p.exists())
    yield Finding(
        "FLWR_HOME",
        os.access(existing, os.W_OK),
        str(home),
        "set FLWR_HOME to a folder of yours (only flwr run by hand uses it)",
    )


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(tempfile.gettempdir()).free
    yield Finding("disk", free > MIN_FREE, f"{free / 2**30:.1f} GiB free for temporary files", "free some space, or set TMPDIR")


def _cpus() -> Iterator[Finding]:
    yield Finding("cpus", True, f"{os.cpu_count()} cores; one worker per core is best, one thread each")


def _native() -> Iterator[Finding]:
    """Whether executor ``native`` would start; no other run needs it, so that its absence is told and needs no fixing."""
    from fedkd.native import compiler

    try:
        compiler.library()
        yield Finding("native step", True, f"compiles with {' '.join(compiler.find_compiler())}")
    except ConfigError as error:
        yield Finding("native step", True, f"none: {str(error).splitlines()[0]}")


def _output(experiment: Experiment) -> Iterator[Finding]:
    from server.run_folder import check_folder

    try:
        yield Finding("output", True, str(check_folder(experiment)))
    except ConfigError as error:
        yield Finding("output", False, str(error), "change output, or use --overwrite or resume")


def _experiment(experiment: Experiment) -> Iterator[Finding]:
    from fedkd import plugins
    from server.server_app import check_before_start

    try:
        setting = check_before_start(experiment)
        yield Finding(
            "configuration", True, f"{experiment.method_name} on {experiment.model_name}, L = {setting.model.blocks} blocks"
        )
        norm = "has BatchNorm: FedAvg averages its statistics; it cannot be stacked or trained with DP-SGD (GroupNorm can)"
        yield Finding("model", True, norm if setting.model.has_batch_norm else "no BatchNorm")
    except ConfigError as error:
        yield Finding("configuration", False, str(error), "correct the configuration")
        return
    module = plugins.find("data", experiment.data_name)
    if hasattr(module, "load"):
        from fedkd.config import parse_args

        try:
            module.load(parse_args(experiment.data_args, module.Config, "data.args"), experiment.data_root)
            yield Finding("data", True, f"{experiment.data_name}: found, hash as pinned")
        except ConfigError as error:
            yield Finding("data", False, str(error), module.SPEC.fetch or "see the message")


def _resources(experiment: Experiment) -> Iterator[Finding]:
    cores = os.cpu_count() or 1
    wanted = experiment.workers * experiment.cpus_per_worker
    detail = f"{experiment.workers} workers x {experiment.cpus_per_worker:g} CPUs on {cores} cores"
    yield Finding("workers", wanted <= cores, detail,
                  f"workers = {max(1, int(cores // experiment.cpus_per_worker))}")  # fmt: skip
    enough = experiment.workers <= experiment.num_nodes
    yield Finding("nodes", enough, f"num-nodes = {experiment.num_nodes}", "a node has one worker: num-nodes at least workers")


def _cluster(address: str, experiment: Experiment | None) -> Iterator[Finding]:
    """Whether every node of a Ray cluster can run our clients and shares their state."""
    from fedkd.prepare import prepare
    from server.run_folder import state_root_of
    from simulations.grids import ray_nodes
    from simulations.grids.ray_runtime import Need, connected

    need = Need() if experiment is None else Need(experiment.cpus_per_worker, experiment.gpus_per_worker)
    try:
        for run in experiment.runs() if experiment is not None else []:
            prepare(run, state_root_of(run))
        with connected(address, need, 0):
            found = ray_nodes.problems(experiment, address)
            room = ray_nodes.capacity(need)
    except (ConfigError, WaitExpired) as error:
        yield Finding("ray cluster", False, str(error), "see the message")
        return
    yield Finding("ray cluster", room > 0, f"{address} has room for {room} workers", "lower cpus-per-worker or gpus-per-worker")
    for number, (node, what, mend) in enumerate(found, 1):
        yield Finding(f"ray node {number}", False, f"{node}: {what}", mend)


def _at_least(found: str, least: str) -> bool:
    def key(text: str) -> tuple[int, ...]:
        return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in text.split("+")[0].split(".")[:2])

    return key(found) >= key(least)
