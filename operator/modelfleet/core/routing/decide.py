"""One request -> the chain of groups that Envoy walks, and why. Pure and deterministic: equal arguments give equal answers on every router.

Decided here: which rule matches, which candidates can serve, in which order their groups are tried, or the refusal. Depends on the
``RoutingPlan`` and on ``RequestFacts`` alone; no clock, no chance (splits hash the session). Not decided: what the groups are
(``compile.py``). An answer only ever reorders groups that compile put into the policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from modelfleet.api.conditions import DecisionReason
from modelfleet.api.v1alpha1.routingpolicy import Match, Rule
from modelfleet.core.grants import Grant

from .answer import Decision, Refusal, Step
from .granted import Given, Tariff, affordable, grant_refusal
from .ir import CandidatePlan, EntrypointPlan, PolicyPlan, RoutingPlan
from .request import BadRequest, RequestFacts

__all__ = ["Decision", "Entry", "Refusal", "RoutingTable", "Step", "decide", "refuse", "routing_table"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A public model name: the policy that owns it, the rule it pins, and the policy's candidates by name.

    ``tariff``: of a target that needs grants. ``ready``: pool key -> ready pods, which explanations tell.
    """

    policy: PolicyPlan
    entrypoint: EntrypointPlan
    pinned: Rule | None
    candidates: Mapping[str, CandidatePlan]
    tariff: Tariff | None = None
    ready: Mapping[str, int] = field(default_factory=dict)


RoutingTable = Mapping[str, Entry]
"""Entries by model name; made once per plan."""


def routing_table(plan: RoutingPlan) -> RoutingTable:
    """Index a plan for ``decide``. Names are unique in a plan: compile gave each to one policy."""
    flavors = {pods.name: tuple((pods.pool, f) for f in sorted({*pods.flavors, *(a.flavor for a in pods.addresses)})) for pods in plan.pod_clusters}
    flavors |= {remote.name: ((remote.pool, remote.flavor),) for remote in plan.remote_clusters}
    ready = {pods.pool: len(pods.addresses) for pods in plan.pod_clusters}

    def entry(policy: PolicyPlan, entrypoint: EntrypointPlan) -> Entry:
        pinned = next((rule for rule in policy.rules if rule.name == entrypoint.rule), None)
        tariff = Tariff({group: flavors[cluster] for group, cluster in policy.groups if cluster in flavors}, plan.prices) if policy.granted else None
        return Entry(policy, entrypoint, pinned, {candidate.name: candidate for candidate in policy.candidates}, tariff, ready)

    return {entrypoint.name: entry(policy, entrypoint) for policy in plan.policies for entrypoint in policy.entrypoints}


def decide(table: RoutingTable, facts: RequestFacts, decision_id: str, *, route_policy: str | None = None, grant: Given = None) -> Decision:
    """Decide one request. ``decision_id`` names it; ``route_policy`` is the policy whose route Envoy picked, if known; ``grant``: what the request showed.

    A grant means nothing but on the target of a team's role.
    """
    entry = table.get(facts.model)
    if entry is None or route_policy not in (None, entry.policy.key):
        return _leave_to_the_route(decision_id, facts, route_policy or "")
    trail: list[Step] = []
    if entry.tariff is not None:
        refusal = grant_refusal(entry.policy.key, grant, facts.bound)
        if refusal is not None or facts.bound is None or not isinstance(grant, Grant):
            refusal = refusal or Refusal(403, DecisionReason.GRANT_INVALID, "no grant")
            return _refused(entry, facts, decision_id, (Step(refusal.code, detail=refusal.message),), refusal)
        trail.append(Step(DecisionReason.GRANTED, have=grant.max_cost_micro_usd))
        entry = replace(entry, candidates=affordable(entry.candidates.values(), entry.tariff, grant, facts.bound, trail))
    capable = _capable(entry, facts, trail)
    rule, why = _rule(entry, facts, trail)
    if rule is None:
        wanted: tuple[str, ...] = entry.policy.default_chain
    elif rule.weights and any(weight.percent for weight in rule.weights):
        wanted = _by_weight(rule, entry.policy.key, facts.session, capable, trail)
        why = why if why is DecisionReason.RULE_PINNED else DecisionReason.WEIGHTED
    else:
        wanted = tuple(rule.candidates or entry.candidates)
        trail.append(Step(DecisionReason.IN_LISTED_ORDER, rule.name))
    kept = [name for name in dict.fromkeys((*wanted, *entry.policy.default_chain)) if name in capable]
    name = "" if rule is None else rule.name
    if not kept:
        return _no_candidate(entry, facts, decision_id, name, trail)
    chain, groups = _chain(entry, kept, trail)
    return Decision(
        id=decision_id,
        entrypoint=facts.model,
        policy=entry.policy.key,
        generation=entry.policy.generation,
        rule=name,
        why=why,
        chain=chain,
        groups=groups,
        trail=tuple(trail),
    )


def refuse(decision_id: str, model: str, error: BadRequest) -> Decision:
    """The decision about a body that cannot be read."""
    return Decision(
        id=decision_id,
        entrypoint=model,
        policy="",
        generation=0,
        rule="",
        why=error.reason,
        chain=(),
        groups=(),
        trail=(Step(error.reason, detail=error.message),),
        refusal=Refusal(400, error.reason, error.message),
    )


def _leave_to_the_route(decision_id: str, facts: RequestFacts, policy: str) -> Decision:
    """Envoy runs a route that this plan no longer holds, or not yet: the route's own static chain, or refusal, is the right answer."""
    reason = DecisionReason.NOT_PROGRAMMED
    return Decision(
        id=decision_id, entrypoint=facts.model, policy=policy, generation=0, rule="", why=reason, chain=(), groups=(), trail=(Step(reason, facts.model),)
    )


def _capable(entry: Entry, facts: RequestFacts, trail: list[Step]) -> set[str]:
    """Candidates that can serve the request at all; every other leaves a step with its reason."""
    kept: set[str] = set()
    for candidate in entry.candidates.values():
        obstacle = _obstacle(candidate, facts)
        if obstacle is None:
            kept.add(candidate.name)
        else:
            trail.append(obstacle)
    return kept


def _obstacle(candidate: CandidatePlan, facts: RequestFacts) -> Step | None:
    can = candidate.capabilities
    if not candidate.groups:
        return Step(DecisionReason.NOT_PROGRAMMED, candidate.name, detail=candidate.unusable)
    need = facts.input_tokens + facts.output_tokens
    if can.max_context is not None and need > can.max_context:
        return Step(DecisionReason.CONTEXT_TOO_SMALL, candidate.name, need=need, have=can.max_context)
    if facts.tools and not can.tools:
        return Step(DecisionReason.NO_TOOLS, candidate.name)
    if facts.json_mode and not can.json_mode:
        return Step(DecisionReason.NO_JSON, candidate.name)
    if facts.vision and not can.vision:
        return Step(DecisionReason.NO_VISION, candidate.name)
    return None


def _rule(entry: Entry, facts: RequestFacts, trail: list[Step]) -> tuple[Rule | None, DecisionReason]:
    """The rule that applies and the word for it; a body of which only the head was seen matches none."""
    if facts.body_cut:
        trail.append(Step(DecisionReason.BODY_CUT))
        return None, DecisionReason.BODY_CUT
    if entry.pinned is not None:
        trail.append(Step(DecisionReason.RULE_PINNED, entry.pinned.name))
        return entry.pinned, DecisionReason.RULE_PINNED
    for rule in entry.policy.rules:
        mismatch = _mismatch(rule.match, facts)
        if mismatch is None:
            trail.append(Step(DecisionReason.RULE_MATCHED, rule.name))
            return rule, DecisionReason.RULE_MATCHED
        trail.append(Step(DecisionReason.RULE_NOT_MATCHED, rule.name, detail=mismatch))
    trail.append(Step(DecisionReason.DEFAULT_CHAIN))
    return None, DecisionReason.DEFAULT_CHAIN


def _mismatch(match: Match, facts: RequestFacts) -> str | None:
    """The first field of a match that does not hold, in words; None: all hold. Header values are the policy's, never the client's."""
    for header in match.headers or ():
        if facts.headers.get(header.name) != header.value:
            return f"header {header.name} is not {header.value}"
    bounds = match.input_tokens
    if bounds is not None:
        if bounds.min is not None and facts.input_tokens < bounds.min:
            return f"about {facts.input_tokens} input tokens, below {bounds.min}"
        if bounds.max is not None and facts.input_tokens > bounds.max:
            return f"about {facts.input_tokens} input tokens, above {bounds.max}"
    if match.tools == "Present" and not facts.tools:
        return "no tools in the request"
    if match.tools == "Absent" and facts.tools:
        return "tools in the request"
    return None


def _by_weight(rule: Rule, policy: str, session: str, capable: set[str], trail: list[Step]) -> tuple[str, ...]:
    """The session's candidate first, the other weighted ones behind it as listed. Percent 0 drains: such a candidate serves only through the default chain.

    A session whose candidate cannot serve is split anew among those that can, so the others keep theirs.
    """
    weights = [(weight.candidate, weight.percent) for weight in rule.weights or () if weight.percent > 0]
    chosen = _draw(weights, f"{policy}\0{session}")
    if chosen not in capable:
        able = [(name, percent) for name, percent in weights if name in capable]
        chosen = _draw(able, f"{policy}\0again\0{session}") if able else chosen
    trail.append(Step(DecisionReason.WEIGHTED, chosen, have=dict(weights)[chosen], detail=rule.name))
    return (chosen, *(name for name, _ in weights if name != chosen))


def _draw(weights: list[tuple[str, int]], key: str) -> str:
    point = int.from_bytes(blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest(), "big") % sum(percent for _, percent in weights)
    for name, percent in weights:
        if point < percent:
            return name
        point -= percent
    return weights[-1][0]


def _chain(entry: Entry, kept: Iterable[str], trail: list[Step]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Candidates and groups in order, cut by the policy's attempts and padded with the last group, since past its end Envoy repeats or wraps."""
    attempts = entry.policy.max_attempts
    groups: list[str] = []
    chain: list[str] = []
    for name in kept:
        new = [group for group in entry.candidates[name].groups if group not in groups]
        fitting = new[: attempts - len(groups)]
        if fitting:
            chain.append(name)
            groups.extend(fitting)
        if len(fitting) < len(new):
            trail.append(Step(DecisionReason.CUT_BY_MAX_ATTEMPTS, name, need=len(new), have=len(fitting)))
    groups.extend([groups[-1]] * (attempts - len(groups)))
    return tuple(chain), tuple(groups)


def _no_candidate(entry: Entry, facts: RequestFacts, decision_id: str, rule: str, trail: list[Step]) -> Decision:
    """Nobody can serve: the client's fault (400) if it asked too much of candidates that run, the grant's (403) if it pays none, ours (503) if none runs."""
    drops = [step for step in trail if step.subject in entry.candidates and step.code in _ASKED_TOO_MUCH]
    above = [f"{step.subject}: {step.detail}" for step in trail if step.code is DecisionReason.ABOVE_GRANT]
    if drops:
        refusal = Refusal(400, DecisionReason.NO_CAPABLE_CANDIDATE, f"no model behind {facts.model!r} can serve this request: {_names(drops)}")
    elif above:
        refusal = Refusal(403, DecisionReason.ABOVE_GRANT, f"no model behind {facts.model!r} may be asked with this grant: {'; '.join(above)}")
    else:
        refusal = Refusal(503, DecisionReason.NOT_PROGRAMMED, f"no model behind {facts.model!r} is programmed now; try again later")
    return _refused(entry, facts, decision_id, (*trail, Step(refusal.code)), refusal, rule=rule)


def _refused(entry: Entry, facts: RequestFacts, decision_id: str, trail: tuple[Step, ...], refusal: Refusal, *, rule: str = "") -> Decision:
    return Decision(
        id=decision_id,
        entrypoint=facts.model,
        policy=entry.policy.key,
        generation=entry.policy.generation,
        rule=rule,
        why=refusal.code,
        chain=(),
        groups=(),
        trail=trail,
        refusal=refusal,
    )


_ASKED_TOO_MUCH = frozenset((DecisionReason.CONTEXT_TOO_SMALL, DecisionReason.NO_TOOLS, DecisionReason.NO_JSON, DecisionReason.NO_VISION))


def _names(drops: Iterable[Step]) -> str:
    return ", ".join(f"{step.subject} ({step.code})" for step in drops)
