"""Golden traces: plan, task and events in; the commands of each step out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.core.teams.strategies.building import Run, a_plan, a_role
from tests.support.golden import GOLDEN, agrees

from modelfleet.api.v1alpha1.agentteam import Strategy
from modelfleet.core.teams.strategies.protocol import (
    BudgetRefused,
    CallCancelled,
    CallFailed,
    CallSucceeded,
    CancelRequested,
    Command,
    DeadlineReached,
    Event,
    Task,
)


def event_of(told: dict[str, Any]) -> Event:
    told = dict(told)
    kinds = {"succeeded": CallSucceeded, "failed": CallFailed, "cancelled": CallCancelled, "refused": BudgetRefused}
    for word, kind in kinds.items():
        if word in told:
            return kind(told.pop(word), **told)
    return CancelRequested(told["cancel"]) if "cancel" in told else DeadlineReached(told["deadline"])


def shown(command: Command) -> dict[str, Any]:
    fields = {name: value for name, value in asdict(command).items() if value not in (None, False)}
    if "messages" in fields:
        fields["messages"] = [{message["role"]: message["content"]} for message in fields["messages"]]
    return {type(command).__name__: fields}


@pytest.mark.parametrize("path", sorted((GOLDEN / "teams").glob("*.in.yaml")), ids=lambda p: p.name.removesuffix(".in.yaml"))
def test_golden(path: Path) -> None:
    case = yaml.safe_load(path.read_text())
    spec = Strategy.model_validate(case["strategy"])
    task = Task(**case["task"] | {"context": tuple(case["task"].get("context", ()))})
    run = Run(a_plan(spec.chain or spec.map_reduce, *(a_role(name, **fields) for name, fields in case["roles"].items())), task)
    for told in case["events"]:
        run.send(event_of(told))
    assert run.outcome is not None, "a trace goes to the end"
    after = ["start", *(next(f"{word} {of}" for word, of in told.items()) for told in case["events"])]
    agrees(
        path.with_name(path.name.replace(".in.", ".out.")),
        [{"after": what, "commands": [shown(command) for command in commands]} for what, commands in zip(after, run.commands, strict=True)],
    )
