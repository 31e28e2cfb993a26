"""The gate's JUnit file against the schema of continuous-integration viewers, read from its XSD by a small checker."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from fedkd.errors import ConfigError
from fedkd.gate import Check, Outcome
from fedkd.junit import to_junit

XS = "{http://www.w3.org/2001/XMLSchema}"
XSD = ElementTree.parse(Path(__file__).parent / "report" / "junit-10.xsd").getroot()
ELEMENTS = {e.get("name"): e for e in XSD.findall(f"{XS}element")}
PATTERNS = {t.get("name"): t.find(f".//{XS}pattern").get("value") for t in XSD.findall(f"{XS}simpleType")}
PATTERNS |= {"xs:nonNegativeInteger": r"\+?[0-9]+", "xs:string": r"(?s).*"}


def problems(node: Element) -> list[str]:
    """What of the schema a document breaks: unknown or missing attributes, their types, unknown children, stray text."""
    declared = ELEMENTS.get(node.tag)
    if declared is None:
        return [f"unknown element {node.tag}"]
    kind = declared.find(f"{XS}complexType")
    if kind is None:
        return [f"{node.tag} holds elements"] if len(node) else []
    attributes = {a.get("name"): a for a in kind.findall(f"{XS}attribute")}
    found = [f"{node.tag}: unknown attribute {name}" for name in node.attrib if name not in attributes]
    for name, a in attributes.items():
        value = node.get(name)
        if value is None:
            found += [f"{node.tag}: no {name}"] if a.get("use") == "required" else []
        elif not re.fullmatch(PATTERNS[a.get("type")], value):
            found.append(f"{node.tag}: {name} = {value!r}")
    children = {e.get("ref") for e in kind.iter(f"{XS}element")}
    found += [f"{child.tag} inside {node.tag}" for child in node if child.tag not in children]
    if kind.get("mixed") != "true" and (node.text or "").strip():
        found.append(f"{node.tag}: text")
    return found + [line for child in node for line in problems(child)]


CHECKS = tuple(
    Check(rule, group, status, "lower end 0.004, bar 0.003")
    for rule, group, status in (
        ("tpr_at_fpr_0.001", "features up | nearest_feature | all", "fail"),
        ("epsilon", "user_clip_noise | the releases of 12 rounds", "warn"),
        ("attacked", "ids up", "not_run"),
        ('ssim.low > 0.5 & "x" <y>', "cut 3", "not_failed"),
        ("control blind_baseline", "file", "inconclusive"),
    )
)


def test_the_file_follows_the_schema_of_viewers() -> None:
    root = ElementTree.fromstring(to_junit(Outcome("fail", CHECKS)))
    assert problems(root) == []
    assert {k: root.get(k) for k in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5", "failures": "1", "errors": "0", "skipped": "3",
    }  # fmt: skip
    assert [case.find("skipped").get("message").partition(":")[0] for case in root if case.find("skipped") is not None] == [
        "warn", "not_run", "inconclusive",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('tests="5"', 'tests="five"', "tests = 'five'"),
        ('errors="0" ', "", "no errors"),
        ("<failure", "<failed", "unknown element failed"),
        ("<testsuite ", '<testsuite status="x" ', "unknown attribute status"),
        ('time="0"', 'time="a while"', "time = 'a while'"),
        (' name="epsilon"', "", "testcase: no name"),
    ],
)
def test_the_checker_finds_what_is_wrong(old: str, new: str, said: str) -> None:
    text = to_junit(Outcome("fail", CHECKS))
    assert old in text
    assert any(said in line for line in problems(ElementTree.fromstring(text.replace(old, new))))


def test_characters_that_no_xml_may_hold_are_replaced() -> None:
    text = to_junit(Outcome("warn", (Check("rule", "a\x00b\x0b\ud800c", "warn", "d\x1be"),)))
    root = ElementTree.fromstring(text)
    assert problems(root) == []
    assert root[0].get("classname") == "gate.a\ufffdb\ufffd\ufffdc"


def test_banned_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="must not contain 'safe'"):
        to_junit(Outcome("fail", (Check("rule", "a safe group", "fail", ""),)))
