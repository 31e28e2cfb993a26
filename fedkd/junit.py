"""The gate's outcome as JUnit XML, the form that continuous-integration servers read (schema: Jenkins' ``junit-10.xsd``)."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from fedkd.gate import FAIL, NOT_FAILED, Outcome
from fedkd.verdict import check_words

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML 1.0 file may hold, not even escaped: one of them in a group's name would lose the whole file."""


def to_junit(outcome: Outcome) -> str:
    """One test case per check: fail is a failure; warn, inconclusive and not run are skips that name their status.

    Raises: ConfigError where a name contains a word that no report may use.
    """
    failures = sum(check.status == FAIL for check in outcome.checks)
    skipped = sum(check.status not in (FAIL, NOT_FAILED) for check in outcome.checks)
    counts = {"tests": str(len(outcome.checks)), "failures": str(failures), "errors": "0", "skipped": str(skipped)}
    suite = ElementTree.Element("testsuite", {"name": "fedkd gate", **counts, "time": "0"})
    for check in outcome.checks:
        named = {"classname": _clean(f"gate.{check.target_group}"), "name": _clean(check.rule), "time": "0"}
        case = ElementTree.SubElement(suite, "testcase", named)
        if check.status == FAIL:
            ElementTree.SubElement(case, "failure", type="gate", message=_clean(check.detail))
        elif check.status != NOT_FAILED:
            ElementTree.SubElement(case, "skipped", message=_clean(f"{check.status}: {check.detail}"))
    ElementTree.indent(suite)
    return check_words('<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n")


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
