"""The words that no report may use, over all generated text and every place that writes some (specs: audit, section 8)."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedkd.cli import app
from fedkd.errors import ConfigError
from fedkd.report.comparison import compare
from fedkd.report.comparison_page import write_comparison
from fedkd.report.page import replace_text
from fedkd.verdict import BANNED, banned_in, check_words, quoted
from tests.report.audit_example import example, write_audit
from tests.report.conftest import write

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fedkd", "clients", "server", "simulations", "benchmarks")
WRITERS = ("write_text", "write_atomic", "replace_text", "write_bytes", "writelines")
"""Calls that put a file on disk."""
NO_TEXT = {
    ("fedkd/tokens.py", "part.write_text"): "a tokenizer",
    ("fedkd/bundle.py", "temporary.write_bytes"): "an archive of files that are checked where they are written",
    ("fedkd/report/page.py", "temporary.write_text"): "replace_text itself, which checks",
    ("fedkd/report/style.py", "target.with_suffix('.png').write_bytes"): "pixels",
    ("simulations/grids/ray_nodes.py", "(root / left).write_text"): "a mark between processes",
    ("simulations/grids/ray_nodes.py", "(root / mark).write_text"): "a mark between processes",
    ("benchmarks/speed/systems/stock.py", "(folder / package / '__init__.py').write_text"): "an empty module",
    ("benchmarks/speed/systems/stock.py", "settings.write_text"): "settings of a peer",
}
"""Calls that write no text for readers, or what is checked a line above, each with its reason."""
DATA = (".json", ".csv", ".npz", ".npy", ".safetensors", ".toml", ".jsonl")
"""Names of files that are no text for readers."""


def calls(path: Path) -> Iterator[tuple[str, str]]:
    """(what is called, the call as text) of everything that writes a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name.rpartition(".")[2] in WRITERS:
                yield name, ast.unparse(node)


def unchecked(relative: str, name: str, call: str) -> bool:
    """Whether a call may write text for readers that nobody held against the list."""
    checks = "check_words(" in call or name == "replace_text"
    data = "json.dumps" in call or any(f"{ending}'" in call or f'{ending}"' in call for ending in DATA)
    binary = re.search(r"getvalue\(\)|save(_weights|_bytes)?\(|_bytes\(|toml_of\(|, raw\)|, content\b|\.encode\(\)\)$", call)
    is_text = re.search(r"\.(md|html|xml|txt|svg)\b", call)
    return not checks and (bool(is_text) or not (data or binary or (relative, name) in NO_TEXT))


def test_every_writer_of_text_is_held_to_the_list() -> None:
    """A new ``write_text`` that neither checks its words nor writes data fails here: put ``check_words`` around its text."""
    found, seen = [], 0
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            relative = str(path.relative_to(ROOT))
            for name, call in calls(path):
                seen += 1
                if unchecked(relative, name, call):
                    found.append(f"{relative}: {call[:120]}")
    assert seen > 30, "the search finds what writes"
    assert found == []


@pytest.mark.parametrize(
    "call",
    [
        "(given.results / 'new.md').write_text(page, encoding='utf-8')",
        "target.write_text(page)",
        "write_atomic(folder / 'report.html', page(summary).encode())",
        "(results / f'{name}.xml').write_text(text)",
    ],
)
def test_a_new_writer_without_the_check_is_found(call: str) -> None:
    name = ast.unparse(ast.parse(call, mode="eval").body.func)  # type: ignore[attr-defined]
    assert unchecked("benchmarks/new.py", name, ast.unparse(ast.parse(call)))
    checked = re.sub(r"\b(page\(summary\)|page|text)(?=[,.)])", r"check_words(\1)", call)
    assert not unchecked("benchmarks/new.py", name, ast.unparse(ast.parse(checked)))


def test_every_print_of_the_command_is_checked_json_or_a_path() -> None:
    source = (ROOT / "fedkd" / "cli.py").read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            call = ast.unparse(node)
            plain = ("json.dumps", "sys.stderr", "check_words(", "(build(source))", "(build_audit(source))", "(target)")
            assert any(part in call for part in plain) or call == "print(f\"{name}: {', '.join(names) or 'none'}\")", call


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every kind of text that an audited and a compared run leave: file name -> text."""
    root = tmp_path_factory.mktemp("words")
    failure = {"round": 1, "client": 3, "node": 2, "error": "LoadError", "where": "a.py:8",
               "message": "weights_only: not in the list of safe globals; this is private"}  # fmt: skip
    runs = [write(root, name, method=name, rounds=3, failures=[failure]) for name in ("local", "fedavg")]
    write_audit(runs[0])
    assert CliRunner().invoke(app, ["report", str(runs[0])]).exit_code == 0
    write_comparison(compare(runs, pairs=[("fedavg", "local")]), root / "comparison")
    endings = (".html", ".md", ".xml", ".svg", ".json")
    return {str(p.relative_to(root)): p.read_text("utf-8") for p in sorted(root.rglob("*")) if p.suffix in endings}


def test_no_generated_text_uses_them(generated: dict[str, str]) -> None:
    kinds = {Path(name).name for name in generated}
    assert {"audit.html", "report.html", "model_card.md", "junit.xml", "gate.json", "comparison.html", "comparison.md"} <= kinds
    assert {name: banned_in(text) for name, text in generated.items() if banned_in(text)} == {}


def test_a_message_of_others_costs_no_page(generated: dict[str, str]) -> None:
    """A client's error holds two of the words: the page stands, and shows the rest of the message."""
    page = next(text for name, text in generated.items() if name.endswith("report.html"))
    assert "not in the list of [word taken out] globals; this [word taken out]" in page


@pytest.mark.parametrize("command", ["gate {run}", "gate {run} --format json", "verify {run}/audit/audit.json", "list"])
def test_nor_does_what_the_command_prints(command: str, tmp_path: Path) -> None:
    words = command.format(run=write_audit(write(tmp_path, rounds=2))).split()
    printed = CliRunner().invoke(app, words).output
    assert printed and banned_in(printed) == []


def test_committed_results_and_verdicts_do_not_use_them() -> None:
    pages = sorted((ROOT / "docs" / "results").glob("*.md"))
    assert len(pages) > 5
    assert {page.name: banned_in(page.read_text("utf-8")) for page in pages if banned_in(page.read_text("utf-8"))} == {}
    assert [line["text"] for line in example()["verdicts"] if banned_in(line["text"])] == []


def test_a_text_is_refused_and_data_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must not contain 'no leakage'"):
        replace_text(tmp_path / "a.html", "there is no  leakage")
    assert not list(tmp_path.iterdir())
    replace_text(tmp_path / "a.json", json.dumps({"reason": "safe"}))
    run = write_audit(write(tmp_path, rounds=2), {**example(), "run": {**example()["run"], "label": "a safe run"}})
    result = CliRunner().invoke(app, ["report", str(run)])
    assert result.exit_code == 2 and "must not contain 'safe'" in result.output


@pytest.mark.parametrize("phrase", BANNED)
def test_words_of_others_are_taken_out(phrase: str) -> None:
    spread = f"it {phrase.upper()} or {phrase.replace(' ', chr(10))}."
    assert banned_in(spread) == [phrase]
    assert check_words(quoted(spread)) == "it [word taken out] or [word taken out]."
    assert quoted("safetensors are unsafe") == "safetensors are unsafe"


def test_pixels_are_no_text() -> None:
    assert banned_in('href="data:image/png;base64,AAAA/safe+BB=="') == []
    assert banned_in("base64, safe") == ["safe"]
    assert banned_in("data:image/png;base64,AAAA and safe") == ["safe"]
