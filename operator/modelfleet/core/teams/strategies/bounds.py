"""Bounds of runs, put together from the calls that a machine may make."""

from __future__ import annotations

from collections.abc import Iterable

from modelfleet.core.teams.ir import RolePlan
from modelfleet.core.teams.strategies.prompts import PARTIAL, messages, prompt_bytes
from modelfleet.core.teams.strategies.protocol import Bound, RoleBound

__all__ = ["calls_bound", "finalizing_extra", "total"]


def calls_bound(role: RolePlan, *, most: int, fewest: int, most_text: int, fewest_text: int = 0, more: str = "") -> tuple[str, RoleBound]:
    """Bound of calls of one kind. ``most_text`` and ``fewest_text``: bytes of all user messages together; ``more``: what is added to the instructions."""
    fixed = prompt_bytes(messages(role, "", more))
    return role.name, RoleBound(most, fewest, most * fixed + most_text, fewest * fixed + fewest_text, most * role.max_tokens)


def finalizing_extra(role: RolePlan, *, room: int, replaced_text: int) -> tuple[str, RoleBound]:
    """What a finalizing call, with ``room`` bytes of text, adds to the call that it replaces."""
    notice = prompt_bytes(messages(role, "", PARTIAL)) - prompt_bytes(messages(role, ""))
    return role.name, RoleBound(max_prompt_bytes=notice + max(room - replaced_text, 0))


def total(parts: Iterable[tuple[str, RoleBound]]) -> Bound:
    """Bounds added up by role, roles sorted."""
    roles: dict[str, RoleBound] = {}
    for name, part in parts:
        so_far = roles.get(name, RoleBound())
        roles[name] = RoleBound(
            so_far.max_calls + part.max_calls,
            so_far.min_calls + part.min_calls,
            so_far.max_prompt_bytes + part.max_prompt_bytes,
            so_far.min_prompt_bytes + part.min_prompt_bytes,
            so_far.max_completion_tokens + part.max_completion_tokens,
        )
    return Bound({name: roles[name] for name in sorted(roles)})
