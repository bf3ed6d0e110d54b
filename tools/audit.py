"""Known vulnerabilities of what runs in the image: pip-audit over a hash-locked file, with an answer that cannot be mistaken.

pip-audit ends with 1 both for a vulnerability and for a database that it cannot ask, and without ``--strict`` passes over what it could not look up. Here: 0
none known, 1 some are, 2 nobody can tell.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Verdict", "main", "verdict"]

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Verdict:
    """``code``: as in the module's text. ``text``: for a person."""

    code: int
    text: str


def verdict(answer: str, complaints: str, lock: str) -> Verdict:
    """What pip-audit's JSON, or its lack, and its complaints amount to."""
    try:
        found: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        found = []
    unheard = sorted(d["name"] for d in found if "skip_reason" in d)
    if not found or unheard:
        said = next((line for line in complaints.splitlines() if line.startswith("ERROR")), ", ".join(unheard)).removeprefix("ERROR:pip_audit._cli:")
        return Verdict(
            2, f"{lock} was not audited: the advisory database could not be asked. This command needs the internet.\npip-audit says: {said or 'nothing'}"
        )
    lines = [_line(package, hole) for package in found for hole in package.get("vulns", [])]
    if lines:
        return Verdict(1, "\n".join([*sorted(lines), f"{len(lines)} known vulnerabilities in {lock}: raise the versions in pyproject.toml, then `make lock`"]))
    return Verdict(0, f"{len(found)} packages of {lock}: no known vulnerability")


def _line(package: dict[str, Any], hole: dict[str, Any]) -> str:
    cure = f"fixed in {', '.join(hole['fix_versions'])}" if hole.get("fix_versions") else "no fix yet"
    return f"{package['name']} {package['version']}: {hole['id']} ({', '.join(hole.get('aliases', [])) or 'no alias'}), {cure}"


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, print, and end with the verdict's code."""
    parser = argparse.ArgumentParser(description="Known vulnerabilities of the packages in a hash-locked file.")
    parser.add_argument("--lock", type=Path, default=ROOT / "requirements" / "runtime.txt")
    parser.add_argument("--service", choices=["pypi", "osv"], default="pypi", help="whose advisories to ask")
    given = parser.parse_args(argv)
    # hashes say that the file is complete, so nothing needs to be resolved or downloaded
    flags = ["--strict", "--require-hashes", "--disable-pip", "--progress-spinner=off", "--format=json", f"--vulnerability-service={given.service}"]
    command = [sys.executable, "-m", "pip_audit", *flags, "--requirement", str(given.lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    found = verdict(done.stdout, done.stderr, given.lock.name)
    (sys.stdout if found.code == 0 else sys.stderr).write(found.text + "\n")
    return found.code


if __name__ == "__main__":
    sys.exit(main())
