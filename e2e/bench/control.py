"""`make bench-control`: figures of the control plane and the gateway on this machine, beside LiteLLM's.

    python -m e2e.bench.control [--quick] [--only PART ...] [--profile] [--page]

Writes build/bench/control.json. A full run puts itself on top of docs/results/control.md and ends with 1 when a goal is plainly missed;
a quick one (about three minutes) only tries the harness.
"""

from __future__ import annotations

import argparse
import json
import pstats
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from e2e.lab.binaries import ensure_binaries
from e2e.lab.paths import CHECKOUT
from e2e.lab.steps import LabError, console, step

from . import contest, decisions, follow, litellm
from .figures import Json
from .goals import goals, missed, number
from .idle import idle
from .machine import all_versions, machine, now
from .page import section, two_commands, with_run
from .processes import Started
from .scene import Scene

OUT = CHECKOUT / "build" / "bench"
PAGE = CHECKOUT / "docs" / "results" / "control.md"
FIRST_PATH = CHECKOUT / "docs" / "results" / "first-path.md"
PARTS = ("apply", "endpoints", "latency", "saturation", "decisions", "idle")
LOW = 20
"""Requests a second that LiteLLM can bear on two cores."""
RATES = (LOW, 100, 300)
DECIDED = frozenset(("DefaultChain", "RuleMatched"))
COMPILED = frozenset(("Compiled",))


@dataclass(frozen=True, slots=True)
class Length:
    """How much is measured. Times in seconds, of one contestant in one block."""

    changes: int = 200
    blocks: int = 3
    open_loop: float = 8.0
    closed_loop: float = 10.0
    decide: float = 6.0
    settle: float = 20.0
    idle: float = 180.0


QUICK = Length(changes=30, blocks=2, open_loop=2.0, closed_loop=3.0, decide=2.0, settle=5.0, idle=30.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    asked = _asked(arguments)
    OUT.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        result = run(QUICK if asked.quick else Length(), asked.only or PARTS, quick=asked.quick, profile=OUT / "router.prof" if asked.profile else None)
    except LabError as e:
        console.print(f"[red]{e}[/red]", soft_wrap=True)
        return 2
    result["seconds"] = round(time.monotonic() - began)
    lines = goals(result)
    result["goals"] = [line.to_json() for line in lines]
    (OUT / "control.json").write_text(json.dumps(result, indent=2) + "\n")
    text = section(result, two_commands(FIRST_PATH.read_text()) if FIRST_PATH.exists() else ())
    (OUT / "control.md").write_text(text.lstrip("\n"))
    if asked.page or not (asked.quick or asked.only or asked.profile):
        PAGE.write_text(with_run(PAGE.read_text() if PAGE.exists() else "", text))
    _show(result)
    if asked.profile:
        _tell_profile(OUT / "router.prof")
    return 1 if missed(lines) and not (asked.quick or asked.profile) else 0


def run(length: Length, parts: Sequence[str], *, quick: bool, profile: Path | None = None) -> Json:
    """Measure the named parts. Raises LabError when something does not start or answer."""
    result: Json = {"schema": 1, "date": now(), "quick": quick, "machine": machine(), "versions": all_versions()}
    ensure_binaries(["vegeta"])
    beside = [litellm.ensure_litellm()] if {"latency", "saturation"} & set(parts) else []
    with Scene(profile) as scene:
        if "apply" in parts:
            with step(f"{length.changes} policies applied until served"):
                result["apply"] = follow.policies(scene, length.changes)
        if "endpoints" in parts:
            with step(f"{length.changes} endpoints changed until used"):
                result["endpoints"] = follow.endpoints(scene, length.changes)
        if beside:
            result |= _contests(scene, length, parts)
        if "decisions" in parts:
            with step("decisions"):
                result["decisions"] = decisions.decisions(scene, length.blocks, length.decide)
        if "idle" in parts:
            with step(f"idle for {length.idle:.0f} s"):
                result["idle"] = idle(scene, length.settle, length.idle)
        memory = {name: process.rss for name, process in scene.started.items() if name != "upstream"}
        result["memory"] = result.get("memory", {}) | memory
    return result


def _contests(scene: Scene, length: Length, parts: Sequence[str]) -> Json:
    """Latency and saturation, with LiteLLM beside for as long."""
    with step("LiteLLM up"):
        other, url = litellm.start_litellm(scene.folder, scene.addresses, scene.upstream_port)
    found: Json = {}
    try:
        contestants = the_contestants(scene, other, url)
        for contestant in contestants:
            contest.saturation([contestant], scene.folder, 1.0)
        if "latency" in parts:
            with step(f"open loop at {', '.join(map(str, RATES))}/s, {length.blocks} blocks"):
                found["latency"] = {str(rate): _blocks(length, partial(contest.latency, contestants, scene.folder, rate, length.open_loop)) for rate in RATES}
        if "saturation" in parts:
            with step(f"closed loop, {length.blocks} blocks"):
                found["saturation"] = _blocks(length, partial(contest.saturation, contestants, scene.folder, length.closed_loop))
        found["memory"] = {"litellm": other.rss}
    finally:
        other.stop()
    return found


def the_contestants(scene: Scene, other: Started, url: str) -> list[contest.Contestant]:
    """In the order of their turns. LiteLLM is asked at the lowest rate only: the others are beyond what it can serve on two cores."""
    ours = {name: scene.started[name] for name in ("envoy", "router")}
    gateway = [f"http://127.0.0.1:{scene.port}"]
    return [
        contest.Contestant("direct", [f"http://{address}:{scene.upstream_port}" for address in scene.addresses], "direct", rates=frozenset(RATES)),
        contest.Contestant("decided", gateway, "decided", ours, DECIDED, frozenset(RATES)),
        contest.Contestant("compiled", gateway, "compiled", ours, COMPILED, frozenset(RATES) - {LOW}),
        contest.Contestant("litellm", [url], litellm.MODEL, {"litellm": other}, rates=frozenset((LOW,))),
    ]


def _blocks(length: Length, measure: Callable[[], dict[str, Json]]) -> list[dict[str, Json]]:
    return [measure() for _ in range(length.blocks)]


def _show(result: Json) -> None:
    told = Table(title=f"{result['machine']['cpu']}, {result['date']}{', quick: the numbers do not count' if result['quick'] else ''}")
    for head in ("goal", "measured", "bound", "verdict"):
        told.add_column(head)
    for line in goals(result):
        told.add_row(line.name, f"{number(line.value)} {line.unit}" if line.value is not None else "-", line.goal, line.verdict)
    console.print(told)
    console.print(f"every figure: {OUT / 'control.json'}, as text: {OUT / 'control.md'}", soft_wrap=True)


def _tell_profile(file: Path) -> None:
    """Where the router's time went, by function."""
    pstats.Stats(str(file), stream=sys.stderr).strip_dirs().sort_stats("tottime").print_stats(40)


def _asked(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(prog="python -m e2e.bench.control", description="Figures of the control plane and the gateway.")
    parser.add_argument("--quick", action="store_true", help="about three minutes, to try the harness; the numbers do not count")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="measure these parts alone; the page is not written")
    parser.add_argument("--profile", action="store_true", help="run the router under cProfile (slower) and tell where its time goes")
    parser.add_argument("--page", action="store_true", help="write the page even so")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
