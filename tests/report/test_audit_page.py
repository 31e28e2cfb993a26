"""The audit's page: the specification's sections in order, every verdict line in its wording, complete in itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkd import run_audit
from fedkd.errors import ConfigError
from fedkd.gate import Config, apply
from fedkd.report import build as build_run
from fedkd.report.audit import _page, build
from fedkd.report.audit_channels import frontier, point, read_pairs
from fedkd.report.audit_figures import band
from fedkd.report.audit_frontier import write_frontier
from fedkd.report.model_card import model_card
from fedkd.verdict import banned_in
from tests.report.audit_example import example, write_audit
from tests.report.html_page import Page

ZEROS = np.zeros((2, 3, 3), np.float32)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the example audit and its page; read only."""
    from tests.report.conftest import write

    run = write_audit(write(tmp_path_factory.mktemp("audited"), rounds=6))
    build_run(run)
    build(run)
    return run


def html(run: Path) -> str:
    return (run / "audit" / "audit.html").read_text(encoding="utf-8")


def test_the_sections_stand_in_the_order_of_the_specification(audited: Path) -> None:
    assert re.findall(r'<h2 id="(.*?)">', html(audited)) == [
        "system", "threats", "design", "guarantee", "memorization", "membership", "epsilon", "channels", "trade-off", "limits",
        "reproduction",
    ]  # fmt: skip


def test_verdicts_come_first_word_for_word(audited: Path) -> None:
    content, page = example(), Page(html(audited)).text
    for line in content["verdicts"]:
        assert line["text"] in page
        assert page.index(line["text"]) < page.index("System")
    leaks = sum(line["text"].startswith("leak shown") for line in content["verdicts"])
    assert f"leak shown: {leaks}" in page
    assert f"{len(content['verdicts'])} verdict lines: {leaks} leak shown, 1 no leak shown, 1 not tested" in page


def test_the_page_is_complete_in_itself_and_well_formed(audited: Path) -> None:
    text = html(audited)
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert not [a for a in page.addresses if not a.startswith(("#", "data:image/png;base64,"))]
    assert not re.search(r"https?://|@import|<script", text)
    assert "prefers-color-scheme:dark" in text and "@media print" in text and 'name="viewport"' in text
    assert banned_in(text) == []
    assert "mathdefault" not in text and "{{" not in text and "{%" not in text and "None" not in page.text


def test_every_figure_that_the_example_has_data_for_is_drawn_and_saved(audited: Path) -> None:
    text = html(audited)
    drawn = re.findall(r'<figure id="(.*?)">', text)
    names = ["exposure", "roc", "auc", "scores", "epsilon-bracket", "rounds-1", "rounds-2", "inversion"]
    names += ["pairs-cut1", "pairs-cut2"]
    assert drawn == names, "one run alone has no frontier"
    assert {p.stem for p in (audited / "audit" / "figures").iterdir()} == set(names)
    assert text.count("<figcaption><b>") == len(names)


def test_channels_bracket_and_rank_are_printed_with_their_intervals(audited: Path) -> None:
    page = Page(html(audited)).text
    assert "features up features, labels server none no 153 kB 1–20 features_membership, inversion, linkage" in page
    assert "user_clip_noise: epsilon at least 1.9 for who sees the releases of 20 rounds; at most 4 by the accountant" in page
    assert "at least 1.9" in page and "6.2" in page
    assert re.search(r"0\.75 \[0\.71, 0\.79\]", page) and "of 1,000" in page
    assert "No guarantee: features, scores of each client leave without accounted noise." in page
    assert "Not run: gradient_inversion: does not apply: no gradient leaves a client" in page


def test_the_page_names_the_audit_that_it_shows(audited: Path) -> None:
    digest = run_audit.read(run_audit.path_of(audited)).sha256
    assert f'<meta name="fedkd-audit-sha256" content="{digest}">' in html(audited)


def test_a_recorded_guarantee_stands_under_its_headings_and_names_are_escaped(write_run: Callable[..., Path]) -> None:
    content = example()
    content["run"]["guarantee"] = "epsilon <= 4 at delta = 1e-05 for client 3, the largest of 20. Unit: user, add/remove."
    content["run"]["privacy"] = {
        "statements": [
            {"epsilon": 4.0, "delta": 1e-5, "unit": "user", "adjacency": "add/remove", "accountant": "dp-accounting: PLD",
             "adversary": "those who see only aggregates", "outside": ["timing", "stopping chosen on validation data"]}
        ]
    }  # fmt: skip
    content["run"]["label"] = "<script>alert(1)</script>"
    run = write_audit(write_run(rounds=2), content, pairs=False)
    text = build(run).read_text()
    page = Page(text).text
    for said in ("Epsilon and unit", "What can void it: the algorithm", "Trust and data collection", "Outside of it",
                 "Bias and utility", "timing; stopping chosen on validation data", "dp-accounting: PLD"):  # fmt: skip
        assert said in page
    assert "pairs-cut1" not in text
    assert "<script>" not in text and "&lt;script&gt;" in text, "names of others are escaped"


def test_the_run_page_shows_the_verdict_lines_and_a_link(audited: Path, write_run: Callable[..., Path]) -> None:
    text = (audited / "report.html").read_text()
    page = Page(text)
    assert all(line["text"] in page.text for line in example()["verdicts"])
    assert 'href="audit/audit.html"' in text and "nothing here was attacked" not in page.text
    assert "not audited" not in page.text
    bare = Page(build_run(write_run("bare", rounds=3)).read_text()).text
    assert "not audited: run python -m simulations audit CONFIG" in bare


def test_an_audit_of_another_state_is_not_shown_on_the_run_page(write_run: Callable[..., Path]) -> None:
    content = example()
    content["run"]["final_state_sha256"] = "c" * 64
    run = write_audit(write_run(rounds=3), content)
    page = Page(build_run(run).read_text()).text
    assert "The audit in this folder is of another final state than the run's" in page
    assert "not audited" in page


def test_a_broken_audit_costs_the_run_page_nothing(write_run: Callable[..., Path]) -> None:
    run = write_audit(write_run(rounds=3))
    (run / "audit" / "audit.json").write_text('{"schema": 1')
    assert "audit.json is not a readable JSON file" in Page(build_run(run).read_text()).text
    with pytest.raises(ConfigError, match="not a readable JSON file"):
        build(run)


def test_a_run_without_an_audit_is_refused_with_the_command(write_run: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="not audited: run python -m simulations audit CONFIG"):
        build(write_run(rounds=3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["verdicts"][0].update(text="leak shown: auc 0.9 [0.8, 1]"), "does not follow from the rows"),
        (lambda c: c["verdicts"][0].update(text="not tested: no time"), "does not follow from the rows"),
        (lambda c: c["verdicts"].append({**c["verdicts"][-1], "text": "not tested: because"}), "does not follow"),
        (lambda c: c["verdicts"][0].update(text="all is well"), "does not match"),
        (lambda c: c["rows"][0].update(low=0.9, high=0.95), "outside of its interval"),
        (lambda c: c.pop("channels"), "'channels' is a required property"),
        (lambda c: c["rows"][0].update(status="fine"), "is not one of"),
    ],
)
def test_what_does_not_follow_is_refused(change: Callable[[Any], Any], message: str, write_run: Callable[..., Path]) -> None:
    content = example()
    change(content)
    run = write_audit(write_run(rounds=2), content)
    with pytest.raises(ConfigError, match=message):
        build(run)


def test_a_leak_that_its_line_hides_is_refused() -> None:
    content = example()
    shown = next(r for r in content["rows"] if r["status"] == "no leak shown" and r["view"] == "features up")
    line = next(v for v in content["verdicts"] if v["target_group"] == shown["target_group"])
    line["text"] = f"no leak shown at detectable size {shown['statistic']} {shown['detectable']:.4g}"
    audit = run_audit.parse(json.dumps(content).encode())
    assert any("its line does not say so" in problem for problem in run_audit.unsupported(audit))


def test_a_banned_name_is_refused_before_anything_is_written(write_run: Callable[..., Path]) -> None:
    content = example()
    content["run"]["label"] = "our safe run"
    audit = run_audit.parse(json.dumps(content).encode())
    with pytest.raises(ConfigError, match="must not contain 'safe'"):
        _page(audit, [])
    with pytest.raises(ConfigError, match="must not contain 'safe'"):
        model_card(audit, apply(content, Config()))


@pytest.mark.slow
def test_same_audit_same_page_and_bundle(audited: Path) -> None:
    names = ("audit.html", "bundle.zip", "model_card.md", "junit.xml")
    before = {name: (audited / "audit" / name).read_bytes() for name in names}
    build(audited)
    assert before == {name: (audited / "audit" / name).read_bytes() for name in before}


def test_the_band_is_clopper_pearson_at_each_point() -> None:
    """At TPR 1/2 of 4 members: hits 2 of 4, [0.0676, 0.9324] (beta quantiles); at 0 of 4: [0, 1 - 0.025**(1/4)]."""
    low, high = band({"tpr": [0.0, 0.5]}, 4)
    np.testing.assert_allclose(low, [0.0, 0.0676], atol=1e-4)
    np.testing.assert_allclose(high, [1 - 0.025**0.25, 0.9324], atol=1e-4)
    own = band({"tpr": [0.5], "tpr_low": [0.4], "tpr_high": [0.6]}, 4)
    assert (own[0].tolist(), own[1].tolist()) == ([0.4], [0.6])
    assert band({"tpr": [0.5]}, 0) == (None, None)


def test_the_frontier_takes_the_strongest_attack_by_its_lower_end(tmp_path: Path) -> None:
    from tests.report.conftest import write

    found = {}
    for name, leak in (("none", 0.9), ("pool", 0.4)):
        run = write_audit(write(tmp_path, name, rounds=2), example(leak, name, 0.8), pairs=False)
        found[name] = point(run_audit.read(run_audit.path_of(run)))
    content = example(0.9)
    aucs = [r for r in content["rows"] if r["statistic"] == "auc" and r["low"] is not None]
    best = max(aucs, key=lambda r: r["low"])
    assert found["none"].auc == (best["value"], best["low"], best["high"])
    assert found["none"].gain == pytest.approx((0.44, 0.40, 0.48)) and found["none"].gain_of.startswith("cut 1")
    assert found["none"].megabytes == 66.0 and found["none"].alive is None
    assert frontier([found["none"]]) is None
    picture = frontier(list(found.values()))
    assert picture is not None and "FedD2S-avg, pool" in picture.svg


def test_the_copy_for_evidence_holds_no_image_of_a_client(audited: Path) -> None:
    with zipfile.ZipFile(audited / "audit" / "bundle.zip") as archive:
        copy = archive.read("audit.html").decode()
    assert "base64" in html(audited) and "base64" not in copy
    assert "Pairs of true and rebuilt images are not in this copy" in Page(copy).text
    assert not [n for n in zipfile.ZipFile(audited / "audit" / "bundle.zip").namelist() if n.endswith((".npz", ".safetensors"))]


def test_the_page_over_runs_names_dead_models_and_gates(tmp_path: Path) -> None:
    from tests.report.conftest import write

    runs = []
    for name, accuracy in (("none", 0.8), ("noise", 0.3)):
        content = example(0.5, name, accuracy)
        content["utility"]["guess"] = 0.4
        runs.append(write_audit(write(tmp_path, name, rounds=2), content, pairs=False))
    page = Page(write_frontier(runs, tmp_path / "frontier.html", "make audit-demo", ["Data: digits."]).read_text()).text
    assert "Alive, that is above always naming a client's most frequent label: FedD2S-avg, none." in page
    assert "Dead: FedD2S-avg, noise." in page
    assert page.count("fail: exposure_r1 [released | label strings]") == 2
    assert "Data: digits." in page and (tmp_path / "figures/frontier.svg").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"cut1_true": ZEROS, "cut1_rebuilt": ZEROS * np.nan}, "expected finite"),
        ({"cut1_true": ZEROS, "cut1_rebuilt": ZEROS[:1]}, "do not pair"),
        ({"cut1_true": np.zeros((2, 999, 3), np.float32)}, "expected finite"),
        ({"cut1_true": np.array([{}], dtype=object)}, "pairs.npz"),
    ],
)
def test_images_of_another_form_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "pairs.npz", **arrays)
    with pytest.raises(ConfigError, match=message):
        read_pairs(tmp_path / "pairs.npz")


def test_pages_need_no_torch() -> None:
    code = (
        "import sys, fedkd.report.audit, fedkd.report.audit_frontier, fedkd.gate_run, fedkd.bundle, fedkd.run_audit; "
        "assert not {'torch', 'flwr', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
