"""Licences of the lock file: what metadata mean, what is allowed, and that today's packages pass."""

from __future__ import annotations

import json
from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest
from tools.licences import Policy, is_allowed, licence_of, locked, main, read_policy, rows

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = frozenset({"MIT", "Apache-2.0", "BSD-3-Clause"})


def about(**fields: str | list[str]) -> Message:
    message = Message()
    for name, value in fields.items():
        for one in [value] if isinstance(value, str) else value:
            message[name.replace("_", "-")] = one
    return message


@pytest.mark.parametrize(
    ("found", "spdx"),
    [
        (about(License_Expression="Apache-2.0 AND MIT"), "Apache-2.0 AND MIT"),
        (about(License_Expression="MPL-2.0 AND (Apache-2.0 OR MIT)"), "MPL-2.0 AND (Apache-2.0 OR MIT)"),
        (about(License="Apache 2.0"), "Apache-2.0"),
        (about(License="3-Clause BSD License"), "BSD-3-Clause"),
        (about(License="MIT", Classifier="License :: OSI Approved :: Apache Software License"), "MIT"),
        (about(Classifier=["License :: OSI Approved :: MIT License", "Programming Language :: Python"]), "MIT"),
        (about(Classifier=["License :: OSI Approved :: MIT License", "License :: OSI Approved :: Apache Software License"]), "Apache-2.0 AND MIT"),
        # names no version: which of them it is cannot be told
        (about(Classifier="License :: OSI Approved :: BSD License"), ""),
        (about(License="UNKNOWN"), ""),
        (about(License="Copyright 2026 somebody. Permission is hereby granted"), ""),
        (about(), ""),
    ],
)
def test_what_metadata_mean(found: Message, spdx: str) -> None:
    assert licence_of(found) == spdx


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-2.0-only OR (MIT AND Apache-2.0)", True),
        ("(MIT OR GPL-2.0-only) AND MPL-2.0", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
    ],
)
def test_expressions_are_weighed(expression: str, allowed: bool) -> None:
    assert is_allowed(expression, ALLOWED) is allowed


@pytest.mark.parametrize("expression", ["", "MIT AND", "(MIT", "MIT MIT", "OR MIT", "MIT)"])
def test_what_is_no_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="SPDX"):
        is_allowed(expression, ALLOWED)


def test_each_refusal_has_its_words_and_exceptions_their_reason() -> None:
    installed = {
        "fine": about(Version="1", License="MIT"),
        "silent": about(Version="1"),
        "copyleft": about(Version="1", License="GPL-3.0-only"),
        "excused": about(Version="1", License="MPL-2.0"),
        "other": about(Version="2", License="MIT"),
    }

    def ask(name: str) -> Message:
        try:
            return installed[name]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    found = {row.package: row for row in rows([(name, "1") for name in (*installed, "absent")], Policy(ALLOWED, {"excused": "as it is"}), ask)}
    assert {name: row.problem.split(":", 1)[0] for name, row in found.items()} == {
        "fine": "",
        "silent": "its metadata name no licence that is known",
        "copyleft": "its licence is not in `allowed`",
        "excused": "",
        "other": "is installed as 2",
        "absent": "is not installed",
    }
    assert [name for name, row in found.items() if row.copyleft] == ["copyleft", "excused"]
    assert [name for name, row in found.items() if row.unknown] == ["silent", "absent"]


def test_what_runs_in_the_image_is_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--json"])
    told = capsys.readouterr()
    assert code == 0, told.err
    listed = json.loads(told.out)
    assert {"kopf", "grpcio", "pydantic", "xds-protos"} <= {row["package"] for row in listed}
    assert len(listed) == (ROOT / "requirements" / "runtime.txt").read_text().count("==")
    assert {row["package"] for row in listed if row["copyleft"]} <= read_policy(ROOT / "requirements" / "licences.toml").exceptions.keys()


def test_the_table_is_for_people_and_a_refusal_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "licences.toml"
    policy.write_text('allowed = ["MIT"]\n[exceptions]\n')
    lock = tmp_path / "lock.txt"
    lock.write_text("kopf==1\\\n    --hash=sha256:00\nCertifi==2\n")
    assert locked(lock.read_text()) == [("certifi", "2"), ("kopf", "1")]
    assert main(["--lock", str(lock), "--policy", str(policy)]) == 1
    told = capsys.readouterr()
    assert told.out.splitlines()[0].split() == ["PACKAGE", "VERSION", "LICENCE"]
    assert "error: kopf 1" in told.err


def test_an_empty_lock_file_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "lock.txt").write_text("# nothing\n")
    assert main(["--lock", str(tmp_path / "lock.txt")]) == 1


def test_the_notice_is_there_and_the_licence_is_the_unchanged_text() -> None:
    assert (ROOT / "NOTICE").read_text().startswith("modelfleet\nCopyright ")
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Copyright [yyyy] [name of copyright owner]" in text, "the appendix is a form for others to copy; our own notice is in NOTICE"
