"""What the API server cannot check in a team: faults of its strategy and of its roles' schemas, as sentences that begin with their path.

Decided here: that everything a strategy refers to is there before it is asked for: steps by earlier steps or by those of the same loop, fields by the schema of
the role that answers, roles by the strategy at all. CEL has checked the rest; what would raise further on is checked again, for objects that came past it.
Not decided here: what becomes of a team with faults (``compile.py``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from modelfleet.api.v1alpha1.agentteam import AgentTeamSpec, Chain, ChainStep, FieldMatch, MapReduce, Repeat, Role, StepMatch
from modelfleet.core.teams.schema import canonical, check_schema, misfit
from modelfleet.core.teams.template import TemplateError, placeholders

__all__ = ["answering_role", "schema_faults", "strategy_faults", "used_roles"]

_QUOTED: Final = 80
_PLACEHOLDERS: Final = 32
"""In one template: each may stand for megabytes."""


def schema_faults(spec: AgentTeamSpec) -> list[str]:
    """Faults of the roles' output schemas."""
    return [
        f"roles[{role.name}].outputSchema{fault.removeprefix('$')}"
        for role in spec.roles
        if role.output_schema is not None
        for fault in check_schema(role.output_schema)
    ]


def strategy_faults(spec: AgentTeamSpec) -> list[str]:
    """Faults of the strategy; the roles' schemas are taken to be good."""
    if (spec.strategy.chain is None) == (spec.strategy.map_reduce is None):
        return ["strategy: exactly one of chain and mapReduce"]
    roles = {role.name: role for role in spec.roles}
    used = used_roles(spec)
    faults = [f"{path} names {name}, which is not in roles" for path, name in sorted(used.items()) if name not in roles]
    idle = sorted(set(roles) - set(used.values()))
    faults += [f"roles[{name}] is used by nothing in the strategy: use it or remove it" for name in idle]
    if spec.strategy.chain is not None:
        faults += _chain_faults(spec.strategy.chain, roles)
    if spec.strategy.map_reduce is not None:
        faults += _map_reduce_faults(spec.strategy.map_reduce, roles)
    return faults


def used_roles(spec: AgentTeamSpec) -> dict[str, str]:
    """Path of each place of the strategy that names a role it may call -> the role's name."""
    chain, map_reduce = spec.strategy.chain, spec.strategy.map_reduce
    used: dict[str, str] = {}
    if chain is not None:
        used |= {f"strategy.chain.steps[{step.name}].role": step.role for step in chain.steps}
    if map_reduce is not None:
        used["strategy.mapReduce.map.role"] = map_reduce.map.role
        if map_reduce.plan is not None:
            used["strategy.mapReduce.plan.role"] = map_reduce.plan.role
        if map_reduce.reduce is not None:
            used["strategy.mapReduce.reduce.role"] = map_reduce.reduce.role
        if map_reduce.on_branch_failure == "Escalate" and map_reduce.escalate_to is not None:
            used["strategy.mapReduce.escalateTo"] = map_reduce.escalate_to
    return used


def answering_role(strategy: Chain | MapReduce) -> str:
    """Who has the last word: the last step's role, the reducing role, or (nobody reduces) the mapping role."""
    if isinstance(strategy, Chain):
        return strategy.steps[-1].role
    return strategy.reduce.role if strategy.reduce is not None else strategy.map.role


# --- chain ---


def _chain_faults(chain: Chain, roles: Mapping[str, Role]) -> list[str]:
    faults: list[str] = []
    repeated = _repeated(chain)
    for index, step in enumerate(chain.steps):
        path, earlier = f"strategy.chain.steps[{step.name}]", {s.name: s for s in chain.steps[:index]}
        # what comes later in a loop spoke in the turn before; in the first turn it is empty
        looped = step.name in repeated
        faults += _input_faults(step.input, f"{path}.input", earlier | repeated if looped else earlier, roles, looped=looped)
        if step.when is not None:
            faults += _step_match_faults(step.when, f"{path}.when", earlier, roles, "an earlier step")
    if chain.repeat is not None:
        faults += _repeat_faults(chain.repeat, chain.steps, roles)
    return faults


def _repeated(chain: Chain) -> dict[str, ChainStep]:
    """The steps of the loop; none where it names what is not there."""
    order = [step.name for step in chain.steps]
    if chain.repeat is None or chain.repeat.from_step not in order or chain.repeat.to_step not in order:
        return {}
    return {step.name: step for step in chain.steps[order.index(chain.repeat.from_step) : order.index(chain.repeat.to_step) + 1]}


def _input_faults(template: str, path: str, said: Mapping[str, ChainStep], roles: Mapping[str, Role], *, looped: bool) -> Iterator[str]:
    try:
        named = placeholders(template)
    except TemplateError as error:
        yield f"{path}: {error}"
        return
    if len(named) > _PLACEHOLDERS:
        yield f"{path}: {len(named)} placeholders, the most is {_PLACEHOLDERS}"
        return
    loop = " or one of the same loop" if looped else ""
    for placeholder in dict.fromkeys(named):
        if placeholder.step is not None and placeholder.step not in said:
            yield f"{path} names {placeholder.step}, which is not an earlier step{loop}"
        elif placeholder.step is not None and placeholder.field is not None:
            yield from _field_faults(placeholder.field, path, roles.get(said[placeholder.step].role))


def _repeat_faults(repeat: Repeat, steps: Sequence[ChainStep], roles: Mapping[str, Role]) -> list[str]:
    order = [step.name for step in steps]
    path = "strategy.chain.repeat"
    unknown = [f"{path}.{end} names {name}, which is not a step" for end, name in (("from", repeat.from_step), ("to", repeat.to_step)) if name not in order]
    if unknown:
        return unknown
    first, last = order.index(repeat.from_step), order.index(repeat.to_step)
    if first > last:
        return [f"{path}: from ({repeat.from_step}) comes after to ({repeat.to_step})"]
    repeated = {step.name: step for step in steps[first : last + 1]}
    return _step_match_faults(repeat.until, f"{path}.until", repeated, roles, "one of the repeated steps")


def _step_match_faults(match: StepMatch, path: str, known: Mapping[str, ChainStep], roles: Mapping[str, Role], what: str) -> list[str]:
    if match.step not in known:
        return [f"{path}.step names {match.step}, which is not {what}"]
    return _match_faults(match.field, match.one_of, path, roles.get(known[match.step].role))


# --- mapReduce ---


def _map_reduce_faults(strategy: MapReduce, roles: Mapping[str, Role]) -> list[str]:
    drop: FieldMatch | None = strategy.map.drop_when
    faults = _past_cel(strategy)
    if drop is not None:
        faults += _match_faults(drop.field, drop.one_of, "strategy.mapReduce.map.dropWhen", roles.get(strategy.map.role))
    return faults


def _past_cel(strategy: MapReduce) -> list[str]:
    faults = []
    if strategy.split.by == "Chunk" and (strategy.split.tokens is None or strategy.split.overlap * 2 > strategy.split.tokens):
        faults.append("strategy.mapReduce.split: Chunk needs tokens, and overlap at most half of them")
    if (strategy.reduce is None) == (strategy.reducer is None):
        faults.append("strategy.mapReduce: exactly one of reduce and reducer")
    if strategy.on_branch_failure == "Escalate" and strategy.escalate_to is None:
        faults.append("strategy.mapReduce: onBranchFailure Escalate needs escalateTo")
    return faults


# --- fields of typed outputs ---


def _match_faults(field: str, one_of: Sequence[str], path: str, role: Role | None) -> list[str]:
    faults = list(_field_faults(field, f"{path}.field", role))
    if faults or role is None or role.output_schema is None:
        return faults
    schema = role.output_schema["properties"][field]
    return [fault for index, text in enumerate(one_of) if (fault := _value_fault(text, schema, f"{path}.oneOf[{index}]"))]


def _value_fault(text: str, schema: Mapping[str, Any], path: str) -> str | None:
    """A text that no answer can equal would make its branch dead, without a word."""
    spelled = canonical(schema)
    if misfit(spelled, text) is None:
        return None
    try:
        value = json.loads(text)
        if misfit(spelled, value) is None:
            return None if canonical(value) == text else f"{path}: write {text[:_QUOTED]} as {canonical(value)[:_QUOTED]}, its canonical JSON"
    except (ValueError, RecursionError):
        pass
    return f"{path}: no answer that fits the role's outputSchema has {text[:_QUOTED]} there"


def _field_faults(field: str, path: str, role: Role | None) -> Iterator[str]:
    if role is None:
        return
    if role.output_schema is None:
        yield f"{path}: {field} needs an outputSchema of role {role.name}"
    elif not isinstance(properties := role.output_schema.get("properties"), Mapping) or field not in properties:
        yield f"{path}: {field} is not in the properties of role {role.name}'s outputSchema"
