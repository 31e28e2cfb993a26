"""The two promises that are checked by running: same seed, same bits; and a killed run resumes to the same result."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from fedkd.errors import ConfigError
from fedkd.faults import KILL_POINTS
from fedkd.native import compiler
from simulations.grids.ray_runtime import Need, connected
from simulations.run import DONE, execute, folders_of, load

EXPERIMENTS = {
    "features": ["method.args='knowledge = \"features\"'"],
    "heads": ["method.args='knowledge = \"heads\"'"],
    "native": ["method.name=fedavg", "method.args=", "executor.name=native"],
}
"""What must have one hash: both kinds of FedD2S and, where a compiler is at hand, the executor that compiles its step."""


def determinism(config: Path, flower: bool = True, ray: bool = True) -> int:
    """Print one final hash per grid, worker and node count; return 0 where they agree and other seeds differ."""
    places = [("inprocess", 1, 2, False), ("inprocess", 2, 2, False), ("inprocess", 2, 20, False)]
    if flower:
        places += [("flower", 1, 2, False), ("flower", 2, 2, False), ("flower", 2, 20, False)]
    if ray:
        places += [("ray", 1, 2, False), ("ray", 2, 20, False), ("ray", 2, 2, True)]
    good = True
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="fedkd-determinism-"))
        if ray:  # one Ray for all of these runs: most of such a short run is Ray's start
            stack.enter_context(connected("", Need(), 2))
        for kind, settings in EXPERIMENTS.items():
            args = [*settings, "report=false"]
            if kind == "native" and (missing := _no_compiler()):
                print(f"{kind:<9} left out: {missing}", flush=True)
                continue
            hashes: list[str] = []
            for position, (grid, workers, nodes, dies) in enumerate(places):
                if dies and kind == "native":
                    continue  # the planted fault fires where a client's state is written; these clients have none
                started = time.perf_counter()
                output = Path(scratch) / f"{kind}-{position}"
                with _death(output.with_suffix(".dead"), dies):
                    found = _hash(config, args, output, grid, workers, nodes)
                if dies and not output.with_suffix(".dead").exists():
                    print("no actor died: the planted fault did not fire", flush=True)
                    found = ""
                hashes.append(found)
                shown = f"{kind:<9} {grid:<10} workers {workers}  nodes {nodes:<3}"
                how = "  an actor died in round 2" if dies else ""
                print(f"{shown} {found[:16]}  {time.perf_counter() - started:6.1f} s{how}", flush=True)
            other = _hash(config, [*args, "seed=1"], Path(scratch) / f"{kind}-seed", "inprocess", 1, 2)
            first = _hash(config, [*args, "num-server-rounds=1"], Path(scratch) / f"{kind}-round", "inprocess", 1, 2)
            print(f"{kind:<9} another seed {other[:16]}, after round 1 alone {first[:16]}", flush=True)
            good &= len(set(hashes)) == 1 and "" not in hashes and len({hashes[0], other, first}) == 3
    print("determinism: one hash per experiment" if good else "determinism: FAILED", flush=True)
    return 0 if good else 1


def _no_compiler() -> str:
    """Why executor ``native`` cannot run on this machine; empty where a compiler is here, and then it must."""
    try:
        compiler.find_compiler()
    except ConfigError as error:
        return str(error).splitlines()[0]
    return ""


@contextmanager
def _death(marker: Path, dies: bool) -> Iterator[None]:
    """Have one worker die in round 2, after a client of its cohort wrote its state, in every run that starts in the block."""
    if not dies:
        yield
        return
    before = {name: os.environ.get(name) for name in ("FEDKD_FAULT", "FEDKD_FAULT_ONCE")}
    os.environ.update(FEDKD_FAULT="client-written:1", FEDKD_FAULT_ONCE=str(marker))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _hash(config: Path, settings: Sequence[str], output: Path, grid: str, workers: int, nodes: int) -> str:
    experiment = load(config, settings, output=str(output), workers=workers, num_nodes=nodes)
    outcome = execute(experiment, grid)
    if outcome.code != DONE:
        print(f"{grid}: exit code {outcome.code}: {outcome.reason}", flush=True)
        return ""
    return _summary_hash(outcome.folders[0])


def resume_after_faults(config: Path, kills: int, flower_kills: int, ray_kills: int, seed: int) -> int:
    """Kill at every fault point and at random moments; return 0 where every resumed run equals the undisturbed one."""
    good = True
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="fedkd-resume-") as scratch:
        base = Path(scratch)
        reference = _run_whole(config, base / "undisturbed")
        rounds = len(_rows(reference))
        cases = [(f"fault {p}", "inprocess", {"FEDKD_FAULT": f"{p}:{rounds // 2}"}, -1) for p in KILL_POINTS]
        cases += [(f"kill {k + 1}", "inprocess", {}, draw.randrange(rounds - 1)) for k in range(kills)]
        cases += [(f"flower kill {k + 1}", "flower", {}, draw.randrange(1, rounds - 1)) for k in range(flower_kills)]
        cases += [(f"ray kill {k + 1}", "ray", {}, draw.randrange(1, rounds - 1)) for k in range(ray_kills)]
        for number, (name, grid, fault, at) in enumerate(cases):
            started = time.perf_counter()
            actor = grid == "flower" and number % 2 == 0
            same = _one_case(config, base / f"case-{number}", reference, grid, fault, at, draw.random(), actor)
            good &= same
            said = "same hash and rounds" if same else "DIFFERS"
            what = name + (" (a Ray actor)" if actor else "")
            print(f"{what:<28} {said}  {time.perf_counter() - started:6.1f} s", flush=True)
    print("resume: every resumed run equals the undisturbed one" if good else "resume: FAILED", flush=True)
    return 0 if good else 1


def _one_case(
    config: Path, output: Path, reference: Path, grid: str, fault: dict[str, str], at: int, jitter: float, actor: bool
) -> bool:
    process = _start(config, output, grid, fault)
    folder = _folder(config, output)
    if at >= 0:
        _wait_for_round(process, folder, at)
        time.sleep(jitter * 0.3)
        if actor:
            _kill_one_actor(process.pid)
        else:
            _kill_tree(process.pid)
    code = process.wait(timeout=300)
    if actor:
        return code == 0 and _same(folder, reference)
    if code == 0 and not at >= 0:
        print(f"the planted fault {fault} did not fire", flush=True)
        return False
    if not (folder / "summary.json").exists():
        command = [sys.executable, "-m", "simulations", "resume", str(folder), "--grid", grid]
        done = subprocess.run(command, cwd=_root(), capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            print(done.stderr[-1500:], flush=True)
            return False
    return _same(folder, reference)


def _run_whole(config: Path, output: Path) -> Path:
    process = _start(config, output, "inprocess", {})
    if process.wait(timeout=600) != 0:
        raise SystemExit("the undisturbed run failed")
    return _folder(config, output)


def _start(config: Path, output: Path, grid: str, extra: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "simulations", "run", str(config.resolve()), "--grid", grid]
    command += ["--output", str(output), "--workers", "1" if grid == "inprocess" else "2", "--set", "report=false"]
    environment = {**os.environ, **extra}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=_root(), env=environment, stdout=quiet, stderr=quiet)


def _folder(config: Path, output: Path) -> Path:
    return folders_of(load(config, ["report=false"], output=str(output)))[0]


def _wait_for_round(process: subprocess.Popen[bytes], folder: Path, at: int, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while len(_rows(folder)) <= at and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def _kill_tree(pid: int) -> None:
    """kill -9 of a process and everything it started, SuperLink and Ray included."""
    parent = psutil.Process(pid)
    for process in [parent, *parent.children(recursive=True)]:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def _kill_one_actor(pid: int) -> None:
    """kill -9 of one Ray actor of the run that ``pid`` follows."""
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if process.name().startswith("ray::") or any("ray::" in part for part in process.cmdline()[:1]):
                process.send_signal(signal.SIGKILL)
                return
        except psutil.NoSuchProcess:
            continue
    print("no Ray actor found to kill", flush=True)


def _same(folder: Path, reference: Path) -> bool:
    """Equal final hash and equal rounds, seconds aside."""
    return _summary_hash(folder) == _summary_hash(reference) != "" and _rows(folder) == _rows(reference)


def _rows(folder: Path) -> list[dict[str, object]]:
    """Complete rows of ``rounds.jsonl`` without what depends on the machine's speed or on the grid's messages."""
    try:
        lines = (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError:
        return []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    aside = {"seconds", "server_seconds", "wire_bytes_up", "wire_bytes_down"}
    return [{k: v for k, v in row.items() if k not in aside} for row in rows]


def _summary_hash(folder: Path) -> str:
    try:
        return str(json.loads((folder / "summary.json").read_text())["final_state_sha256"])
    except (OSError, KeyError, ValueError):
        return ""


def _root() -> Path:
    return Path(__file__).resolve().parents[1]
