"""What pip-audit's answers amount to: a hole, none, or that nobody can tell."""

from __future__ import annotations

import json

from tools.audit import verdict

CLEAN = {"name": "a", "version": "1", "vulns": []}
HOLE = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"], "aliases": ["CVE-1"]}]}


def told(*packages: dict[str, object]) -> str:
    return json.dumps({"dependencies": list(packages), "fixes": []})


def test_no_hole_is_0() -> None:
    found = verdict(told(CLEAN), "", "runtime.txt")
    assert (found.code, found.text) == (0, "1 packages of runtime.txt: no known vulnerability")


def test_a_hole_is_1_and_is_named_with_its_cure() -> None:
    found = verdict(told(CLEAN, HOLE), "Found 1 known vulnerability", "runtime.txt")
    assert found.code == 1
    assert "b 2: PYSEC-1 (CVE-1), fixed in 2.1" in found.text
    assert "make lock" in found.text


def test_a_database_that_does_not_answer_is_2_and_says_so() -> None:
    found = verdict("", "ERROR:pip_audit._cli:Could not connect to the service", "runtime.txt")
    assert found.code == 2
    assert "could not be asked" in found.text
    assert found.text.endswith("pip-audit says: Could not connect to the service")


def test_a_package_that_was_passed_over_is_no_success() -> None:
    assert verdict(told(CLEAN, {"name": "c", "skip_reason": "not found"}), "", "runtime.txt").code == 2


def test_an_empty_answer_is_no_success() -> None:
    assert verdict(told(), "", "runtime.txt").code == 2
