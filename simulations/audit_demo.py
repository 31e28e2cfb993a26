"""The audit's first result: FedD2S-avg with features and with heads, with and without mechanisms, run, audited, gated."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console

from fedkd import gate, run_audit
from fedkd.data import fashion_mnist
from fedkd.dataset import find_files
from fedkd.errors import ConfigError, DataError, RunError
from fedkd.prepare import prepare
from server.run_folder import state_root_of
from simulations import audit, pool
from simulations.run import DONE, FAILED, execute, load

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ROWS = ("audit-features", "audit-pool", "audit-permute", "audit-clip_noise", "audit-heads", "audit-user_noise")
SIZE = ("workers=1",)
"""Each run has one core; two run at a time."""
DIGITS = ('data.name="digits"', 'data.args=""', "max-samples=1600", "min-client-samples=20")
"""Where Fashion-MNIST's files are not there."""
OPTIONS = "candidates = 2000, references = 4, permutations = 200"


def run_demo(output: str | None) -> int:
    """Run, audit and gate every row, two at a time; prints the seconds and the page's path last. Returns the exit code."""
    console, started = Console(highlight=False, soft_wrap=True), time.perf_counter()
    root = Path(output) if output else Path.cwd() / "runs" / "audit-demo"
    chosen, settings = data_settings()
    console.print(f"fedkd audit demo: {len(ROWS)} runs of FedD2S-avg on {chosen}, two at a time, each run, then audited")
    for name in ROWS:  # the rows share their data: prepared once, before two processes want it
        for experiment in load(CONFIGS / f"{name}.toml", settings, output=str(root)).runs():
            prepare(experiment, state_root_of(experiment))
    context = multiprocessing.get_context("spawn")
    folders: list[Path] = []
    with ProcessPoolExecutor(2, mp_context=context, initializer=pool.worker) as workers:
        asked = [workers.submit(run_and_audit, name, settings, str(root)) for name in ROWS]
        for name, one in zip(ROWS, asked, strict=True):
            try:
                folder, seconds, said = one.result()
            except (ConfigError, RunError) as error:
                print(f"{name}: {error}", file=sys.stderr)
                workers.shutdown(wait=False, cancel_futures=True)
                return FAILED
            folders.append(folder)
            console.print(f"  {name:<18} run and audited in {seconds:5.1f} s: {said}")
        built = [workers.submit(build_page, folder, [f for f in folders if f != folder]) for folder in folders]
        pages = [one.result() for one in built]
    _gate(folders, console)
    from fedkd.report.audit_frontier import write_frontier

    command = "make audit-demo"
    page = write_frontier(folders, root / "frontier.html", command, [f"Data: {chosen}."])
    for name, one_page in zip(ROWS, pages, strict=True):
        console.print(f"  {name:<18} {one_page}")
    console.print(f"total {time.perf_counter() - started:.1f} s")
    console.print(f"report: {page}")
    return DONE


def data_settings() -> tuple[str, list[str]]:
    """(the data in words, settings): Fashion-MNIST where its files are there, else digits."""
    try:
        find_files(fashion_mnist.SPEC, fashion_mnist.places(fashion_mnist.Config(), ""))
    except DataError:
        return "scikit-learn's digits (Fashion-MNIST is not on this machine: make images fetches it)", [*SIZE, *DIGITS]
    return "Fashion-MNIST, 14 x 14", list(SIZE)


def run_and_audit(name: str, settings: Sequence[str], output: str) -> tuple[Path, float, str]:
    """In a process of its own. Returns (the run's folder, seconds, how many verdict lines say what)."""
    from fedkd.channel_audit import Config
    from fedkd.config import parse_args
    from fedkd.report.verdict_cards import summary_line

    started = time.perf_counter()
    (folder,) = audit.recorded(CONFIGS / f"{name}.toml", settings, _silent, execute, output=output, overwrite=True)
    audit.write(folder, parse_args(OPTIONS, Config, "OPTIONS"), _silent)
    said = summary_line(run_audit.read(run_audit.path_of(folder))).partition(". ")[0]
    return folder, time.perf_counter() - started, said


def build_page(folder: Path, compared: Sequence[Path]) -> Path:
    """The audit's page, in a process of its own."""
    from fedkd.report.audit import build

    return build(folder, compared)


def _silent(line: str) -> None:
    """What an audit says line by line stands on its page."""


def _gate(folders: Sequence[Path], console: Console) -> None:
    for name, folder in zip(ROWS, folders, strict=True):
        outcome = gate.apply(run_audit.read(run_audit.path_of(folder)).content, gate.Config())
        failed = sum(check.status == gate.FAIL for check in outcome.checks)
        console.print(
            f"  {name:<18} gate: {outcome.status} (exit code {outcome.exit_code}), {failed} of {len(outcome.checks)} failed"
        )
