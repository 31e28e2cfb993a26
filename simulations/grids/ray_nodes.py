"""The nodes of a Ray cluster: the workers for which they have room, and what all of them must share with this machine."""

from __future__ import annotations

import hashlib
import platform
import time
import uuid
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from fedkd.config import Experiment
from fedkd.errors import ConfigError, WaitExpired
from simulations.grids.ray_runtime import APP, SHIPPED, Need

SAME = ("torch", "flwr", "numpy", "safetensors")
"""Packages whose versions determine bits or messages: equal on all nodes."""

SHOWN = 60.0
"""Seconds in which every node of a cluster must have looked at what is shared."""

LEAVES = 40.0
"""Seconds after which Ray has noticed a node's death (five missed checks, three seconds apart, with their own patience)."""


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
    late = [task for task in late if not _gone(asked[task])]
    if late:
        names = ", ".join(asked[task]["NodeManagerAddress"] for task in late)
        raise WaitExpired(f"Ray nodes that did not answer within {SHOWN:g} s: {names}")
    for one in done:
        try:
            yield asked[one], ray.get(one)
        except ray.exceptions.RayError as error:
            if _gone(asked[one]):
                continue
            said = str(error).strip().splitlines()[-1]
            raise ConfigError(f"Ray node {asked[one]['NodeManagerAddress']} cannot run our code: {said}") from None


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _gone(node: dict[str, Any]) -> bool:
    """Whether a node that could not be asked leaves the cluster now: Ray lists a dead one as alive for some seconds."""
    deadline = time.monotonic() + LEAVES
    while any(n["NodeID"] == node["NodeID"] for n in _alive()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _room(resources: dict[str, float], need: Need) -> int:
    """Workers that a node with these resources can hold."""
    kinds = [(resources.get("CPU", 0.0), need.cpus), (resources.get("GPU", 0.0), need.gpus)]
    return min((int((has + 1e-9) / wants) for has, wants in kinds if wants > 0), default=0)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
