"""`make bench-scale`: the operator at a thousand pools, on a real API server.

    python -m e2e.bench.scale [--quick] [--sizes N ...] [--page]

Writes build/bench/scale.json. A full run puts itself on top of docs/results/scale.md and ends with 1 when a goal is plainly missed; a quick one (about two
minutes, small sizes) only tries the harness.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from e2e.lab import versions
from e2e.lab.paths import CHECKOUT
from e2e.lab.steps import LabError, console, sh, step

from . import scale_measure as measure, scale_objects as objects
from .figures import Json
from .machine import machine, now
from .scale_page import figures, scale_goals, section, with_run
from .scale_scene import ScaleScene

OUT = CHECKOUT / "build" / "bench"
PAGE = CHECKOUT / "docs" / "results" / "scale.md"


@dataclass(frozen=True, slots=True)
class Length:
    """How much is measured. ``main``: the size at which everything is; at the others the first apply alone. Times in seconds."""

    sizes: tuple[int, ...] = (250, 500, 1000, 2000)
    main: int = 1000
    changes: int = 200
    settle: float = 10.0
    idle: float = 120.0
    turns: int = 40


QUICK = Length(sizes=(25, 50), main=50, changes=10, settle=2.0, idle=10.0, turns=8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    asked = _asked(arguments)
    length = QUICK if asked.quick else Length(**({"sizes": tuple(asked.sizes), "main": max(asked.sizes)} if asked.sizes else {}))
    OUT.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        result = asyncio.run(run(length, quick=asked.quick))
    except LabError as e:
        console.print(f"[red]{e}[/red]", soft_wrap=True)
        return 2
    result["seconds"] = round(time.monotonic() - began)
    result |= figures(result)
    lines = scale_goals(result)
    result["goals"] = [line.to_json() for line in lines]
    (OUT / "scale.json").write_text(json.dumps(result, indent=2) + "\n")
    text = section(result)
    (OUT / "scale.md").write_text(text.lstrip("\n"))
    if asked.page or not (asked.quick or asked.sizes):
        PAGE.write_text(with_run(PAGE.read_text() if PAGE.exists() else "", text))
    sys.stdout.write(text)
    console.print(f"every figure: {OUT / 'scale.json'}", soft_wrap=True)
    return 1 if any(line.verdict == "missed" for line in lines) and not asked.quick else 0


async def run(length: Length, *, quick: bool) -> Json:
    """Measure. Raises LabError when something does not start, answer or come to rest."""
    result: Json = {"schema": 1, "date": now(), "quick": quick, "machine": machine(), "versions": _versions(), "main": length.main, "nodes": objects.NODES}
    result["load_average"] = os.getloadavg()[0]
    result["sizes"] = {}
    for size in sorted({*length.sizes, length.main}):
        async with ScaleScene(size) as scene:
            result["sizes"][str(size)] = await _one_size(scene, length, result)
    return result


async def _one_size(scene: ScaleScene, length: Length, result: Json) -> Json:
    with step(f"{scene.pools} pools stored"):
        await scene.store_pools()
    with step(f"{scene.pools} pools until applied"):
        ours = await measure.first_apply(scene)
    if scene.pools == length.main:
        await _everything_else(scene, length, result)
    with step("the same bytes by a bare loop"):
        return {"ours": ours, "bare": await measure.bare_apply(scene)}


async def _everything_else(scene: ScaleScene, length: Length, result: Json) -> None:
    with step("ready pods"):
        result["pods"] = await scene.store_pods()
        await scene.settled(0)
    with step(f"{length.changes} changes"):
        result["change"] = await measure.changes(scene, length.changes)
        await scene.settled(0)
    with step("a clean restart"):
        result["restart"] = await measure.restart(scene)
    with step(f"idle for {length.idle:.0f} s"):
        result["idle"] = await measure.idle(scene, length.settle, length.idle)
    with step("the planner by itself"):
        result["planner"] = await measure.planner(scene, length.turns)


def _versions() -> dict[str, str]:
    commit = sh("git", "describe", "--always", "--dirty", cwd=CHECKOUT, check=False).stdout.strip()
    return {
        "modelfleet": f"{version('modelfleet')} ({commit or 'no git'})",
        "Python": platform.python_version(),
        "Kopf": version("kopf"),
        "Kubernetes": versions.KUBERNETES.removeprefix("v"),
    }


def _asked(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(prog="python -m e2e.bench.scale", description="The operator at a thousand pools.")
    parser.add_argument("--quick", action="store_true", help="about two minutes, to try the harness; the numbers do not count")
    parser.add_argument("--sizes", nargs="+", type=int, help="numbers of pools, the greatest measured in full; the page is not written")
    parser.add_argument("--page", action="store_true", help="write the page even so")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
