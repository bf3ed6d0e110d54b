"""Plans, tasks and histories for the tests of the strategies."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelfleet.api.v1alpha1.agentteam import Chain, MapReduce
from modelfleet.core.teams.checks import answering_role
from modelfleet.core.teams.ir import BudgetPlan, RolePlan, Target, TeamPlan
from modelfleet.core.teams.schema import canonical
from modelfleet.core.teams.strategies import strategy_of
from modelfleet.core.teams.strategies.protocol import (
    BudgetRefused,
    Call,
    CallCancelled,
    CallFailed,
    CallSucceeded,
    CancelCall,
    CancelRequested,
    Command,
    DeadlineReached,
    Event,
    Finish,
    Outcome,
    Step,
    Task,
)

SCHEMA = canonical({"type": "object", "properties": {"ok": {"type": "boolean"}, "finding": {"type": "string"}}, "required": ["ok"]})
ERRORS = ("Timeout", "RateLimited", "ServerError", "InvalidOutput", "Unavailable", "Refused", "TooLarge", "Internal")
CAPS = ("RunCost", "RunTokens", "RunModelCalls", "ProviderOverran")


def a_role(name: str, *, instructions: str = "", max_tokens: int = 100, schema: str | None = None) -> RolePlan:
    return RolePlan(name, Target("pool", f"demo/{name}"), instructions, max_tokens, timeout=60, max_concurrent=4, schema=schema)


def a_plan(strategy: Chain | MapReduce, *roles: RolePlan, finalize: bool = True) -> TeamPlan:
    return TeamPlan(
        key="demo/team",
        generation=1,
        revision="r-0",
        description="",
        suspended=False,
        roles={role.name: role for role in roles},
        strategy=strategy,
        answering_role=answering_role(strategy),
        budget=BudgetPlan(cost_micro_usd=1_000_000, tokens=None, model_calls=1000, wall_clock=60, finalize=finalize),
        max_runs=1,
        queue=1,
        journal_full=True,
        journal_ttl=60,
    )


def a_chain(*steps: Mapping[str, Any], roles: Sequence[RolePlan] | None = None, finalize: bool = True, **more: Any) -> TeamPlan:
    chain = Chain.model_validate({"steps": list(steps), **more})
    names = list(dict.fromkeys(step.role for step in chain.steps))
    return a_plan(chain, *(roles or [a_role(name, schema=SCHEMA) for name in names]), finalize=finalize)


def a_map_reduce(*, roles: Sequence[RolePlan] | None = None, finalize: bool = True, **spec: Any) -> TeamPlan:
    """Lines, read by ``reader``, answered by ``boss``, unless told otherwise."""
    reduce = {} if "reducer" in spec else {"reduce": {"role": "boss"}}
    described = MapReduce.model_validate({"split": {"by": "Lines"}, "map": {"role": "reader"}, **reduce, **spec})
    usual = [a_role("reader", instructions="Read.", schema=SCHEMA), a_role("boss", instructions="Answer."), a_role("senior", schema=SCHEMA)]
    return a_plan(described, *(roles or usual), finalize=finalize)


def lines(count: int, question: str = "Why?") -> Task:
    return Task(question, ("\n".join(f"line {i}" for i in range(count)),))


def typed(call: str, **value: Any) -> CallSucceeded:
    return CallSucceeded(call, json.dumps(value), value)


# --- histories ---


@dataclass
class Run:
    """A machine being driven: what it said, and which calls are open by what it said; each state, and what it was when it was new."""

    plan: TeamPlan
    task: Task
    state: Any = None
    commands: list[tuple[Command, ...]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    open: dict[str, Call] = field(default_factory=dict)
    states: list[tuple[Any, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.strategy = strategy_of(self.plan)
        self._take(self.strategy.start(self.plan, self.task))

    def send(self, event: Event) -> tuple[Command, ...]:
        self.events.append(event)
        step = self.strategy.step(self.state, event)
        self.open.pop(getattr(event, "call", ""), None)
        return self._take(step)

    def answer(self, text: str = "fine", **value: Any) -> tuple[Command, ...]:
        """Answers the only open call."""
        (call,) = self.open
        return self.send(typed(call, **value) if value else CallSucceeded(call, text))

    def _take(self, step: Step) -> tuple[Command, ...]:
        self.state = step.state
        self.states.append((step.state, repr(step.state)))
        for command in step.commands:
            if isinstance(command, Call):
                assert command.id not in self.open
                self.open[command.id] = command
            elif isinstance(command, CancelCall):
                del self.open[command.id]
        self.commands.append(step.commands)
        return step.commands

    @property
    def said(self) -> list[Command]:
        return [command for step in self.commands for command in step]

    @property
    def calls(self) -> list[Call]:
        return [command for command in self.said if isinstance(command, Call)]

    @property
    def outcome(self) -> Outcome | None:
        return next((command.outcome for command in self.said if isinstance(command, Finish)), None)


def texts(call: Call) -> str:
    return "\n---\n".join(f"{message.role}: {message.content}" for message in call.messages)


# --- random ones ---

# Drawn from a seed and not by Hypothesis, which prefers simple plans: two thirds of its runs ended before their second call.

TEXTS = ("Why?", "Why?", "", "é漢😀", "word " * 30, "x" * 3000, "ä" * 5000)


def some_lines(luck: random.Random) -> str:
    return "\n".join("abcdefghijkl"[: luck.randint(2, 12)])


def a_random_task(luck: random.Random) -> Task:
    context = luck.choice([[some_lines(luck)], [some_lines(luck), luck.choice(TEXTS)], [luck.choice(TEXTS)], []])
    return Task(luck.choice(TEXTS), tuple(context), luck.choice([None, luck.randint(1, 30)]), luck.choice([None, '{"type":"object"}']))


def random_roles(luck: random.Random) -> list[RolePlan]:
    return [
        a_role(name, instructions=luck.choice(["", "Be brief."]), max_tokens=luck.randint(1, 40), schema=luck.choice([None, SCHEMA, SCHEMA])) for name in "abc"
    ]


def a_random_chain(luck: random.Random) -> TeamPlan:
    names = [f"s{i}" for i in range(luck.randint(1, 4))]
    pieces = ["${input}", "text ", *(piece for name in names for piece in (f"${{steps.{name}.output}}", f"${{steps.{name}.output.finding}}"))]
    steps = []
    for index, name in enumerate(names):
        step: dict[str, Any] = {"name": name, "role": luck.choice("abc"), "onFailure": luck.choice(["Fail", "Skip"])}
        step["input"] = "".join(luck.choices(pieces, k=luck.randint(0, 3)))
        if index and luck.random() < 0.4:
            step["when"] = {"step": luck.choice(names[:index]), "field": "ok", "oneOf": ["true"]}
        steps.append(step)
    spec: dict[str, Any] = {"steps": steps}
    if luck.random() < 0.5:
        first = luck.randrange(len(names))
        last = luck.randrange(first, len(names))
        until = {"step": luck.choice(names[first : last + 1]), "field": "ok", "oneOf": ["true"]}
        spec["repeat"] = {"from": names[first], "to": names[last], "until": until, "maxIterations": luck.randint(1, 3)}
    return a_plan(Chain.model_validate(spec), *random_roles(luck), finalize=luck.random() < 0.7)


def a_random_map_reduce(luck: random.Random) -> TeamPlan:
    spec: dict[str, Any] = {"map": {"role": luck.choice("ab")}, "minSuccessful": luck.choice(["0%", "30%", "50%", "80%", "100%"])}
    by = luck.choice(["Chunk", "Lines", "Lines"])
    spec["split"] = {"by": by, "maxItems": luck.choice([40, 40, 40, 3])}
    if by == "Chunk":
        spec["split"] |= {"tokens": luck.choice([16, 300]), "overlap": 8}
    if luck.random() < 0.5:
        spec["map"]["dropWhen"] = {"field": "ok", "oneOf": ["false"]}
    if luck.random() < 0.4:
        spec["plan"] = {"role": luck.choice("ac"), "maxTasks": luck.randint(1, 3)}
    spec |= luck.choice([{"reducer": "Concat"}, *({"reduce": {"role": role, "fanIn": n}} for role in "ac" for n in (2, 3, 32))])
    failure = luck.choice(["Continue", "Continue", "Fail", "Escalate", "Escalate"])
    spec |= {"onBranchFailure": failure} | ({"escalateTo": luck.choice("bc")} if failure == "Escalate" else {})
    return a_plan(MapReduce.model_validate(spec), *random_roles(luck), finalize=luck.random() < 0.7)


@dataclass(frozen=True)
class Mood:
    """How likely what happens to a call is, of 100; the rest succeeds. ``ends``: of 1000, that the run is cancelled or out of time."""

    fails: int
    refused: int
    ends: int


MOODS = (Mood(0, 0, 0), Mood(10, 0, 0), Mood(40, 0, 0), Mood(5, 10, 0), Mood(10, 40, 0), Mood(10, 5, 100))


def an_event(luck: random.Random, mood: Mood, call: Call) -> Event:
    if luck.randrange(1000) < mood.ends:
        return luck.choice([CancelRequested(), DeadlineReached(), CancelRequested("ClientGone"), DeadlineReached("ClientDeadline")])
    lot = luck.randrange(100)
    if lot < mood.refused:
        return BudgetRefused(call.id, luck.choice(CAPS[: luck.choice([3, 3, 4])]))
    if lot < mood.refused + mood.fails:
        return luck.choice([CallCancelled(call.id), *(CallFailed(call.id, error) for error in ERRORS)])
    text = luck.choice(["", " ", "short", "ö" * luck.randrange(400), "long " * luck.randrange(200)])
    value: Any = {"ok": luck.choice([True, False]), "finding": text}
    if call.id == "plan":
        value = luck.choice([{"tasks": [text, "Who?", "Who?", "When?" * 20]}] * 4 + [{"tasks": ["Where?"]}] * 4 + [{"tasks": [" "]}])
        return CallSucceeded(call.id, json.dumps(value), value)
    return CallSucceeded(call.id, luck.choice([text, json.dumps(value)]), luck.choice([value, value, value, None]), cut=luck.choice([True, False]))


def random_run(plan: TeamPlan, task: Task, mood: Mood, seed: int, *, watch: Callable[[Run], None] = lambda _: None) -> Run:
    """A run to its end, its calls ending in any order."""
    luck = random.Random(seed)
    run = Run(plan, task)
    watch(run)
    while run.outcome is None:
        run.send(an_event(luck, mood, run.open[luck.choice(sorted(run.open))]))
        watch(run)
    return run


def every_event(call: str) -> Iterator[Event]:
    yield CallSucceeded(call, "late", {"ok": True})
    yield CallFailed(call, "Timeout")
    yield CallCancelled(call)
    yield BudgetRefused(call)
