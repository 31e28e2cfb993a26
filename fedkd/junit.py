"""The gate's outcome as JUnit XML, the form that continuous-integration servers read."""

from __future__ import annotations

from xml.etree import ElementTree

from fedkd.gate import FAIL, NOT_FAILED, Outcome


def to_junit(outcome: Outcome) -> str:
    """One test case per check: fail is a failure; warn, inconclusive and not run are skips that name their status."""
    failures = sum(check.status == FAIL for check in outcome.checks)
    skipped = sum(check.status not in (FAIL, NOT_FAILED) for check in outcome.checks)
    counts = {"tests": str(len(outcome.checks)), "failures": str(failures), "errors": "0", "skipped": str(skipped)}
    suite = ElementTree.Element("testsuite", {"name": "fedkd gate", **counts})
    for check in outcome.checks:
        case = ElementTree.SubElement(suite, "testcase", classname=f"gate.{check.target_group}", name=check.rule)
        if check.status == FAIL:
            ElementTree.SubElement(case, "failure", message=check.detail)
        elif check.status != NOT_FAILED:
            ElementTree.SubElement(case, "skipped", message=f"{check.status}: {check.detail}")
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"
