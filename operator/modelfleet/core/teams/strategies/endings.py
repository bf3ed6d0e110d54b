"""How runs end: states and stop reasons that the strategies share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from modelfleet.core.teams.strategies.protocol import CancelCall, Command, Finish, Outcome, State

__all__ = ["CONTEXT_TOO_LONG", "FAILURES", "INVALID_INPUT", "MOST_PROMPT_BYTES", "Cap", "ending", "first_cap"]

Cap = Literal["RunCost", "RunTokens", "RunModelCalls", "ProviderOverran"]

CONTEXT_TOO_LONG: Final = "ContextTooLong"
"""Failed before any cost: the document has more parts than the team reads."""
INVALID_INPUT: Final = "InvalidInput"
"""Failed before any cost: the document cannot be cut as the team says. ``report["message"]`` tells the client what is wrong."""

MOST_PROMPT_BYTES: Final = 32 * 1024 * 1024
"""Of all that one step asks at once, as far as it repeats the task, and of a finalizing call. More would end the process before it ended a budget."""

FAILURES: Final[Mapping[str, str]] = {
    "Timeout": "RoleUnavailable",
    "RateLimited": "RoleUnavailable",
    "ServerError": "RoleUnavailable",
    "Unavailable": "RoleUnavailable",
    "Refused": "RoleUnavailable",
    "InvalidOutput": "InvalidOutput",
    "TooLarge": "InvalidOutput",
    "Internal": "Internal",
}
"""Error class of the call that a run could not do without -> stop reason."""

_CAPS: Final[tuple[Cap, ...]] = ("ProviderOverran", "RunCost", "RunTokens", "RunModelCalls")


def first_cap(caps: Iterable[Cap]) -> Cap:
    """The cap that a run with several refused calls stopped at, whatever their order."""
    return min(caps, key=_CAPS.index)


def ending(
    state: State,
    stop_reason: str,
    *,
    answer: str | None,
    complete: bool,
    report: Mapping[str, Any],
    cancel: Iterable[str] = (),
) -> tuple[Command, ...]:
    """The last commands of a run: open calls are given up, then it finishes. The report's keys are sorted."""
    outcome = Outcome(state, stop_reason, answer, complete, dict(sorted(report.items())))
    return (*(CancelCall(call) for call in sorted(cancel)), Finish(outcome))
