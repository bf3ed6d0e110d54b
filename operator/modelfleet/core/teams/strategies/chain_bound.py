"""How much a chain can take: steps times iterations, and the longest prompt that each template can make."""

from __future__ import annotations

from modelfleet.api.v1alpha1.agentteam import Chain, ChainStep
from modelfleet.core.teams.ir import TeamPlan
from modelfleet.core.teams.strategies.bounds import calls_bound, finalizing_extra, total
from modelfleet.core.teams.strategies.endings import MOST_PROMPT_BYTES
from modelfleet.core.teams.strategies.prompts import JOIN, output_bytes
from modelfleet.core.teams.strategies.protocol import Bound, InputSize, RoleBound
from modelfleet.core.teams.template import parse_template
from modelfleet.core.teams.tokens import text_bytes

__all__ = ["chain_bound", "chain_of", "final_room", "looped", "passed_on", "repeated_input"]

LEAST_ROOM = 2048
"""Bytes of text that a finalizing call is given at least, however short the last step's own prompt is."""


def chain_of(plan: TeamPlan) -> Chain:
    """The description. Raises TypeError for another strategy's plan."""
    if not isinstance(plan.strategy, Chain):
        raise TypeError(f"{plan.key}: its strategy is no chain")
    return plan.strategy


def looped(chain: Chain) -> list[ChainStep]:
    """The steps that may run again."""
    if chain.repeat is None:
        return []
    names = [step.name for step in chain.steps]
    return chain.steps[names.index(chain.repeat.from_step) : names.index(chain.repeat.to_step) + 1]


def passed_on(plan: TeamPlan, step_name: str) -> int:
    """The most bytes of a step's output in another prompt."""
    return next((output_bytes(plan.roles[step.role]) for step in chain_of(plan).steps if step.name == step_name), 0)


def final_room(plan: TeamPlan, size: InputSize) -> int:
    """Bytes of text of a finalizing call: those of the last step's ordinary one."""
    return min(max(_text_bound(plan, chain_of(plan).steps[-1], size), LEAST_ROOM), MOST_PROMPT_BYTES)


def repeated_input(plan: TeamPlan, step: ChainStep, size: InputSize) -> int:
    """Bytes of a step's text that are its template's own and the task's."""
    return _text_bound(plan, step, size, least=True)


def chain_bound(plan: TeamPlan, size: InputSize) -> Bound:
    """The bound. Its least is that of a run that succeeds without steps that have a ``when``."""
    steps = chain_of(plan).steps
    parts = [_step_bound(plan, step, size) for step in steps]
    if plan.budget.finalize:
        ordinary = _text_bound(plan, steps[-1], size)
        parts.append(finalizing_extra(plan.roles[steps[-1].role], room=final_room(plan, size), replaced_text=ordinary))
    return total(parts)


def _text_bound(plan: TeamPlan, step: ChainStep, size: InputSize, *, least: bool = False) -> int:
    """The most bytes that a step's template can make, or the least."""
    whole = size.context_bytes + size.question_bytes + (len(JOIN) if size.context_bytes and size.question_bytes else 0)
    count = 0
    for part in parse_template(step.input):
        if isinstance(part, str):
            count += text_bytes(part)
        elif part.step is None:
            count += whole
        elif not least:
            count += passed_on(plan, part.step)
    return count


def _step_bound(plan: TeamPlan, step: ChainStep, size: InputSize) -> tuple[str, RoleBound]:
    chain = chain_of(plan)
    most = chain.repeat.max_iterations if chain.repeat and step in looped(chain) else 1
    fewest = 1 if step.when is None else 0
    return calls_bound(
        plan.roles[step.role],
        most=most,
        fewest=fewest,
        most_text=most * _text_bound(plan, step, size),
        fewest_text=fewest * _text_bound(plan, step, size, least=True),
    )
