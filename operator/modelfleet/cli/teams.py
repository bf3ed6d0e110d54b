"""The command `estimate`: what a run of a team may cost, from its manifest, before anything is spent.

Worst and minimum are the bounds that the operator writes into status and the runtime enforces; whether a run could start is asked of the runtime's own rules.
Pools and policies come from the files, and from the cluster where the files lack them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from modelfleet.api.parse import InvalidObject, parse
from modelfleet.api.v1alpha1 import AgentTeam, ModelPool, RoutingPolicy
from modelfleet.api.v1alpha1.common import Kind
from modelfleet.core.economics.money import format_exact
from modelfleet.core.teams.estimate import estimate as price
from modelfleet.core.teams.ir import TeamPlan, TeamsPlan
from modelfleet.core.teams.strategies import strategy_of
from modelfleet.core.teams.strategies.protocol import Bound, InputSize, Task
from modelfleet.errors import Stalled
from modelfleet.kube.client import Client
from modelfleet.kube.resources import MODEL_POOLS, ROUTING_POLICIES
from modelfleet.teamserver.admission import caps_of, first_step, open_ledger, priced
from modelfleet.teamserver.refusals import NotStarted

from .fleet import manifests, print_json, with_client

__all__ = ["CANNOT_START", "EXCEEDS", "estimate"]

EXCEEDS: Final = 3
CANNOT_START: Final = 4
_BYTES_PER_TOKEN: Final = 4
_QUESTION: Final = "?" * 256
KindT = TypeVar("KindT", bound=Kind)
Objects = list[Mapping[str, Any]]


def estimate(kubeconfig: Path | None, context: str | None, files: list[Path], input_tokens: int, *, as_json: bool) -> int:
    """Print what a run over a document of ``input_tokens`` takes, for every team in ``files``. Gives 0 if the worst case fits, else EXCEEDS or CANNOT_START.

    Raises Stalled for files without a team, or with one that cannot be compiled.
    """
    objects: Objects = [o for file in files for o in manifests(file)]
    teams = _of(AgentTeam, objects)
    if not teams:
        raise Stalled("NoTeam", f"there is no AgentTeam in {', '.join(str(file) for file in files)}")
    plans = _compile(teams, objects)
    if any(problem.type == "ResolvedRefs" for problem in plans.problems):
        objects = [*with_client(kubeconfig, context, _cluster), *objects]
        plans = _compile(teams, objects)
    if plans.problems:
        raise Stalled("NotReady", "; ".join(f"AgentTeam {problem.team}: {problem.message}" for problem in plans.problems))
    told = [_told(plan, plans, input_tokens) for _, plan in sorted(plans.teams.items())]
    if as_json:
        print_json(told)
    else:
        for one in told:
            _print(one)
    return max(int(one["exitCode"]) for one in told)


async def _cluster(client: Client) -> Objects:
    return [item for resource in (MODEL_POOLS, ROUTING_POLICIES) for item in (await client.list(resource))[0]]


def _of(kind: type[KindT], objects: Objects) -> list[KindT]:
    """Objects of a kind; of two with one key the later. Raises Stalled for one that cannot be read."""
    found: dict[str, KindT] = {}
    for raw in objects:
        if raw.get("kind") != kind.KIND:
            continue
        parsed = parse(kind, {**raw, "metadata": {"namespace": "default", **raw.get("metadata", {})}})
        if isinstance(parsed, InvalidObject):
            raise Stalled("InvalidSpec", f"{kind.KIND} {parsed.key}: {'; '.join(parsed.errors)}")
        found[parsed.key] = parsed
    return list(found.values())


def _compile(teams: list[AgentTeam], objects: Objects) -> TeamsPlan:
    # late: the compiler is heavy, and `--help` must stay quick
    from modelfleet.core.teams.compile import compile_teams

    return compile_teams(teams, _of(ModelPool, objects), _of(RoutingPolicy, objects))


def _told(plan: TeamPlan, plans: TeamsPlan, input_tokens: int) -> dict[str, Any]:
    targets, budget = plans.targets[plan.key], plan.budget
    bound = strategy_of(plan).bound(plan, InputSize(len(_QUESTION), input_tokens * _BYTES_PER_TOKEN))
    whole = price(bound, plan, targets, plans.prices)
    tokens = sum(role.max_prompt_bytes + role.max_completion_tokens for role in bound.roles.values())
    caps = {
        "cost": (whole.worst_micro_usd, budget.cost_micro_usd),
        "modelCalls": (whole.max_model_calls, budget.model_calls),
        "tokens": (tokens, budget.tokens),
    }
    over = {name: worst / cap for name, (worst, cap) in caps.items() if worst is not None and cap is not None and worst > cap}
    why_not = _why_not(plan, plans, input_tokens)
    return {
        "team": plan.key,
        "inputTokens": input_tokens,
        "minimumCost": _dollars(whole.minimum_micro_usd),
        "worstCost": _dollars(whole.worst_micro_usd),
        "maxModelCalls": whole.max_model_calls,
        "budget": {"cost": _dollars(budget.cost_micro_usd), "modelCalls": budget.model_calls, "tokens": budget.tokens},
        "firstLimit": max(sorted(over), key=lambda name: over[name]) if over else None,
        "roles": [
            {
                "role": role,
                "target": str(plan.roles[role].target),
                "minCalls": figures.min_calls,
                "maxCalls": figures.max_calls,
                "maxOutputTokens": figures.max_completion_tokens,
                "worstCost": _dollars(price(Bound({role: figures}), plan, targets, plans.prices).worst_micro_usd),
            }
            for role, figures in sorted(bound.roles.items())
        ],
        "cannotStart": why_not,
        "exitCode": CANNOT_START if why_not else EXCEEDS if over else 0,
    }


def _why_not(plan: TeamPlan, plans: TeamsPlan, input_tokens: int) -> str | None:
    """What the runtime would say if it were asked now."""
    targets, strategy = plans.targets[plan.key], strategy_of(plan)
    task = Task(_QUESTION, ("x" * (input_tokens * _BYTES_PER_TOKEN),) if input_tokens else ())
    try:
        priced(plan, targets, plans.prices)
        step = first_step(plan, strategy, task)
        open_ledger(plan, strategy, task, caps=caps_of(plan.budget, None), targets=targets, prices=plans.prices, step=step)
    except NotStarted as refused:
        return refused.message
    return None


def _dollars(micro: int | None) -> str | None:
    return None if micro is None else format_exact(micro)


def _print(told: Mapping[str, Any]) -> None:
    console, budget = Console(highlight=False), told["budget"]
    console.print(f"{told['team']} over {told['inputTokens']} tokens", soft_wrap=True, markup=False)
    table = Table("ROLE", "TARGET", "CALLS", "OUTPUT TOKENS", "WORST $", box=SIMPLE_HEAD, pad_edge=False)
    for role in told["roles"]:
        table.add_row(role["role"], role["target"], f"{role['minCalls']}..{role['maxCalls']}", f"<= {role['maxOutputTokens']}", role["worstCost"] or "?")
    console.print(table)
    caps = ", ".join(f"{name} {value}" for name, value in budget.items() if value is not None)
    console.print(
        f"a run costs {told['minimumCost'] or '?'} to {told['worstCost'] or '?'} dollars, retries apart; perRun: {caps}", soft_wrap=True, markup=False
    )
    if told["cannotStart"]:
        console.print(f"it cannot start: {told['cannotStart']}", soft_wrap=True, markup=False)
    elif told["firstLimit"]:
        console.print(f"the worst case exceeds perRun.{told['firstLimit']} first: such a run is cut off there", soft_wrap=True, markup=False)
    else:
        console.print("the worst case fits", soft_wrap=True, markup=False)
