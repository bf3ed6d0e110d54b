"""The decider compiled away: which requests of an entrypoint Envoy can answer by itself, and with which chain.

Decided here: for one entrypoint, in the order of its rules, what Envoy matches without a decider (the name, exact headers) and the answer that ``decide``
gives to every such request. The answer comes from ``decide`` itself, so the two cannot drift apart. A rule that looks at the content (tools, size), splits
by session or matches a header that Envoy and the decider see differently keeps the decider, for the requests that reach it and no others.
Capabilities do not: a route has watchwords, and only a request that shows one of them is decided (``guard.py``).
Chains follow facts: a plan made from other ready pods holds other chains, and reaches Envoy like any other change of routes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from modelfleet.api.conditions import DecisionReason
from modelfleet.api.v1alpha1.routingpolicy import Match, Rule

from .decide import Entry, decide
from .guard import may_need_decider
from .ir import CandidatePlan, EntrypointPlan, EntrypointRoute, PolicyPlan, TeamRoute, Watchwords
from .request import HIDDEN_HEADERS, RequestFacts

__all__ = ["compiled_route", "decision_header", "entrypoint_routes", "facts_of", "padded", "team_header"]

_MOST: Final = 8
"""Routes of one entrypoint: Envoy tries routes one by one, those of neighbours too. What is behind the eighth is decided."""


def padded(groups: Sequence[str], attempts: int) -> tuple[str, ...]:
    """Cut or padded to ``attempts``: past its end Envoy 1.40 repeats the last group and later versions wrap, so the end is never reached."""
    chain = list(groups[:attempts])
    return (*chain, *(f"{chain[-1]}#{n}" for n in range(2, attempts - len(chain) + 2)))


def entrypoint_routes(policy: PolicyPlan, entrypoint: EntrypointPlan) -> tuple[EntrypointRoute, ...]:
    """The routes of one entrypoint, in order; the last takes whatever the others left."""
    if entrypoint.rule is not None:
        pinned = next((rule for rule in policy.rules if rule.name == entrypoint.rule), None)
        return (_route(policy, entrypoint, pinned, ()),)
    routes: list[EntrypointRoute] = []
    for rule in policy.rules:
        headers = tuple((h.name, h.value) for h in rule.match.headers or ())
        if len(routes) == _MOST - 1 or any(_seen_differently(name) for name, _ in headers):
            routes.append(EntrypointRoute())
        elif _looks_inside(rule.match):
            routes.append(EntrypointRoute(headers=headers))
        else:
            routes.append(_route(policy, entrypoint, rule, headers))
        if not routes[-1].headers:
            break
    else:
        routes.append(_route(policy, entrypoint, None, ()))
    while len(routes) > 1 and routes[-1].needs_decider and routes[-2].needs_decider:
        routes[-2:] = [EntrypointRoute()]
    return tuple(routes)


def compiled_route(entry: Entry, headers: Mapping[str, str], body: bytes) -> EntrypointRoute | None:
    """The route that answers this request without a decision, as Envoy finds it; None: the decider is asked."""
    route = next(r for r in entry.entrypoint.routes if all(headers.get(name) == value for name, value in r.headers))
    return None if route.needs_decider or may_need_decider(route.watchwords, entry.entrypoint.name, body) else route


def decision_header(policy: PolicyPlan, route: EntrypointRoute) -> str:
    """The value of x-modelfleet-decision where nobody decided: since there was nothing to decide, or since the decider was lost."""
    name = f"policy={policy.key}/{policy.generation}"
    if route.needs_decider:
        return f"{name};chain={','.join(policy.static_chain)};why={DecisionReason.DECIDER_LOST}"
    return f"{name};rule={route.rule or '-'};chain={','.join(route.chain)};why={DecisionReason.COMPILED}"


def team_header(team: TeamRoute) -> str:
    """The same of a team's name."""
    return f"policy=-;team={team.team}/{team.generation};chain=teams;why=Team"


def facts_of(entry: Entry, route: EntrypointRoute) -> list[str]:
    """What the order of a compiled chain was made from, one sentence for each candidate in it."""
    said = []
    for name in route.chain:
        candidate = entry.candidates[name]
        ready = entry.ready.get(candidate.pool, 0)
        state = f"{ready} ready {'pod' if ready == 1 else 'pods'}" if ready else "no ready pod"
        said.append(f"{name}: pool {candidate.pool} has {state}, so {' then '.join(candidate.groups)}")
    return said


def _looks_inside(match: Match) -> bool:
    return match.tools != "Any" or match.input_tokens is not None


def _seen_differently(header: str) -> bool:
    """The decider never sees these, or Envoy changes them between the two."""
    return header in HIDDEN_HEADERS or header == "host" or header.startswith(("x-envoy-", "x-modelfleet-"))


def _route(policy: PolicyPlan, entrypoint: EntrypointPlan, rule: Rule | None, headers: tuple[tuple[str, str], ...]) -> EntrypointRoute:
    """What ``decide`` answers once this rule is found to match, if that is the same for every request."""
    shares = [w for w in (rule.weights or () if rule else ()) if w.percent > 0]
    by_name = {c.name: c for c in policy.candidates}
    if len(shares) > 1:
        return EntrypointRoute(headers=headers)
    table = {entrypoint.name: Entry(replace(policy, rules=()), entrypoint, rule, by_name)}
    decision = decide(table, RequestFacts(entrypoint.name), "")
    if not decision.groups:
        return EntrypointRoute(headers=headers)
    named = padded(list(dict.fromkeys(decision.groups)), policy.max_attempts)
    clusters = dict(policy.groups)
    first = {group: clusters[group.partition("#")[0]] for group in named}
    others = {group: cluster for group, cluster in policy.groups if "#" not in group and group not in first}
    wanted = [w.candidate for w in shares] or (rule.candidates or list(by_name) if rule else [])
    return EntrypointRoute(
        headers=headers,
        rule="" if rule is None else rule.name,
        needs_decider=False,
        chain=decision.chain,
        groups=(*first.items(), *others.items()),
        watchwords=_watchwords(by_name[name] for name in {*wanted, *policy.default_chain} if by_name[name].groups),
    )


def _watchwords(candidates: Iterable[CandidatePlan]) -> Watchwords:
    can = [c.capabilities for c in candidates]
    return Watchwords(
        tools=any(not c.tools for c in can),
        json=any(not c.json_mode for c in can),
        images=any(not c.vision for c in can),
        limit=min((c.max_context for c in can if c.max_context is not None), default=0),
    )
