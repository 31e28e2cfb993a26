"""Console script ``fedkd``: audit anyone's scores, gate a result or a run, check a bundle, write a page, list plug-ins.

No torch, no Flower. Exit codes: 0 done or not failed, 1 the gate failed or a bundle is not what it says, 2 usage or
configuration, 3 warn or inconclusive.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec

import typer

from fedkd.errors import ConfigError

if TYPE_CHECKING:
    from fedkd.gate import Outcome

app = typer.Typer(
    name="fedkd", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Federated and privacy-preserving knowledge distillation: statistics and audits that need no Flower.",
)  # fmt: skip
P = ParamSpec("P")
Format = Literal["text", "json"]
FormatOption = Annotated[Format, typer.Option("--format", help="What is printed: text or json.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one option; repeatable.")]


def _usage_errors(command: Callable[P, None]) -> Callable[P, None]:
    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from None

    return guarded


@app.command("audit-scores")
@_usage_errors
def audit_scores(
    file: Annotated[Path, typer.Argument(help="csv or npz with id, member, score; optional group, blind, text.")],
    output: Annotated[Path | None, typer.Option(help="Write the result as JSON here.")] = None,
    leaky: Annotated[Path | None, typer.Option(help="Scores of a control trained to leak.")] = None,
    clean: Annotated[Path | None, typer.Option(help="Scores of a control that cannot leak.")] = None,
    changes: SetOption = None,
    form: FormatOption = "text",
) -> None:
    """Full statistics of a file of membership scores (higher = more likely member), with intervals and a verdict."""
    from fedkd.config import parse_args
    from fedkd.evaluate import Config, evaluate
    from fedkd.scores import read

    config = parse_args(_pairs(changes), Config, "--set")
    controls = [read(path) if path else None for path in (leaky, clean)]
    result = evaluate(read(file), config, *controls).to_json()
    if output is not None:
        _write(output, json.dumps(result, indent=1) + "\n")
    _say(json.dumps(result, indent=1) if form == "json" else _text(result))


@app.command()
@_usage_errors
def gate(
    result: Annotated[Path, typer.Argument(help="Folder of an audited run, its audit.json, or a result of audit-scores.")],
    fail_if: Annotated[
        list[str] | None, typer.Option(help='Own rule, e.g. "auc.low > 0.55" or "ssim.low > 0.5 @ cut 3"; repeatable.')
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the outcome as JSON here.")] = None,
    changes: SetOption = None,
    form: FormatOption = "text",
) -> None:
    """Apply the preset rules and your own to an audit: exit code 0 not failed, 1 fail, 3 warn or inconclusive."""
    from fedkd.config import parse_args
    from fedkd.gate import Config, apply, to_json
    from fedkd.junit import to_junit

    config = parse_args(_pairs(changes), Config, "--set")
    outcome = apply(_load(result), config, fail_if or [])
    record = to_json(outcome, config)
    if junit is not None:
        _write(junit, to_junit(outcome))
    if output is not None:
        _write(output, json.dumps(record, indent=1) + "\n")
    if form == "json":
        print(json.dumps(record, indent=1))
    else:
        _say(_of_a_gate(outcome))
    raise typer.Exit(outcome.exit_code)


@app.command()
@_usage_errors
def verify(
    bundle: Annotated[Path, typer.Argument(help="bundle.zip of an audited run.")],
    form: FormatOption = "text",
) -> None:
    """Check an evidence bundle: every hash, and that page, card, verdicts and gate follow from the audit in it."""
    from fedkd.bundle import check

    found = check(bundle)
    record = {"files": dict(found.files), "problems": list(found.problems), "manifest_sha256": found.manifest_sha256}
    lines = [f"failed  {problem}" for problem in found.problems]
    if not found.problems:
        lines = [f"ok      {name}  sha256 {digest[:16]}" for name, digest in found.files.items()]
        lines.append(f"verified: {len(found.files)} files; manifest sha256 {found.manifest_sha256}")
        lines.append("Hashes show that nothing changed, not who wrote it: compare the manifest's with the sender's.")
    if form == "json":
        print(json.dumps(record, indent=1))
    else:
        _say("\n".join(lines))
    raise typer.Exit(1 if found.problems else 0)


@app.command()
@_usage_errors
def report(
    source: Annotated[Path, typer.Argument(help="Result file of audit-scores, or the folder of a run.")],
    output: Annotated[Path | None, typer.Option(help="Page to write; default: beside the result.")] = None,
) -> None:
    """Write the one-page HTML report of a result file or of a run's folder."""
    if source.is_dir():
        from fedkd.report import build
        from fedkd.run_audit import path_of

        print(build(source))
        if path_of(source).is_file():
            from fedkd.report.audit import build as build_audit

            print(build_audit(source))
        return
    from fedkd.report.scores import page

    target = output or source.with_suffix(".html")
    _write(target, page(_load(source)))
    print(target)


@app.command("list")
@_usage_errors
def list_plugins(
    slot: Annotated[str | None, typer.Argument(help="One slot, e.g. attacks; default: all.")] = None,
    form: FormatOption = "text",
) -> None:
    """List the plug-ins by slot; the folder listing is the catalogue."""
    from fedkd.plugins import SLOTS, available

    found = {name: available(name) for name in ((slot,) if slot else SLOTS)}
    if form == "json":
        print(json.dumps(found, indent=1))
        return
    for name, names in found.items():
        print(f"{name}: {', '.join(names) or 'none'}")


def _of_a_gate(outcome: Outcome) -> str:
    """Every check, then what decided: those that fail once more where others stand between, and how many warn."""
    from fedkd.gate import FAIL, WARN

    lines = [f"{check.status:<13}{check.rule} [{check.target_group}]: {check.detail}" for check in outcome.checks]
    failing = [line for line, check in zip(lines, outcome.checks, strict=True) if check.status == FAIL]
    warnings = sum(check.status == WARN for check in outcome.checks)
    again = (
        ["", f"{len(failing)} failed, {warnings} warn, of {len(lines)} checks", *failing] if len(lines) > len(failing) else []
    )
    return "\n".join([*lines, *again, f"gate: {outcome.status}"])


def _pairs(changes: list[str] | None) -> str:
    """``key=value`` options as the inside of a TOML table; a bare word is taken as text."""
    parts = []
    for change in changes or []:
        key, sign, value = change.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"--set {change!r}: expected KEY=VALUE")
        parts.append(f"{key.strip()} = {_quoted(value.strip())}")
    return ", ".join(parts)


def _quoted(value: str) -> str:
    plain = value in ("true", "false") or value[:1] in ('"', "'", "[")
    try:
        float(value)
    except ValueError:
        return value if plain else json.dumps(value)
    return value


def _load(path: Path) -> dict[str, Any]:
    from fedkd import run_audit

    if path.is_dir():
        return _of_a_run(run_audit.path_of(path))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no such file: {path}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        raise ConfigError(f"{path.name} is not a readable JSON file") from None
    if not isinstance(content, dict) or "rows" not in content:
        raise ConfigError(f"{path.name} is no audit result; write one with: fedkd audit-scores FILE --output {path.name}")
    if content.get("kind") == run_audit.KIND:
        return _of_a_run(path)
    if content.get("schema") != 1:
        raise ConfigError(f"{path.name} has schema {content.get('schema')!r}; this version reads schema 1")
    return content


def _of_a_run(path: Path) -> dict[str, Any]:
    from fedkd import run_audit

    audit = run_audit.read(path)
    if wrong := run_audit.unsupported(audit):
        raise ConfigError(f"{path.name}: {wrong[0]}")
    return dict(audit.content)


def _say(text: str) -> None:
    """Print what a reader sees. Raises: ConfigError where it contains a word that no report may use."""
    from fedkd.verdict import check_words

    print(check_words(text))


def _write(path: Path, text: str) -> None:
    from fedkd.verdict import check_words

    try:
        path.write_text(check_words(text) if path.suffix != ".json" else text, encoding="utf-8")
    except OSError as error:
        missing = "" if path.parent.is_dir() else f" (there is no folder {path.parent})"
        raise ConfigError(f"cannot write {path}: {error.strerror}{missing}") from None


def _text(result: dict[str, Any]) -> str:
    from fedkd.verdict import row_from, show

    lines = [f"{line['threat_model']} [{line['target_group']}]: {line['text']}" for line in result["verdicts"]]
    lines += [f"control {c['name']}: {c['status']} ({c['detail']})" for c in result["controls"]]
    for row in map(row_from, result["rows"]):
        interval = f"[{show(row.low)}, {show(row.high)}]" if row.low is not None else row.reason
        lines.append(f"{row.target_group:<12}{row.statistic:<22}{show(row.value):<10}{interval}")
    return "\n".join(lines)


if __name__ == "__main__":
    app()
