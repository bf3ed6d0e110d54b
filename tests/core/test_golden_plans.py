"""Whole plans of small worlds, manifests, statuses and events together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.golden import GOLDEN, agrees, plan_to_yaml, read_world

from modelfleet.api.v1alpha1 import AgentTeam, RoutingPolicy
from modelfleet.api.v1alpha1.common import Condition, Kind
from modelfleet.core.plan import Manifest, Plan
from modelfleet.core.reconcile import plan_fleet
from modelfleet.core.render.labels import ACCELERATOR_CLASS, FLAVOR, POOL
from modelfleet.core.world import Node, Workload, World

CASES = sorted((GOLDEN / "plan").glob("*.in.yaml"))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name.removesuffix(".in.yaml"))
def test_plan(case: Path) -> None:
    agrees(case.with_name(case.name.replace(".in.", ".out.")), plan_to_yaml(plan_fleet(read_world(case)), manifests=case.name.startswith("brand-new")))


def test_there_are_cases() -> None:
    assert len(CASES) >= 8


def as_written(world: World, plan: Plan) -> World:
    """The world once the Deployments, statuses and node labels of the plan are in it, and nothing else has happened."""
    statuses = {(s.kind, s.namespace, s.name): s.status for s in plan.statuses}
    deployed = {(c["metadata"]["namespace"], c["metadata"]["name"]): c for c in plan.children if c["kind"] == "Deployment"}
    labels = {n.node: n.accelerator_class for n in plan.node_labels}

    def told(kind: Kind) -> Any:
        status = statuses.get((kind.KIND, kind.metadata.namespace, kind.metadata.name))
        raw = {"metadata": kind.metadata.model_dump(by_alias=True), "spec": kind.spec.model_dump(by_alias=True, exclude_none=True)}
        return kind if status is None else type(kind).model_validate({**raw, "status": {**status, **_of_others(kind, status)}})

    def labelled(node: Node) -> Node:
        kept = {k: v for k, v in node.labels.items() if node.name not in labels or k != ACCELERATOR_CLASS}
        value = labels.get(node.name)
        return replace(node, labels={**kept, ACCELERATOR_CLASS: value} if value else kept)

    return replace(
        world,
        pools=tuple(told(p) for p in world.pools),
        policies=tuple(told(p) for p in world.policies),
        teams=tuple(told(t) for t in world.teams),
        classes=tuple(told(c) for c in world.classes),
        invalid=tuple(replace(i, conditions=_conditions(statuses[i.kind, i.namespace, i.name])) for i in world.invalid),
        nodes=tuple(labelled(n) for n in world.nodes),
        workloads=(*(w for w in world.workloads if (w.namespace, w.name) not in deployed), *(_workload(c) for c in deployed.values())),
    )


def _of_others(kind: Kind, status: Manifest) -> Manifest:
    """What routers and the team runtime have in a status, beside what we write."""
    if not isinstance(kind, RoutingPolicy | AgentTeam):
        return {}
    shown = kind.status.to_wire()
    runtime = [c for c in shown.get("conditions", ()) if c["type"] == "Programmed"] if isinstance(kind, AgentTeam) else []
    return {"gateways": shown.get("gateways", []), "conditions": [*status["conditions"], *runtime]}


def _workload(child: Manifest) -> Workload:
    labels = child["metadata"]["labels"]
    owners = frozenset(r["uid"] for r in child["metadata"]["ownerReferences"])
    return Workload(child["metadata"]["namespace"], child["metadata"]["name"], labels[POOL], labels[FLAVOR], child["spec"]["replicas"], owners=owners)


def _conditions(status: Manifest) -> tuple[Condition, ...]:
    return tuple(Condition.model_validate(c) for c in status["conditions"])


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name.removesuffix(".in.yaml"))
def test_what_was_said_once_is_not_said_again(case: Path) -> None:
    world = read_world(case)
    first = plan_fleet(world)
    again = plan_fleet(as_written(world, first))
    assert again.events == ()
    assert [s.status for s in again.statuses] == [s.status for s in first.statuses]


def test_some_case_has_something_to_say() -> None:
    assert any(plan_fleet(read_world(case)).events for case in CASES)
