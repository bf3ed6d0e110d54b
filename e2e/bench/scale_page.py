"""The figures and goals of `make bench-scale`, and a run as text for docs/results/scale.md. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .figures import Json
from .goals import BUSY, Goal, number
from .page import table

PREFACE = """# The operator at scale, measured

`make bench-scale` writes this page, the newest run on top, and `build/bench/scale.json` with every raw figure.

How: for each number of pools a real API server with etcd of its own, 200 nodes and four classes as plain objects, pools of two flavors and one replica in ten
namespaces. Neither kwok nor the controller manager runs, on either side of the comparison. The operator is a process with the chart's settings.

- **Apply**: all pools are stored, then the operator starts; the clock runs from its first write of the Lease until the API server has answered the last child
  (`children`) and the first status of every pool (`statuses`), by the audit log. Beside it a loop of 16 parallel server-side applies writes the same bytes to
  the same API server, after pools and children were deleted and the pools stored anew. The ratio is of children and statuses together.
- **Change**: one pool's drain time is patched, which alters both its Deployments; from the API server's answer until a watch shows both.
- **Restart**: SIGTERM, then from the start of the process until it has planned with everything in view; writes without the Lease's, and five seconds more.
- **Planner**: by itself, on the world that the API server shows, with a ready pod for every replica. Incremental: one pool or one pod has changed.

A goal that depends on the clock gets no verdict when others took more than 10 % of the machine's time before the run.
"""
_RUN = "\n## Run of "


def figures(result: Mapping[str, Any]) -> Json:
    """The figures by which runs are compared."""
    sizes = {int(size): of for size, of in result["sizes"].items()}
    main = sizes[result["main"]]
    change, restart, idle, planner = result["change"], result["restart"], result["idle"], result["planner"]
    return {
        "ratio_to_bare_apply": _ours(main) / _bare(main),
        "growth_exponent": exponent([(size, _ours(of)) for size, of in sorted(sizes.items())]),
        "change_p50_ms": change["p50"],
        "change_p99_ms": change["p99"],
        "restart_s": restart["seconds"],
        "restart_writes": restart["writes"],
        "idle_calls_per_minute": sum(sum(verbs.values()) for verbs in idle["calls"].values()),
        "rss_mb": idle["rss_mb"],
        "plan_full_ms": planner["full_ms"],
        "plan_incremental_cpu_ms": planner["incremental_cpu_ms"],
    }


def exponent(points: Sequence[tuple[int, float]]) -> float:
    """The slope of seconds over size, both as logarithms: 1 is linear. 0 for fewer than two points."""
    if len(points) < 2:
        return 0.0
    xs, ys = [math.log(size) for size, _ in points], [math.log(seconds) for _, seconds in points]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def scale_goals(result: Mapping[str, Any]) -> list[Goal]:
    """All goals of a run. Numbers of calls and writes are always judged; so is what is taken within one run."""
    noise = 1.0 if result["machine"]["busy"] > BUSY else 0.0
    rows: list[tuple[str, str, str, float, float]] = [
        ("all pools applied, over a bare loop", "times", "ratio_to_bare_apply", 1.5, 0.0),
        ("growth of it with the number of pools, exponent", "", "growth_exponent", 1.15, noise),
        ("one change until its children are applied, p50", "ms", "change_p50_ms", 100, noise),
        ("one change until its children are applied, p99", "ms", "change_p99_ms", 250, noise),
        ("clean restart until caught up", "s", "restart_s", 10, noise),
        ("writes while catching up", "", "restart_writes", 0, 0.0),
        ("idle API calls a minute", "1/min", "idle_calls_per_minute", 60, 0.0),
        ("resident memory", "MB", "rss_mb", 300, 0.0),
        ("a full plan", "ms", "plan_full_ms", 1000, noise),
        ("an incremental plan, CPU", "ms", "plan_incremental_cpu_ms", 20, noise),
    ]
    return [Goal(name, unit, result[key], most=most, noise=spread) for name, unit, key, most, spread in rows]


def section(result: Mapping[str, Any]) -> str:
    """One run."""
    machine, change, planner = result["machine"], result["change"], result["planner"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
    cycle = change["cycle_ms"]
    sizes = [
        [
            size,
            *(number(of["ours"][f]) for f in ("children_s", "statuses_s", "from_process_start_s")),
            *(number(of["bare"][f]) for f in ("children_s", "statuses_s")),
            number(_ours(of) / _bare(of)),
            ", ".join(f"{what} {count}" for what, count in of["ours"]["writes"].items()),
        ]
        for size, of in result["sizes"].items()
    ]
    parts = [
        f"{_RUN}{result['date']}{' (quick: the numbers do not count)' if result['quick'] else ''}\n",
        (
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB of memory. {versions}. Others took {100 * machine['busy']:.0f} % of the "
            f"machine's time before the run (limit {100 * BUSY:.0f} %), load average {result['load_average']:.1f}. {result['main']} pools of two flavors, "
            f"{result['nodes']} nodes, {result['pods']} pods; {result['seconds']} s in all.\n"
        ),
        table(["Goal", "Measured", "Bound", "Verdict"], [[g.name, f"{number(g.value)} {g.unit}".strip(), g.goal, g.verdict] for g in scale_goals(result)]),
        table(["Pools", "children, s", "statuses, s", "from the process's start, s", "bare children, s", "bare statuses, s", "ratio", "our writes"], sizes),
        table(
            ["Changes", "p50 ms", "p99 ms", "max ms", "CPU ms per change", "cycles", "observe ms", "plan ms", "act ms"],
            [
                [
                    str(change["n"]),
                    *(number(change[f]) for f in ("p50", "p99", "max", "operator_cpu_ms_per_change")),
                    *(number(cycle[f]) for f in ("cycles", "observe", "plan", "act")),
                ]
            ],
        ),
        table(
            ["Planner", "full, ms", "full, CPU ms", "incremental p50, CPU ms", "incremental p99, CPU ms"],
            [["", *(number(planner[f]) for f in ("full_ms", "full_cpu_ms", "incremental_cpu_ms", "incremental_cpu_p99_ms"))]],
        ),
    ]
    return "\n".join(parts)


def with_run(page: str, text: str) -> str:
    """The page with this section above all others; the preface is renewed, a section of the same run replaced."""
    runs = [_RUN + run.strip("\n") + "\n" for run in page.split(_RUN)[1:]]
    heading = text.strip("\n").splitlines()[0]
    kept = [run for run in runs if run.strip("\n").splitlines()[0] != heading]
    return PREFACE + "\n" + text.strip("\n") + "\n" + "".join(kept)


def _ours(of: Mapping[str, Any]) -> float:
    return float(max(of["ours"]["children_s"], of["ours"]["statuses_s"]))


def _bare(of: Mapping[str, Any]) -> float:
    return float(of["bare"]["children_s"] + of["bare"]["statuses_s"])
