"""Objects of every kind in every state, as the API server would send them: specs as people write them, statuses as `plan_fleet` decides them.

`pool_states` and its sisters answer objects by the name of their state. `test_health.py` keeps them as files under `recorded/`, so that a change of any status
shows in a diff, and judges them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.api.door import TEAM, but
from tests.support.builders import NOON, PoolBuilder, a_class, a_node, a_policy, a_pool, a_world
from tests.support.fakefleet import FakeFleet

from modelfleet.api.parse import parse
from modelfleet.api.v1alpha1 import KINDS, AgentTeam, Kind, ModelPool
from modelfleet.core.reconcile import plan_fleet
from modelfleet.core.world import Gateway, World

Object = dict[str, Any]
H100, L4 = a_class("h100", "6.88"), a_class("l4", "0.80")
UNSEEN = {"observedGeneration": -1}
"""The status of an object that nobody has looked at: the default of every kind's schema."""
BOSS = a_pool("boss").wants("h100", or_else="l4")


def live(kind: Kind | Object, status: Mapping[str, Any] = UNSEEN, **metadata: Any) -> Object:
    """An object in the shape of the API server's answer."""
    raw = kind if isinstance(kind, dict) else kind.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True, mode="json")
    kept = {k: v for k, v in raw["metadata"].items() if v not in ("", {}, None)} | metadata
    name = kind["kind"] if isinstance(kind, dict) else kind.KIND
    return {"apiVersion": "modelfleet.dev/v1alpha1", "kind": name, "metadata": kept, "spec": raw["spec"], "status": dict(status)}


def deleting(obj: Object) -> Object:
    """Deleted, and held by a finalizer of somebody's."""
    held = {"deletionTimestamp": "2026-01-05T12:00:30Z", "finalizers": ["example.com/backup"]}
    return obj | {"metadata": obj["metadata"] | held}


def changed(obj: Object) -> Object:
    """Its spec was changed a moment ago."""
    return obj | {"metadata": obj["metadata"] | {"generation": obj["metadata"]["generation"] + 1}}


def written(world: World, kind: str) -> Mapping[str, Any]:
    """The status that the plan writes to the one object of a kind."""
    (status,) = [s.status for s in plan_fleet(world).statuses if s.kind == kind]
    return status


def invalid(kind: str, spec: Mapping[str, Any], namespace: str = "apps") -> Object:
    """An object that an older schema let in."""
    where = {"namespace": namespace} if namespace else {}
    raw = {"metadata": {"name": "old", **where, "uid": "uid-old", "generation": 3}, "kind": kind, "spec": dict(spec)}
    broken: Any = parse({k.KIND: k for k in KINDS}[kind], raw)
    return live(raw, written(World(NOON, invalid=(broken,)), kind))


def pool_states() -> dict[str, Object]:
    states = {"new": live(BOSS.build()), "invalid": invalid("ModelPool", {"replicas": "many", "flavours": []})}
    fleet = _a_fleet(BOSS.replicas(2))
    fleet.act(plan_fleet(fleet.world()))
    states["progressing"] = _pool(fleet)
    fleet.settle()
    states["ready"] = _pool(fleet)
    states["changed"] = changed(states["ready"])
    states["deleting"] = deleting(states["ready"])
    fleet.new_revision("boss", "--new")
    fleet.act(plan_fleet(fleet.world()))
    fleet.work()
    fleet.act(plan_fleet(fleet.world()))
    states["rolling-out"] = _pool(fleet)
    fleet.settle()
    fleet.lose_node("a")
    fleet.act(plan_fleet(fleet.world()))
    states["degraded"] = _pool(fleet)

    fleet = _a_fleet(BOSS.replicas(1))
    fleet.settle()
    fleet.change_spec("boss", replicas=0)
    fleet.act(plan_fleet(fleet.world()))
    states["scaling-to-zero"] = _pool(fleet)
    fleet.settle()
    states["scaled-to-zero"] = _pool(fleet)

    fleet = _a_fleet(a_pool("boss").wants("b200", "tpu").replicas(1))
    fleet.settle()
    states["stalled"] = _pool(fleet)

    fleet = _a_fleet(a_pool("boss").wants("b200").or_endpoint().replicas(1))
    fleet.settle()
    states["endpoint-serving"] = _pool(fleet)
    fleet.down = {("apps/boss", "remote")}
    fleet.settle()
    states["endpoint-down"] = _pool(fleet)

    states |= _paused_states()
    return states


def _paused_states() -> dict[str, Object]:
    fleet = _a_fleet(BOSS.replicas(1))
    fleet.settle()
    before = fleet.pools["apps/boss"]
    fleet.pools["apps/boss"] = before.model_copy(update={"metadata": before.metadata.model_copy(update={"annotations": {"modelfleet.dev/paused": "true"}})})
    fleet.settle()
    states = {"paused": _pool(fleet)}
    fleet.change_spec("boss", replicas=2)
    fleet.act(plan_fleet(fleet.world()))
    states["paused-and-changed"] = _pool(fleet)
    return states


def _a_fleet(*pools: PoolBuilder) -> FakeFleet:
    return FakeFleet([p.build() for p in pools], [H100, L4], [a_node("a", "h100"), a_node("b", "l4")])


def _pool(fleet: FakeFleet) -> Object:
    pool = fleet.pools["apps/boss"]
    return live(pool, pool.status.to_wire())


def class_states() -> dict[str, Object]:
    ready = live(H100, written(a_world(H100, a_node("a", "h100")), "AcceleratorClass"))
    return {
        "new": live(H100),
        "ready": ready,
        "without-nodes": live(H100, written(a_world(H100), "AcceleratorClass")),
        "changed": changed(ready),
        "invalid": invalid("AcceleratorClass", {"vendor": 7}, namespace=""),
        "deleting": deleting(ready),
    }


def policy_states() -> dict[str, Object]:
    pool, gateways = BOSS.build(), (Gateway("gw-0"), Gateway("gw-1"))
    policy = a_policy("assistant", "boss")

    def told(*entries: Mapping[str, Any], gateways: tuple[Gateway, ...] = gateways, world: World | None = None) -> Object:
        reports = {"gateways": [dict(e) for e in entries]} if entries else {}
        mine = a_policy("assistant", "boss", status=reports)
        seen = a_world(pool, H100) if world is None else world
        statuses = plan_fleet(replace(seen, policies=(*seen.policies, mine), gateways=gateways)).statuses
        (status,) = [s.status for s in statuses if (s.kind, s.name) == ("RoutingPolicy", "assistant")]
        return live(policy, {**status, **reports})

    def runs(gateway: str, **fields: Any) -> dict[str, Any]:
        return {"name": gateway, "generation": 1, "version": "v", "acknowledgedAt": "2026-01-05T12:00:00Z", "missing": [], **fields}

    ready = told(runs("gw-0"), runs("gw-1"))
    older = a_policy("elder", "boss")
    older = older.model_copy(update={"metadata": older.metadata.model_copy(update={"creation_timestamp": NOON.replace(year=2025)})})
    return {
        "new": live(policy),
        "reported-before-seen": live(policy, {**UNSEEN, "gateways": [runs("gw-0")]}),
        "progressing": told(runs("gw-0")),
        "without-gateway": told(gateways=()),
        "ready": ready,
        "changed": changed(ready),
        "stalled": told(runs("gw-0"), runs("gw-1"), world=a_world(H100)),
        "secret-missing": told(runs("gw-0"), runs("gw-1", missing=["secret/remote-key"])),
        "rejected": told(runs("gw-0"), runs("gw-1", rejected="no such filter")),
        "name-taken": told(runs("gw-0"), runs("gw-1"), world=a_world(pool, H100, older)),
        "invalid": invalid("RoutingPolicy", {"entrypoints": "auto"}),
        "deleting": deleting(ready),
    }


def team_states() -> dict[str, Object]:
    small = _priced("small", "0.20")
    boss, policy = a_pool("boss", "default").or_endpoint().build(), a_policy("assistant", "boss", "small", namespace="default")

    def told(*others: Any, programmed: tuple[str, str] | None = ("True", "Programmed"), **changes: Any) -> Object:
        runtime = [_programmed(*programmed)] if programmed else []
        raw = but(TEAM, metadata__uid="uid-readers", metadata__generation=1, **changes)
        team = AgentTeam.model_validate({**raw, "status": {"conditions": runtime}})
        status = written(a_world(team, *(others or (small, boss, policy))), "AgentTeam")
        conditions = sorted([*status["conditions"], *runtime], key=lambda c: str(c["type"]))
        return live(raw, {**status, "conditions": conditions})

    ready = told()
    return {
        "new": live(but(TEAM, metadata__uid="uid-readers", metadata__generation=1)),
        "progressing": told(programmed=None),
        "ready": ready,
        "changed": changed(ready),
        "suspended": told(spec__suspend=True),
        "role-unavailable": told(_priced("small", "0.20", ready=0), boss, policy),
        "runtime-unavailable": told(programmed=("False", "RuntimeUnavailable")),
        "stalled": told(boss, policy),
        "price-unknown": told(_priced("small", None), boss, policy),
        "budget-too-small": told(spec__budget__perRun={"cost": "0.000001", "wallClock": "120s"}),
        "strategy-refused": told(spec__roles__1__outputSchema={"type": "objekt"}),
        "invalid": invalid("AgentTeam", {"roles": "many"}),
        "deleting": deleting(ready),
    }


def _priced(name: str, price: str | None, *, ready: int = 1) -> ModelPool:
    prices = [{"flavor": "l4", "inputPerMillion": "0.02", "outputPerMillion": price}] if price else []
    status = {"observedGeneration": 1, "flavors": [{"name": "l4", "desired": 1, "ready": ready, "reason": "Preferred"}], "price": prices}
    return a_pool(name, "default").wants("l4").with_status(status).build()


def _programmed(status: str, reason: str) -> dict[str, Any]:
    """What the team runtime says."""
    return {
        "type": "Programmed", "status": status, "reason": reason, "message": "as the team runtime says", "observedGeneration": 1,
        "lastTransitionTime": "2026-01-05T12:00:00Z",
    }  # fmt: skip
