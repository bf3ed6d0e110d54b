"""What every strategy is: a pure step machine between events (what happened to calls) and commands (what to do next).

Time arrives as events; nothing here waits, logs or draws lots. Call ids are deterministic text, unique in a run (``map/0/3``). Laws that hold for every
machine, whatever the order of events: docs/adr (teams) lists L1 to L8 and ``tests/core/teams`` proves them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from modelfleet.core.teams.ir import TeamPlan

__all__ = [
    "Bound",
    "BudgetRefused",
    "Call",
    "CallCancelled",
    "CallFailed",
    "CallSucceeded",
    "CancelCall",
    "CancelRequested",
    "Command",
    "DeadlineReached",
    "Event",
    "Finish",
    "InputSize",
    "Message",
    "Outcome",
    "Progress",
    "RoleBound",
    "Step",
    "Strategy",
    "Task",
]

ErrorClass = Literal["Timeout", "RateLimited", "ServerError", "InvalidOutput", "Unavailable", "Refused", "TooLarge", "Internal"]
State = Literal["Succeeded", "PartiallySucceeded", "BudgetExhausted", "TimedOut", "Cancelled", "Failed"]


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: Literal["system", "user"]
    content: str


@dataclass(frozen=True, slots=True)
class Task:
    """What a run is asked.

    ``question``: the last user message; ``context``: the texts before it, in order (the document of a mapReduce; if there are none, the
    question is the document too). ``max_tokens``: the client's tighter limit on the answer; ``response_schema``: canonical JSON text the client asked for.
    ``temperature``, ``top_p`` (decimal strings), ``seed`` and ``stop``: the client's wishes for the answering role's sampling; no machine looks at them.
    """

    question: str
    context: tuple[str, ...] = ()
    max_tokens: int | None = None
    response_schema: str | None = None
    temperature: str | None = None
    top_p: str | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


# --- events ---


@dataclass(frozen=True, slots=True)
class CallSucceeded:
    """A call answered. ``value``: the parsed typed output when its role has a schema. ``cut``: it ended by length."""

    call: str
    text: str
    value: Any = None
    cut: bool = False


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A call failed for good, its retries used up."""

    call: str
    error: ErrorClass


@dataclass(frozen=True, slots=True)
class CallCancelled:
    """A call ended since it was told to."""

    call: str


@dataclass(frozen=True, slots=True)
class BudgetRefused:
    """The ledger will not pay for this call, now or later. ``cap``: RunCost, RunTokens or RunModelCalls."""

    call: str
    cap: Literal["RunCost", "RunTokens", "RunModelCalls", "ProviderOverran"] = "RunCost"


@dataclass(frozen=True, slots=True)
class DeadlineReached:
    """The run's time is up. ``by``: WallClock or ClientDeadline."""

    by: Literal["WallClock", "ClientDeadline"] = "WallClock"


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Somebody who may ended the run."""

    by: Literal["CancelRequested", "ClientGone", "TeamDeleted"] = "CancelRequested"


Event = CallSucceeded | CallFailed | CallCancelled | BudgetRefused | DeadlineReached | CancelRequested


# --- commands ---


@dataclass(frozen=True, slots=True)
class Call:
    """Ask a role's model.

    ``schema``: canonical JSON text its answer must fit. ``answers``: its text is the run's answer, so it may be streamed through.
    ``final``: paid from the holdback. ``max_tokens``: never above the role's own.
    """

    id: str
    role: str
    messages: tuple[Message, ...]
    max_tokens: int
    schema: str | None = None
    answers: bool = False
    final: bool = False


@dataclass(frozen=True, slots=True)
class CancelCall:
    """Give up an open call."""

    id: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Something worth telling a client that asked for progress."""

    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. ``answer`` None: there is none. ``report``: the strategy's own figures, JSON-able, sorted keys."""

    state: State
    stop_reason: str
    answer: str | None = None
    complete: bool = True
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finish:
    """The end; nothing follows."""

    outcome: Outcome


Command = Call | CancelCall | Progress | Finish


@dataclass(frozen=True, slots=True)
class Step:
    """A machine's new state (opaque outside its strategy) and what to do now."""

    state: Any
    commands: tuple[Command, ...] = ()


# --- bounds ---


@dataclass(frozen=True, slots=True)
class InputSize:
    """Bytes of a task, as UTF-8."""

    question_bytes: int
    context_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RoleBound:
    """The most and the least that one role is asked in a run: calls, prompt bytes of all of them together, completion tokens of all of them together."""

    max_calls: int = 0
    min_calls: int = 0
    max_prompt_bytes: int = 0
    min_prompt_bytes: int = 0
    max_completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Bound:
    """Bounds of a run, by role. Retries are not in it."""

    roles: Mapping[str, RoleBound]

    @property
    def max_calls(self) -> int:
        """The most model calls of a run, retries apart."""
        return sum(role.max_calls for role in self.roles.values())


class Strategy(Protocol):
    """One strategy. ``start`` and ``step`` are pure; equal histories give equal commands, which is how a run resumes."""

    def start(self, plan: TeamPlan, task: Task) -> Step:
        """The first step. A task that cannot be worked on (too many parts) finishes at once, before any cost."""
        ...

    def step(self, state: Any, event: Event) -> Step:
        """What an event changes. Events about unknown or closed calls change nothing."""
        ...

    def finalizing_call(self, plan: TeamPlan, task: Task) -> Call:
        """The dearest call that a finalize may make: what the holdback is reserved for."""
        ...

    def bound(self, plan: TeamPlan, size: InputSize) -> Bound:
        """The most and the least a run over a task of this size may take."""
        ...
