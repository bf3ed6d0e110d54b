"""`make demo`: from nothing to answers with their cost and their reasons; `--down` takes all of it away again."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from openai import OpenAIError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from e2e.cluster import ROOT, Cluster, ClusterError, wait_until
from e2e.fleet import DEMO, SYSTEM, Answer, Fleet, TeamAnswer, words
from e2e.lab import LabError

console = Console(highlight=False)

LONG = "Summarise the following notes for a busy reader. " + "The quarterly report covers servers, costs, people and plans in detail. " * 40
TEAM_QUESTION = "Which parts does modelfleet consist of, and what does each do?"
FORWARD = f"kubectl port-forward -n {SYSTEM} service/modelfleet-gateway 8080:80 & sleep 2; "
QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Name three colours of the rainbow.", {}),
    ("What is the capital of France? (streamed)", {"stream": True}),
    (LONG, {"max_tokens": 32}),
    ("Is water wet? (canary by header)", {"headers": {"x-canary": "1"}}),
    (
        "Say hello to the big model. (asked by a request with tools)",
        {"tools": [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}], "tool_choice": "none"},
    ),
)


def on_the_lab() -> bool:
    """True unless CLUSTER names a cluster of the user's own."""
    return os.environ.get("CLUSTER", "lab") == "lab"


@contextmanager
def step(what: str) -> Any:
    """One line per step, with its duration."""
    begun = time.monotonic()
    with console.status(f"{what} ..."):
        yield
    console.print(f"[green]✓[/] {what} [dim]{time.monotonic() - begun:.1f} s[/]")


def up() -> Fleet:
    """Cluster, charts, example fleet; each part is left alone where it already stands."""
    if on_the_lab():
        for verb in ("up", "build"):
            subprocess.run([sys.executable, "-m", "e2e.lab", verb], check=True)
    fleet = Fleet(Cluster.selected())
    fleet.check_images()
    fleet.check_ours()
    with step("install the charts"):
        fleet.install()
    with step("apply the accelerator classes and the example fleet"):
        fleet.apply_example()
    with step("wait until every pool and policy is Ready"):
        fleet.wait_ready()
    return fleet


def ask_all(fleet: Fleet) -> list[tuple[str, Answer]]:
    """Ask the questions, one after the other."""
    asked = []
    for question, options in QUESTIONS:
        shown = question if len(question) < 60 else f"{question[:45]}... ({len(question.split())} words)"
        with step(f"ask: {shown}"):
            asked.append((shown, fleet.ask(question, **options)))
    return asked


def document() -> str:
    """Something long that nobody else owns: our own pages."""
    return "\n\n".join((ROOT / page).read_text() for page in ("README.md", "docs/architecture.md"))


def ask_the_team(fleet: Fleet) -> TeamAnswer:
    """One question about a document that is longer than any model of the fleet can read at once."""
    text = document()
    with step(f"ask the team {DEMO}/readers about {len(text.encode()) // 4} tokens of documentation"):
        return fleet.ask_team(text, TEAM_QUESTION)


def await_figures(fleet: Fleet, patience: float = 180) -> None:
    """Until each pool tells what its tokens cost, which takes the operator two scrapes; the screen shows a dash for one that does not."""
    with contextlib.suppress(ClusterError):
        wait_until(lambda: all(live_cost(fleet, name) for name in ("small", "boss")), patience, "live costs", every=2)


def live_cost(fleet: Fleet, pool: str) -> str | None:
    """Dollars per million tokens in the last ten minutes, from the pool's status."""
    return (fleet.pool(pool)["status"].get("cost") or {}).get("perMillionTokens", {}).get("live")


def show(fleet: Fleet, asked: list[tuple[str, Answer]], team: TeamAnswer) -> None:
    """The one screen: pools, answers, why."""
    console.rule("the fleet", align="left")
    pools = Table("POOL", "FLAVORS", "READY", "$/HOUR", "$/1M TOKENS, LAST 10 MIN", "$/1M AT FULL LOAD", box=SIMPLE_HEAD, pad_edge=False)
    reasons = []
    for name in ("small", "boss"):
        status = fleet.pool(name)["status"]
        cost = status.get("cost", {})
        full = ", ".join(f"{f['name']} {f['perMillionAtFullLoad']}" for f in status["flavors"] if f.get("perMillionAtFullLoad"))
        live = cost.get("perMillionTokens", {}).get("live", "-")
        pools.add_row(f"[bold]{DEMO}/{name}", status.get("flavorSummary", ""), status.get("ready", ""), cost.get("perHour", "-"), live, full)
        reasons.append(f"[bold]{DEMO}/{name}[/] {(status.get('lastDecision') or {}).get('summary', '')} [dim]({status.get('decisionReason', '')})[/]")
    console.print(pools)
    for reason in reasons:
        console.print(reason, soft_wrap=True)
    console.rule("the answers", align="left")
    for number, (shown, a) in enumerate(asked, 1):
        cost = "no price" if a.cost_micro_usd is None else f"${a.cost_micro_usd / 1e6:.6f}"
        text = " ".join(a.text.split())
        console.print(f"{number}. {shown}", markup=False, soft_wrap=True)
        console.print(
            f"   [bold]{a.pool}[/] on [cyan]{a.flavor}[/]: {a.input_tokens} tokens in, {a.output_tokens} out, [yellow]{cost}[/]; {words(a.decision)}",
            soft_wrap=True,
        )
        console.print(f"   {text[:100]}", style="dim", markup=False, soft_wrap=True)
    show_team(team)
    console.rule(align="left")
    console.print("Try next:")
    export = f"export KUBECONFIG={fleet.cluster.kubeconfig}; " if fleet.cluster.lab else ""
    body = '{"model":"auto","messages":[{"role":"user","content":"Hello!"}]}'
    forward, gateway = ("", fleet.gateway) if fleet.cluster.lab else (FORWARD, "http://127.0.0.1:8080")
    for command in (
        f"{export}{fleet.cluster.kubectl_bin} get mp,rp,at,acc -A",
        f"{export}.venv/bin/modelfleet explain pool {DEMO}/boss",
        f"{forward}curl -si {gateway}/v1/chat/completions -H 'content-type: application/json' -d '{body}'",
    ):
        console.print(f"  {command}", style="bold", markup=False, soft_wrap=True)
    console.print("[dim]make demo-down removes everything.[/]")


def show_team(team: TeamAnswer) -> None:
    """Who was asked how often, what the boss was spared, what it cost and what was left."""
    spent = team.spent
    console.rule(f"the team {team.model}", align="left")
    console.print(TEAM_QUESTION, markup=False, soft_wrap=True)
    roles = Table("ROLE", "CALLS", "TOKENS IN", "TOKENS OUT", "COST", box=SIMPLE_HEAD, pad_edge=False)
    for used in spent["byRole"]:
        cost = f"${used['cost_micro_usd'] / 1e6:.6f}"
        roles.add_row(used["role"], str(used["calls"]), str(used["prompt_tokens"]), str(used["completion_tokens"]), cost)
    console.print(roles)
    left = "" if spent["budget_left_micro_usd"] is None else f"; ${spent['budget_left_micro_usd'] / 1e6:.6f} of its budget left"
    console.print(
        f"[bold]{spent['state']}[/]/{spent['stopReason']}: the boss read {team.role('boss')['prompt_tokens']} tokens of a document of about "
        f"{team.document_tokens}; [yellow]${spent['cost_micro_usd'] / 1e6:.6f}[/]{left}",
        soft_wrap=True,
    )
    console.print(f"   {' '.join(team.text.split())[:300]}", style="dim", markup=False, soft_wrap=True)


def down() -> None:
    """Remove the example and the product; the lab goes as a whole."""
    if on_the_lab():
        subprocess.run([sys.executable, "-m", "e2e.lab", "down"], check=True)
        return
    fleet = Fleet(Cluster.selected())
    fleet.check_ours()
    with step(f"remove {DEMO}, {SYSTEM} and, if nobody else uses them, the CRDs"):
        fleet.uninstall()


def demo() -> None:
    """Up, ask, show."""
    fleet = up()
    try:
        asked = ask_all(fleet)
        team = ask_the_team(fleet)
        with step("wait for the cost figures of this traffic"):
            await_figures(fleet)
        show(fleet, asked, team)
    finally:
        fleet.cluster.close()


def main() -> int:
    """Entry; exit code 1 and one sentence on failure."""
    parser = argparse.ArgumentParser(prog="python -m e2e.demo", description=__doc__)
    parser.add_argument("--down", action="store_true", help="remove the demo")
    begun = time.monotonic()
    action: Callable[[], None] = down if parser.parse_args().down else demo
    try:
        action()
    except (ClusterError, LabError, OpenAIError, subprocess.CalledProcessError) as error:
        console.print(f"[red]failed after {time.monotonic() - begun:.0f} s[/]: {error}", soft_wrap=True)
        console.print("What to do: `make demo` may be repeated safely; `make demo-down` starts over; docs/troubleshoot.md lists known causes.")
        return 1
    console.print(f"[green]done[/] in {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
