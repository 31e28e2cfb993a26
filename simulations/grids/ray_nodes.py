"""Ray itself: a private one on this machine, or a cluster by its address, and what every node of a cluster must share.

Threat model of the private one: other users of the machine and of its network. It listens on loopback alone and asks for a
token that only this process and its children know; a cluster is as open as whoever started it made it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import random
import secrets
import shutil
import socket
import sys
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from fedkd.config import Experiment
from fedkd.errors import ConfigError, WaitExpired
from simulations.grids.dispatch import ONE_THREAD

APP = Path(__file__).resolve().parents[2]

SHIPPED = ("fedkd", "clients", "server", "simulations")
"""What a cluster's nodes run: sent from this checkout, whatever is installed there."""

SAME = ("torch", "flwr", "numpy", "safetensors")
"""Packages whose versions determine bits or messages: equal on all nodes."""

ANSWER = 5.0
"""Seconds in which the port of a cluster's address must answer."""

SHOWN = 60.0
"""Seconds in which every node of a cluster must have looked at what is shared."""


@dataclass(frozen=True)
class Need:
    """What one worker asks Ray for."""

    cpus: float = 1.0
    gpus: float = 0.0


@contextlib.contextmanager
def connected(address: str, need: Need, workers: int) -> Iterator[None]:
    """A Ray for the time of the block; one that this process has already is used as it is, and not ended.

    Args:
        address: ``host:port`` of a cluster that runs, or "" for a private Ray on this machine. ``RAY_ADDRESS`` counts
            for nothing.

    Raises: ConfigError where nothing answers at the address, or this machine is no node of that cluster.
    """
    drawn = random.getstate()
    if not address:
        _ask_for_a_token()
    import ray

    if ray.is_initialized():
        yield
        return
    folder = _folder()
    try:
        with _environment({} if address else _private_variables()), _loopback(not address):
            with _mild():
                if address:
                    _join(address, folder)
                else:
                    _start(folder, need, workers)
            _hush()
            random.setstate(drawn)  # Ray draws from the global generator
            yield
    finally:
        with _mild():
            ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        random.setstate(drawn)


def capacity(need: Need) -> int:
    """Workers for which the living nodes have room, whoever may be using it now."""
    return sum(_room(node["Resources"], need) for node in _alive())


def problems(experiment: Experiment | None, address: str) -> list[tuple[str, str, str]]:
    """(node, what differs there, how to mend it) of the cluster that this process is connected to.

    Every node that may hold a worker must see a file written below state-root and be seen writing one, have the same
    Python and versions, and hold the same prepared data; without an experiment only versions are compared.

    Raises: WaitExpired where a node does not answer.
    """
    from server.run_folder import state_root_of

    need = Need() if experiment is None else Need(experiment.cpus_per_worker, experiment.gpus_per_worker)
    nodes = [n for n in _alive() if _room(n["Resources"], need)]
    if not nodes:
        return [(address, f"no node has {need.cpus:g} CPUs and {need.gpus:g} GPUs", "lower cpus-per-worker or gpus-per-worker")]
    root = None if experiment is None else state_root_of(experiment)
    here, found, left = look(experiment, root, ""), list[tuple[str, str, str]](), ""
    if root is not None:
        root.mkdir(parents=True, exist_ok=True)
        left = f".seen-{uuid.uuid4().hex}"
        (root / left).write_text(left)
    try:
        for node, there in _looks(nodes, experiment, root, left):
            name = f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
            mark = None if root is None else root / f"{left}-{node['NodeID']}"
            found += [(name, *said) for said in differences(here, there, root, mark is None or mark.exists())]
    finally:
        if root is not None:
            for mark in root.glob(f"{left}*"):
                mark.unlink(missing_ok=True)
    return found


def differences(here: dict[str, Any], there: dict[str, Any], root: Path | None, seen: bool) -> list[tuple[str, str]]:
    """(what differs on a node, how to mend it).

    Args:
        here: what ``look`` says on this machine; there: on the node.
        seen: whether what the node wrote below ``root`` has come to be seen here.
    """
    found: list[tuple[str, str]] = []
    for what, mend in (("python", "use one Python everywhere"), *((p, f"pip install '{p}=={here[p]}' there") for p in SAME)):
        if here[what] != there[what]:
            found.append((f"{what} {there[what]} instead of {here[what]}", mend))
    if here["code"] != there["code"]:
        found.append(("runs other sources than this checkout", "stop the run's Ray jobs and start again"))
    if root is None:
        return found
    if there["error"]:
        return [*found, (there["error"], f"mount {root} there, writable for the user that runs Ray")]
    if not (there["sees"] and seen):
        found.append(
            (
                f"state-root {root} is another folder there",
                "put output (or state-root) on a file system that every node mounts at the same path",
            )
        )
    elif here["data"] != there["data"]:
        found.append((f"prepared data {there['data']} instead of {here['data']}", f"remove {root / 'data'} and start again"))
    return found


def look(experiment: Experiment | None, root: Path | None, left: str, mark: str = "") -> dict[str, Any]:
    """What this node has: versions, sources, the file ``left`` below ``root``; leaves ``mark`` there."""
    seen: dict[str, Any] = {"python": platform.python_version(), "code": code_digest(), "error": "", "sees": False, "data": ""}
    seen |= {p: _version(p) for p in SAME}
    if root is None or experiment is None:
        return seen
    from fedkd.prepare import data_hash, open_data

    try:
        if not left:
            seen["data"] = open_data(root / "data" / data_hash(experiment)).meta["hash"]
        elif (root / left).is_file():
            seen["sees"] = (root / left).read_text() == left
            (root / mark).write_text(mark)
            seen["data"] = open_data(root / "data" / data_hash(experiment)).meta["hash"]
    except (OSError, ConfigError) as error:
        seen["error"] = f"{root}: {error}"
    return seen


@cache
def code_digest() -> str:
    """Twelve hex digits over the sources that this process runs."""
    digest = hashlib.sha256()
    for part in SHIPPED:
        for file in sorted((APP / part).rglob("*.py")):
            digest.update(f"{file.relative_to(APP)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _looks(
    nodes: list[dict[str, Any]], experiment: Experiment | None, root: Path | None, left: str
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(look)
    asked = {
        task.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(experiment, root, left, f"{left}-{node['NodeID']}"): node
        for node in nodes
    }
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=SHOWN)
    if late:
        names = ", ".join(asked[task]["NodeManagerAddress"] for task in late)
        raise WaitExpired(f"Ray nodes that did not answer within {SHOWN:g} s: {names}")
    for one in done:
        try:
            yield asked[one], ray.get(one)
        except ray.exceptions.RayError as error:
            said = str(error).strip().splitlines()[-1]
            raise ConfigError(f"Ray node {asked[one]['NodeManagerAddress']} cannot run our code: {said}") from None


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _room(resources: dict[str, float], need: Need) -> int:
    """Workers that a node with these resources can hold."""
    kinds = [(resources.get("CPU", 0.0), need.cpus), (resources.get("GPU", 0.0), need.gpus)]
    return min((int((has + 1e-9) / wants) for has, wants in kinds if wants > 0), default=0)


def _start(folder: Path, need: Need, workers: int) -> None:
    """A private Ray; its GPUs are those of the machine. Raises: ConfigError where it has too few of them."""
    import ray

    gpus: dict[str, Any] = {} if need.gpus > 0 else {"num_gpus": 0}
    ray.init(
        address="local", num_cpus=max(1, -(-int(1000 * workers * need.cpus) // 1000)), include_dashboard=False,
        _temp_dir=str(folder), runtime_env={"env_vars": _worker_variables()}, **_quiet(), **gpus,
    )  # fmt: skip


def _join(address: str, folder: Path) -> None:
    """Connect to a cluster and send it our sources. Raises: ConfigError."""
    import ray

    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise ConfigError(f"--ray-address {address!r}; valid: host:port of the cluster's head, as ray start prints it")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER).close()
    except OSError as error:
        raise ConfigError(
            f"no Ray answers at {address} ({error.strerror or error}); start one: ray start --head --port {port}"
        ) from None
    sources = folder / "sources"
    for part in SHIPPED:
        shutil.copytree(APP / part, sources / part, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    try:
        ray.init(
            address=address, namespace=uuid.uuid4().hex, **_quiet(),
            runtime_env={"working_dir": str(sources), "env_vars": _worker_variables()},
        )  # fmt: skip
    except Exception as error:
        said = str(error).strip().splitlines()
        raise ConfigError(
            f"cannot join the Ray cluster at {address}: {said[0] if said else type(error).__name__}; "
            f"run this command on a node of the cluster (ray start --address {address})"
        ) from None


def _quiet() -> dict[str, Any]:
    return {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}


def _worker_variables() -> dict[str, str]:
    """What each of our Ray workers starts with: one thread, and no GPU that it did not ask for."""
    return {**dict.fromkeys(ONE_THREAD, "1"), "HF_HUB_OFFLINE": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}


def _private_variables() -> dict[str, str | None]:
    """What a private Ray starts with."""
    return {
        "RAY_ADDRESS": None,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
        "RAY_worker_niceness": "0",  # Ray's 15 would let everything else on the machine go first
    }


def _ask_for_a_token() -> None:
    """Have every Ray of this process refuse who does not know a secret. Ray reads these variables at its first import."""
    if "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _folder() -> Path:
    """A new folder of this user's alone. Ray's sockets lie in it, and their paths may have 107 characters."""
    usual = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="fedkd-ray-", dir=usual if len(usual) <= 24 else "/tmp"))
    folder.chmod(0o700)
    return folder


@contextlib.contextmanager
def _loopback(on: bool) -> Iterator[None]:
    """On Linux Ray listens on every interface, even where it is given 127.0.0.1; a switch meant for other systems keeps it on
    loopback (not public API: one function, one test). Its processes read the variable, this one has read it already.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = before and not on
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _hush() -> None:
    """Keep Ray from saying on stdout what died: a command's JSON goes there (not public API: one function, one test)."""
    from ray._private import worker

    worker._worker_logs_enabled = False


@contextlib.contextmanager
def _mild() -> Iterator[None]:
    """Without Ray's own warnings, of files that it leaves open and of what it will change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _environment(changes: dict[str, str | None]) -> Iterator[None]:
    """Environment variables for the time of the block (None = unset)."""
    before = {name: os.environ.get(name) for name in changes}
    try:
        _set(changes)
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
