"""The licences of what runs in the image: every package of a lock file, what its installed metadata say, and whether that is allowed.

Decided here: which text of the metadata counts (``License-Expression``, else ``License``, else classifiers) and what it means in SPDX. What is allowed is
decided in requirements/licences.toml.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.metadata import PackageMetadata
from pathlib import Path

__all__ = ["Policy", "Row", "is_allowed", "licence_of", "locked", "main", "read_policy", "rows"]

ROOT = Path(__file__).resolve().parents[1]
_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)
_TOKEN = re.compile(r"\(|\)|[A-Za-z0-9.+:-]+")
_COPYLEFT = re.compile(r"\b(A?GPL|LGPL|MPL|EPL|EUPL|CDDL|OSL|CPAL|SSPL|CC-BY-SA)\b")
_SPDX = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
}
_IDENTIFIER = re.compile(r"^[A-Za-z0-9.+()-]+( (AND|OR|WITH) [A-Za-z0-9.+()-]+)*$")


@dataclass(frozen=True, slots=True)
class Policy:
    """``allowed``: SPDX identifiers. ``exceptions``: package to reason."""

    allowed: frozenset[str]
    exceptions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One package. ``licence``: an SPDX expression, empty when it cannot be told. ``problem``: why it is refused, empty when it is not."""

    package: str
    version: str
    licence: str
    unknown: bool
    copyleft: bool
    exception: str
    problem: str


def read_policy(path: Path) -> Policy:
    """The policy in a TOML file; raises KeyError without ``allowed``."""
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    return Policy(frozenset(found["allowed"]), {_canonical(name): reason for name, reason in found.get("exceptions", {}).items()})


def locked(text: str) -> list[tuple[str, str]]:
    """Package and version of every pin of a lock file, sorted."""
    return sorted((_canonical(name), version) for name, version in _PINNED.findall(text))


def licence_of(about: PackageMetadata) -> str:
    """The SPDX expression that a package's metadata declare; empty when none can be told."""
    for text in (*about.get_all("License-Expression", []), *about.get_all("License", [])):
        if known := _spdx(text):
            return known
    classified = sorted({_spdx(c.rsplit(" :: ", 1)[1]) for c in about.get_all("Classifier", []) if c.startswith("License :: ")})
    return " AND ".join(classified) if classified and all(classified) else ""


def is_allowed(expression: str, allowed: frozenset[str]) -> bool:
    """Whether an SPDX expression can be satisfied with these licences alone. Raises ValueError when it is not one."""
    tokens = _TOKEN.findall(expression)
    value, rest = _either(tokens, allowed)
    if rest:
        raise ValueError(f"{expression!r} is no SPDX expression")
    return value


def rows(pins: Iterable[tuple[str, str]], policy: Policy, about: Callable[[str], PackageMetadata] = metadata.metadata) -> list[Row]:
    """What is to be said of each pin."""
    return [_row(package, version, policy, about) for package, version in pins]


def _row(package: str, version: str, policy: Policy, about: Callable[[str], PackageMetadata]) -> Row:
    try:
        found = about(package)
    except metadata.PackageNotFoundError:
        return Row(package, version, "", unknown=True, copyleft=False, exception="", problem="is not installed: run `make venv`")
    licence, exception, problem = licence_of(found), policy.exceptions.get(package, ""), ""
    if found["Version"] != version:
        problem = f"is installed as {found['Version']}: run `make venv`"
    elif not licence and not exception:
        problem = "its metadata name no licence that is known: read it, then name the package under [exceptions]"
    elif licence and not exception and not is_allowed(licence, policy.allowed):
        problem = "its licence is not in `allowed`"
    return Row(package, version, licence, unknown=not licence, copyleft=bool(_COPYLEFT.search(licence)), exception=exception, problem=problem)


def _spdx(text: str) -> str:
    short = " ".join(text.split())
    known = _SPDX.get(short.lower())
    return known or (short if _IDENTIFIER.match(short) and short.upper() != "UNKNOWN" else "")


def _either(tokens: Sequence[str], allowed: frozenset[str]) -> tuple[bool, Sequence[str]]:
    value, rest = _both(tokens, allowed)
    while rest and rest[0] == "OR":
        other, rest = _both(rest[1:], allowed)
        value = value or other
    return value, rest


def _both(tokens: Sequence[str], allowed: frozenset[str]) -> tuple[bool, Sequence[str]]:
    value, rest = _one(tokens, allowed)
    while rest and rest[0] == "AND":
        other, rest = _one(rest[1:], allowed)
        value = value and other
    return value, rest


def _one(tokens: Sequence[str], allowed: frozenset[str]) -> tuple[bool, Sequence[str]]:
    if not tokens or tokens[0] in (")", "AND", "OR", "WITH"):
        raise ValueError("an SPDX expression lacks a licence")
    if tokens[0] == "(":
        value, rest = _either(tokens[1:], allowed)
        if not rest or rest[0] != ")":
            raise ValueError("an SPDX expression lacks a closing parenthesis")
        return value, rest[1:]
    if len(tokens) > 2 and tokens[1] == "WITH":  # an exception only ever permits more
        return tokens[0] in allowed, tokens[3:]
    return tokens[0] in allowed, tokens[1:]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _table(found: Sequence[Row]) -> str:
    lines = [("PACKAGE", "VERSION", "LICENCE", "")]
    for row in found:
        said = [*(["unknown"] if row.unknown else []), *(["copyleft"] if row.copyleft else []), *([f"exception: {row.exception}"] if row.exception else [])]
        lines.append((row.package, row.version, row.licence or "?", "; ".join(said)))
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    return "\n".join(f"{a:{widths[0]}}  {b:{widths[1]}}  {c:{widths[2]}}  {d}".rstrip() for a, b, c, d in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or JSON; 1 when a package is refused."""
    parser = argparse.ArgumentParser(description="Licences of the packages in a lock file.")
    parser.add_argument("--lock", type=Path, default=ROOT / "requirements" / "runtime.txt")
    parser.add_argument("--policy", type=Path, default=ROOT / "requirements" / "licences.toml")
    parser.add_argument("--json", action="store_true", help="a list of objects instead of a table")
    given = parser.parse_args(argv)
    found = rows(locked(given.lock.read_text(encoding="utf-8")), read_policy(given.policy))
    sys.stdout.write((json.dumps([asdict(row) for row in found], indent=2) if given.json else _table(found)) + "\n")
    for row in found:
        if row.problem:
            sys.stderr.write(f"error: {row.package} {row.version} ({row.licence or 'licence unknown'}): {row.problem}\n")
    return 1 if not found or any(row.problem for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
