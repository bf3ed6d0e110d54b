"""The result as text: the section of one run for docs/results/control.md, and that page with the newest run on top. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .figures import Json, added, per_cpu_second
from .goals import BUSY, NOISY, calls, clock_noise, goals, number

CONTESTANTS = {
    "direct": "direct, no gateway",
    "decided": "modelfleet, a decision on every request",
    "compiled": "modelfleet, compiled away",
    "litellm": "LiteLLM proxy",
}

PREFACE = """# The control plane and the gateway, measured

`make bench-control` writes this page, the newest run on top, and `build/bench/control.json` with every raw figure. It takes about twelve minutes and needs
root, since two addresses on the loopback interface stand for two pods.

How: a real API server with a fleet of 23 pools and 25 policies; operator, router beside Envoy, and team runtime as processes with the chart's settings. A
second Envoy with fixed answers stands for the pods. vegeta asks with a body of about 1.1 KB. Contestants take turns in every block, and what one adds is taken
against `direct` of the same block. The closed loop has 16 connections; CPU is what the kernel accounts to a contestant's processes. LiteLLM has no database,
no logging, simple-shuffle, and as many workers as there are cores. All share the same cores, the load generator too.

A goal that depends on the clock gets no verdict when direct p50 varies by more than 15 % over the blocks, and one per CPU-second when the figure itself does.
Neither gets one when others took more than 10 % of the machine's time before the run.
"""
NOTHING = "\nNo full run is recorded yet.\n"
_RUN = "\n## Run of "


def with_run(page: str, section: str) -> str:
    """The page with this section above all others; a section of the same run is replaced, the preface is renewed."""
    runs = [_RUN + run.strip("\n") + "\n" for run in page.split(_RUN)[1:]]
    heading = section.strip("\n").splitlines()[0]
    kept = [run for run in runs if run.strip("\n").splitlines()[0] != heading]
    return PREFACE + "\n" + section.strip("\n") + "\n" + "".join(kept)


def section(result: Mapping[str, Any], commands: Sequence[Sequence[str]] = ()) -> str:
    """One run. `commands`: rows (what, command, seen) of the two commands' times, from docs/results/first-path.md."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
    parts = [
        f"{_RUN}{result['date']}{' (quick: the numbers do not count)' if result['quick'] else ''}\n",
        (
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB of memory. {versions}.\n"
            f"Others took {100 * machine['busy']:.0f} % of the machine's time before the run (limit {100 * BUSY:.0f} %). "
            f"Direct p50 varies by {100 * clock_noise(result):.0f} % over the blocks (limit {100 * NOISY:.0f} %).\n"
        ),
        table(["Goal", "Measured", "Bound", "Verdict"], [[g.name, _with(g.value, g.unit), g.goal, g.verdict] for g in goals(result)]),
        _changes(result),
        *(_latency(rate, blocks) for rate, blocks in (result.get("latency") or {}).items()),
        _saturation(result.get("saturation") or []),
        _decisions(result.get("decisions")),
        _idle(result.get("idle")),
        _memory(result.get("memory")),
        _commands(commands),
    ]
    return "\n".join(part for part in parts if part)


def two_commands(page: str) -> list[list[str]]:
    """The rows of docs/results/first-path.md that tell how long `make demo` and `make test` take."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    return [row for row in rows if len(row) == 3 and any(command in row[1] for command in ("make demo", "make test"))]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _with(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{number(value)} {unit}"


def _changes(result: Mapping[str, Any]) -> str:
    named = (("apply", "RoutingPolicy applied, until served"), ("endpoints", "EndpointSlice changed, until used"))
    rows = []
    for part, title in named:
        for name, figures in _kinds(result.get(part)):
            rows.append([f"{title}{name}", str(figures["n"]), *(number(figures[f]) for f in ("p50", "p99", "max"))])
    return table(["From the API server's answer, ms", "Changes", "p50", "p99", "max"], rows) if rows else ""


def _kinds(figures: Mapping[str, Any] | None) -> list[tuple[str, Mapping[str, Any]]]:
    return [] if figures is None else [("", figures), *((f", {kind}", of) for kind, of in sorted(figures.get("of", {}).items()))]


def _latency(rate: str, blocks: Sequence[Mapping[str, Json]]) -> str:
    rows = []
    for name, title in CONTESTANTS.items():
        measured = [block[name] for block in blocks if name in block]
        if measured:
            seen = [" / ".join(number(m[figure]) for m in measured) for figure in ("p50", "p99")]
            plus = [_added(added(blocks, name, figure)) if name != "direct" else "-" for figure in ("p50", "p99")]
            rows.append([title, *seen, *plus, _bad(measured)])
    return table([f"Open loop, {rate}/s, ms per block", "p50", "p99", "added p50", "added p99", "not as meant"], rows) if rows else ""


def _added(figures: Json | None) -> str:
    return "-" if figures is None else f"{number(figures['median'])} ({number(figures['least'])} to {number(figures['greatest'])})"


def _bad(measured: Sequence[Json]) -> str:
    bad, sent = sum(m["sent"] - m["good"] for m in measured), sum(m["sent"] for m in measured)
    return f"{bad} of {sent}"


def _saturation(blocks: Sequence[Mapping[str, Json]]) -> str:
    rows = []
    for name, title in CONTESTANTS.items():
        measured = [block[name] for block in blocks if name in block]
        if not measured:
            continue
        rate = sum(m["good"] for m in measured) / sum(m["seconds"] for m in measured)
        good = sum(m["good"] for m in measured)
        cpu = ", ".join(f"{part} {1e6 * sum(m['cpu'][part] for m in measured) / good:.0f}" for part in measured[0]["cpu"]) or "-"
        per = per_cpu_second(blocks, name) if measured[0]["cpu"] else None
        rows.append([title, number(rate), _added(per), cpu, number(sum(m["p50"] for m in measured) / len(measured)), _bad(measured)])
    return table(["Closed loop, 16 connections", "answers/s", "per CPU-second", "CPU us per answer", "p50 ms", "not as meant"], rows) if rows else ""


def _decisions(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return ""
    titles = {
        "check": "Check over gRPC to the router's process",
        "answer": "Check to answer, bytes to bytes, in process",
        "decide": "`read_request` and `decide` alone",
    }
    rows = [[titles[name], _added(figures[name]), f"{1e6 / figures[name]['median']:.0f}"] for name in titles if name in figures]
    return table(["Decisions", "per CPU-second", "us each"], rows)


def _idle(idle: Mapping[str, Any] | None) -> str:
    if idle is None:
        return ""
    rows = [
        [who, ", ".join(f"{verb} {number(count)}" for verb, count in sorted(verbs.items())), number(sum(verbs.values()))]
        for who, verbs in sorted(idle["calls"].items())
    ]
    rows.append(["all", "", number(calls(idle, "modelfleet-"))])
    return table([f"API calls a minute, idle for {number(idle['seconds'])} s", "by verb", "all"], rows)


def _memory(memory: Mapping[str, float] | None) -> str:
    return "" if memory is None else table(["Memory", "RSS, MiB"], [[name, number(size)] for name, size in sorted(memory.items())])


def _commands(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "Cold and warm times of the two commands: see [the first path](first-path.md).\n"
    return table(["The two commands, from [the first path](first-path.md)", "Command", "Seen"], rows)
