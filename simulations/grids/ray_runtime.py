"""Ray itself: a private one on this machine for the time of a block, or a cluster that runs, by its address.

Threat model of the private one: other users of the machine and of its network. It listens on loopback alone and asks for a
token that only this process and its children know; a cluster is as open as whoever started it made it.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import secrets
import shutil
import sys
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkd.errors import ConfigError, RunError
from simulations.grids.dispatch import ONE_THREAD

APP = Path(__file__).resolve().parents[2]

SHIPPED = ("fedkd", "clients", "server", "simulations")
"""What a cluster's nodes run: sent from this checkout, whatever is installed there."""

ANSWER = 5.0
"""Seconds in which the port of a cluster's address must answer."""


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
    if not address:
        _ask_for_a_token()
    with _mild():
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
            yield
    finally:
        with _mild():
            ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, need: Need, workers: int) -> None:
    """A private Ray with the workers' CPUs and, where they want any, this machine's GPUs. Raises: RunError."""
    import ray

    gpus: dict[str, Any] = {} if need.gpus > 0 else {"num_gpus": 0}
    try:
        ray.init(
            address="local", num_cpus=math.ceil(workers * need.cpus), include_dashboard=False, _temp_dir=str(folder),
            runtime_env={"env_vars": _worker_variables()}, **_quiet(), **gpus,
        )  # fmt: skip
    except (RuntimeError, OSError, ray.exceptions.RayError) as error:
        raise RunError(f"a private Ray did not start: {error}") from None


def _join(address: str, folder: Path) -> None:
    """Connect to a cluster and send it our sources. Raises: ConfigError."""
    import ray

    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise ConfigError(f"--ray-address {address!r}; valid: host:port of the cluster's head, as ray start prints it")
    if (said := heard(address)) != "OK":
        raise ConfigError(f"no head of a Ray cluster answers at {address} ({said}); start one: ray start --head --port {port}")
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


def heard(address: str, seconds: float = ANSWER) -> str:
    """ "OK" where the head of a Ray cluster answers, else why not. Ray itself asks whatever listens there for ever.

    What is asked is gRPC's standard health question, which the head answers to everybody.
    """
    import grpc

    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            ask(b"", timeout=seconds)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


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
    """Without Ray's own warnings, of files that it leaves open and of what it will change, nor its draws from ``random``."""
    drawn = random.getstate()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(drawn)


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
