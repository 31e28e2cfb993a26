"""The run's page: golden facts, self-containment, banned words, and folders that lack or break things."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fedkd import schemas
from fedkd.errors import ConfigError
from fedkd.report import build
from tests.report.html_page import Page

BANNED = r"\bsafe\b|is private|is anonymous|is secure|protects privacy|no leakage|privacy guaranteed"
FAILURE = {
    "round": 7, "client": 3, "node": 2, "error": "UploadError", "where": "codec.py:88",
    "message": "<script>alert(1)</script> & shape (64, 12)",
}  # fmt: skip


def read(path: Path) -> Page:
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert not re.search(BANNED, html, re.IGNORECASE), re.search(BANNED, html, re.IGNORECASE)
    assert "http:" not in html
    assert "https:" not in html
    assert "@import" not in html
    assert all(address.startswith("#") for address in page.addresses), page.addresses
    assert len(page.ids) == len(set(page.ids)), "an id occurs twice"
    assert {address[1:] for address in page.addresses} <= set(page.ids)
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    return page


def rewrite(folder: Path, **changes: Any) -> None:
    file = folder / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_page_prints_the_summary(demo: tuple[Path, Path]) -> None:
    folder = demo[0]
    page = read(folder / "report.html")
    summary = json.loads((folder / "summary.json").read_text())
    for key in ("accuracy_mean", "accuracy_worst_decile", "accuracy_std"):
        assert f"{100 * summary[key]:.2f}" in page.text
    assert f"{summary['bytes_up_client_round'] / 1e3:.0f} kB" in page.text
    assert f"{(summary['bytes_up'] + summary['bytes_down']) / 1e6:.0f} MB" in page.text
    assert summary["final_state_sha256"] in page.text
    assert "FedD2S-avg (ours), method fedd2s, trained the model cnn_small for 40 rounds on digits" in page.text
    assert "python -m simulations run configs/demo.toml --set seed=0" in page.text
    assert "No privacy guarantee is computed for this run; nothing here was attacked." in page.text
    assert "not audited: run python -m simulations audit CONFIG, which runs the configuration again" in page.text
    assert "level 4 from round 1, level 3 from round 21, level 2 from round 31, level 1 from round 37" in page.text
    assert "partition.args alpha = 0.5" in page.text
    assert "version of flwr 1.41.0" in page.text


def test_the_sections_stand_in_order(demo: tuple[Path, Path]) -> None:
    html = (demo[0] / "report.html").read_text()
    heads = re.findall(r"<h2>(.*?)</h2>", html)
    assert heads == [
        "Privacy audit", "Accuracy per round", "Accuracy of each client", "Who holds which labels",
        "Which layers are in the federation",
        "Bytes per round", "Failures", "Configuration", "Environment", "How to reproduce",
    ]  # fmt: skip
    assert 'name="viewport"' in html
    assert "prefers-color-scheme:dark" in html
    assert "@media print" in html
    assert html.count("<figcaption>") == 5


def test_keys_that_differ_from_their_defaults_come_first(demo: tuple[Path, Path]) -> None:
    text = read(demo[0] / "report.html").text
    own, rest = text.index("Keys that this run sets"), text.index("Keys at their defaults")
    assert own < text.index("name demo") < rest < text.index("learning-rate 0.05")


def test_foreign_text_is_escaped_and_rounds_count_from_one(write_run: Callable[..., Path]) -> None:
    folder = write_run(label="$x^2$ <b>", failures=[FAILURE], rounds=2, clients=2, classes=2)
    page = read(build(folder))
    assert "b" not in page.tags
    assert "$x^2$ <b>" in page.text
    assert "8 3 2 UploadError codec.py:88 <script>alert(1)</script> & shape (64, 12)" in page.text
    assert "1 client-round failed, over 1 client: UploadError (1)." in page.text


def test_a_local_run_is_paired_by_client(demo: tuple[Path, Path]) -> None:
    folder, local = demo
    own, alone = (json.loads((f / "summary.json").read_text())["accuracy_clients"] for f in (folder, local))
    gains = [100 * (own[c] - alone[c]) for c in own]
    page = read(folder / "report.html")
    assert f"that is {sum(gains) / 20:+.2f} points on average" in page.text
    assert f"{sum(g >= 0 for g in gains)} of 20 clients did not lose by taking part." in page.text


def test_a_local_run_on_other_data_is_not_paired(write_run: Callable[..., Path]) -> None:
    small = {"rounds": 2, "clients": 2, "classes": 2}
    page = read(build(write_run("demo", **small), [write_run("local", method="local", seed=1, **small)]))
    assert "is not paired: its partition or seed may differ" in page.text
    assert "Against training alone" not in page.text


@pytest.mark.parametrize(
    "missing",
    ["config.toml environment.json", "summary.json failures.jsonl", "partition.json clients.jsonl", "rounds.jsonl"],
)
def test_files_may_be_missing(missing: str, write_run: Callable[..., Path]) -> None:
    folder = write_run(rounds=2, clients=2, classes=2)
    for name in missing.split():
        (folder / name).unlink()
    page = read(build(folder))
    for name in missing.split():
        assert (f"Could not be read: {name}" in page.text) is (name != "failures.jsonl")
    if "summary.json" in missing:
        assert "The run is unfinished: 2 rounds on record, so no number below is a result." in page.text
        assert "n/a" in page.text
        assert "nan" not in page.text.lower().split()


def test_only_a_config_is_enough_and_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run folder"):
        build(tmp_path / "absent")
    with pytest.raises(ConfigError, match="holds neither"):
        build(tmp_path)
    (tmp_path / "config.toml").write_text('"method.name" = "local"\nname = "demo"\n')
    page = read(build(tmp_path))
    assert "Nothing was recorded that could be drawn." in page.text
    assert "svg" not in page.tags


def test_nulls_nan_and_a_cut_line(write_run: Callable[..., Path]) -> None:
    folder = write_run(rounds=3, clients=3, classes=3)
    rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    rows[1] |= {"accuracy_mean": None, "accuracy_worst_decile": None, "teachers": None}
    rows[2] |= {"accuracy_mean": float("nan")}
    (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"round": 3, "acc')
    rewrite(folder, accuracy_mean=None, accuracy_worst_decile=None, accuracy_clients={"0": None, "x": 0.5}, seconds=None)
    page = read(build(folder))
    assert "No accuracy was recorded for it." in page.text
    assert "rounds.jsonl line 4: not valid JSON (cut off while it was written)" in page.text


def test_one_client_one_round_and_twice_the_same_bytes(write_run: Callable[..., Path]) -> None:
    folder = write_run(clients=1, rounds=1)
    page = read(build(folder))
    assert "for 1 round on digits, spread over 1 client " in page.text
    assert "(all scored rounds)" in page.text
    first = (folder / "report.html").read_bytes()
    assert build(folder).read_bytes() == first
    assert not list(folder.glob(".*")), "a temporary file was left"


def test_a_failed_run_says_so_first(write_run: Callable[..., Path]) -> None:
    folder = write_run(status="failed", rounds=5, clients=3, classes=3, failures=[FAILURE] * 60)
    html = build(folder).read_text()
    assert '<p class="verdict bad">' in html
    text = read(folder / "report.html").text
    assert "was to train the model cnn_small" in text
    assert "The run is failed: 5 rounds on record" in text
    assert "The first 50 are listed; the other 10 are in failures.jsonl." in text


def test_a_run_that_broke_off_gives_its_reason(write_run: Callable[..., Path]) -> None:
    folder = write_run(rounds=2, clients=2, classes=2)
    (folder / "summary.json").unlink()
    status = {"schema": 1, "exit_code": 1, "status": "failed", "reason": "RunError: too few replies."}
    jsonschema.validate(status, schemas.load("status"))
    (folder / "status.json").write_text(json.dumps(status))
    text = read(build(folder)).text
    assert "The run is failed: 2 rounds on record, so no number below is a result." in text
    assert "The reason given: RunError: too few replies. No accuracy was recorded for it." in text


def test_a_recorded_guarantee_is_printed_with_all_its_fields(write_run: Callable[..., Path]) -> None:
    folder = write_run(rounds=3, clients=3, classes=3)
    rewrite(folder, privacy={"epsilon": 3.2, "delta": 1e-5, "unit": "client"}, audits=[{"attack": "membership", "auc": 0.5}])
    text = read(build(folder)).text
    assert "epsilon 3.2 delta 1e-05 unit client" in text
    assert "attack membership auc 0.5" in text
    assert "No privacy guarantee" not in text
    assert "A guarantee was computed. It holds only with the unit and assumptions" in text


def test_a_mechanism_says_what_it_did_and_what_it_did_not_protect(write_run: Callable[..., Path]) -> None:
    folder = write_run(rounds=3, clients=3, classes=3)
    said = {"name": "swing", "statement": "Soft labels leave flatter.", "not_protected": ["features", "labels"],
            "charges": {"0": 12, "1": 7}, "charges_max": 12}  # fmt: skip
    rewrite(folder, mechanism=said)
    text = read(build(folder)).text
    assert "Soft labels leave flatter. Not protected: features, labels, the final models." in text
    assert "0: 12, 1: 7" in text
    assert "No privacy guarantee is computed" in text


def test_torch_is_not_imported(write_run: Callable[..., Path]) -> None:
    folder = write_run(rounds=2, clients=2)
    code = (
        "import sys, pathlib, fedkd.report, fedkd.report.comparison\n"
        "assert not {'torch', 'matplotlib', 'jinja2'} & set(sys.modules), 'imported early'\n"
        f"fedkd.report.build(pathlib.Path({str(folder)!r}))\n"
        "print(sorted({'torch', 'flwr', 'ray', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
