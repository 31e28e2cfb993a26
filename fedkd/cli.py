"""Console script ``fedkd``: audit anyone's scores, gate a result, write its page, list plug-ins. No torch, no Flower.

Exit codes: 0 done or not failed, 1 the gate failed, 2 usage or configuration, 3 warn or inconclusive.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec

import typer

from fedkd.errors import ConfigError

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
    print(json.dumps(result, indent=1) if form == "json" else _text(result))


@app.command()
@_usage_errors
def gate(
    result: Annotated[Path, typer.Argument(help="Result file of audit-scores.")],
    fail_if: Annotated[list[str] | None, typer.Option(help='Own rule, e.g. "auc.low > 0.55"; repeatable.')] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the outcome as JSON here.")] = None,
    changes: SetOption = None,
    form: FormatOption = "text",
) -> None:
    """Apply the preset rules to a result: exit code 0 not failed, 1 fail, 3 warn or inconclusive."""
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
        for check in outcome.checks:
            print(f"{check.status:<13}{check.rule} [{check.target_group}]: {check.detail}")
        print(f"gate: {outcome.status}")
    raise typer.Exit(outcome.exit_code)


@app.command()
@_usage_errors
def report(
    source: Annotated[Path, typer.Argument(help="Result file of audit-scores, or the folder of a run.")],
    output: Annotated[Path | None, typer.Option(help="Page to write; default: beside the result.")] = None,
) -> None:
    """Write the one-page HTML report of a result file or of a run's folder."""
    if source.is_dir():
        from fedkd.report import build

        print(build(source))
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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no such file: {path.name}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        raise ConfigError(f"{path.name} is not a readable JSON file") from None
    if not isinstance(content, dict) or "rows" not in content:
        raise ConfigError(f"{path.name} is no audit result; write one with: fedkd audit-scores FILE --output {path.name}")
    if content.get("schema") != 1:
        raise ConfigError(f"{path.name} has schema {content.get('schema')!r}; this version reads schema 1")
    return content


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path.name}: {error.strerror}") from None


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
