"""Acting on a plan against a real API server: writes on change only, in order, repaired when another interferes."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.kube.waiting import children, eventually, policy, pool, team
from tests.support.apiserver import ApiServer
from tests.support.proxy import ApiProxy

from modelfleet.core.plan import Event, GatewayEntry, NodeLabel, Plan, StatusWrite
from modelfleet.core.reconcile import plan_fleet
from modelfleet.core.render.labels import ACCELERATOR_CLASS, FLAVOR, MANAGER_ROUTER_PREFIX
from modelfleet.core.world import Defaults, Gateway, Telemetry
from modelfleet.errors import NotFound, Retry
from modelfleet.kube import apply as apply_module
from modelfleet.kube.apply import Actor, ActResult
from modelfleet.kube.changes import Changes
from modelfleet.kube.client import Client
from modelfleet.kube.events import Recorder
from modelfleet.kube.informer import Informer
from modelfleet.kube.mirror import Mirror
from modelfleet.kube.resources import ACCELERATOR_CLASSES, AGENT_TEAMS, DEPLOYMENTS, EVENTS, MODEL_POOLS, NODES, OURS, ROUTING_POLICIES, SERVICES

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def apiserver_with_crds() -> Iterator[ApiServer]:
    """A server of this file's own: a plan is about everything there is, so nobody else's objects may be there."""
    server = ApiServer()
    server.apply_crds()
    yield server
    server.close()


@dataclass
class Stage:
    client: Client
    mirror: Mirror
    actor: Actor
    namespace: str

    async def settle(self) -> None:
        """Wait until the mirror shows what the API server holds now."""
        for resource in (DEPLOYMENTS, SERVICES):
            items, _ = await self.client.list(resource, self.namespace)
            wanted = {i["metadata"]["name"]: int(i["metadata"]["resourceVersion"]) for i in items if not i["metadata"].get("deletionTimestamp")}
            await eventually(lambda r=resource, w=wanted: self._shows(r.kind, w), f"the mirror shows {resource.plural}")
        for resource in OURS:
            items, _ = await self.client.list(resource)
            wanted = {(i["metadata"].get("namespace"), i["metadata"]["name"]): int(i["metadata"]["resourceVersion"]) for i in items}
            await eventually(lambda r=resource, w=wanted: self._knows(r.kind, w), f"the mirror knows {resource.plural}")

    def _shows(self, kind: str, wanted: dict[str, int]) -> bool:
        shown = {
            c.name: self.mirror.child(kind, f"{c.namespace}/{c.name}").version
            for c in self.mirror.children()
            if c.kind == kind and c.namespace == self.namespace
        }
        return shown == wanted

    def _knows(self, kind: str, wanted: dict[tuple[str | None, str], int]) -> bool:
        known = self.mirror.known(kind)
        return {(f"{ns}/{name}" if ns else name): v for (ns, name), v in wanted.items()} == {key: version for key, (_, version) in known.items()}

    async def act(self, **parts: Any) -> ActResult:
        await self.settle()
        return await self.actor.act(Plan(**parts))


@asynccontextmanager
async def staged(client: Client, namespace: str) -> AsyncIterator[Stage]:
    mirror = Mirror(Changes())
    informers: list[Informer[Any]] = list(mirror.informers(client))
    # what Kopf does in the operator: deliver the events of our kinds
    for resource in OURS:

        def on_change(_key: str, old: Any, new: Any) -> None:
            mirror.hear("DELETED" if new is None else "MODIFIED", new or old)

        informers.append(Informer(client, resource, lambda raw, k=resource.kind, v=resource.api_version: {**raw, "kind": k, "apiVersion": v}, on_change))
    tasks = [asyncio.create_task(i.run()) for i in informers]
    for informer in informers:
        await asyncio.wait_for(informer.synced.wait(), 90)
    for resource in OURS:
        mirror.confirm(resource.kind)
    assert mirror.synced()
    try:
        yield Stage(client, mirror, Actor(client, mirror, Recorder(client, lambda: NOW)), namespace)
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def stage(client: Client, namespace: str) -> AsyncIterator[Stage]:
    async with staged(client, namespace) as made:
        yield made


async def test_the_same_plan_twice_writes_nothing(stage: Stage) -> None:
    """The API server defaults, rounds and leaves out; none of it looks like a difference."""
    owner = await stage.client.create(MODEL_POOLS, stage.namespace, pool(stage.namespace))
    plan = {"children": children(owner)}
    assert (await stage.act(**plan)).writes == 2
    for _ in range(2):
        result = await stage.act(**plan)
        assert (result.writes, dict(result.errors)) == (0, {})
    # a new process knows nothing of the last one's answers, and still has nothing to write
    stage.actor = Actor(stage.client, stage.mirror, Recorder(stage.client, lambda: NOW))
    assert (await stage.act(**plan)).writes == 0


async def test_without_waiting_for_the_mirror_nothing_is_written_twice(stage: Stage) -> None:
    owner = await stage.client.create(MODEL_POOLS, stage.namespace, pool(stage.namespace))
    plan = Plan(children=children(owner))
    await stage.act(children=plan.children)
    await stage.settle()
    changed = copy.deepcopy(plan.children)
    changed[0]["spec"]["replicas"] = 5
    # the informers are late: the mirror goes on showing what was
    stage.mirror._children = {kind: dict(objects) for kind, objects in stage.mirror._children.items()}
    assert (await stage.actor.act(Plan(children=changed))).writes == 1
    assert (await stage.actor.act(Plan(children=changed))).writes == 0


@pytest.mark.parametrize("change", ["replicas", "image", "env removed", "argument removed", "toleration removed", "label added", "mount removed"])
async def test_each_difference_is_applied_once(stage: Stage, change: str) -> None:
    owner = await stage.client.create(MODEL_POOLS, stage.namespace, pool(stage.namespace))
    deployment, service = children(owner)
    await stage.act(children=(deployment, service))
    wanted = copy.deepcopy(deployment)
    pod = wanted["spec"]["template"]["spec"]
    container = pod["containers"][0]
    match change:
        case "replicas":
            wanted["spec"]["replicas"] = 0
        case "image":
            container["image"] = "example/server:2"
        case "env removed":
            del container["env"][0]
        case "argument removed":
            del container["args"][0]
        case "toleration removed":
            del pod["tolerations"]
        case "label added":
            wanted["metadata"]["labels"]["team"] = "a"
        case "mount removed":
            del container["volumeMounts"][1]
    assert (await stage.act(children=(wanted, service))).writes == 1
    stored = await stage.client.get(DEPLOYMENTS, stage.namespace, "small-cpu")
    spec = stored["spec"]["template"]["spec"]
    assert stored["spec"]["replicas"] == wanted["spec"]["replicas"]
    assert [e["name"] for e in spec["containers"][0]["env"]] == [e["name"] for e in container["env"]]
    assert spec["containers"][0]["args"] == container["args"]
    assert spec.get("tolerations") == pod.get("tolerations")
    assert len(spec["containers"][0]["volumeMounts"]) == len(container["volumeMounts"])
    assert (await stage.act(children=(wanted, service))).writes == 0


async def test_drift_is_repaired_every_time_and_what_others_add_is_left(stage: Stage) -> None:
    owner = await stage.client.create(MODEL_POOLS, stage.namespace, pool(stage.namespace))
    plan = {"children": children(owner)}
    await stage.act(**plan)
    for _ in range(2):
        await stage.client.merge_patch(DEPLOYMENTS, stage.namespace, "small-cpu", {"spec": {"replicas": 7}}, manager="somebody")
        assert (await stage.act(**plan)).writes == 1
        assert (await stage.client.get(DEPLOYMENTS, stage.namespace, "small-cpu"))["spec"]["replicas"] == 2
    await stage.client.merge_patch(DEPLOYMENTS, stage.namespace, "small-cpu", {"metadata": {"annotations": {"theirs": "1"}}}, manager="somebody")
    assert (await stage.act(**plan)).writes == 0
    await stage.client.delete(DEPLOYMENTS, stage.namespace, "small-cpu")
    assert (await stage.act(**plan)).writes == 1


async def test_prunes_only_what_an_existing_readable_pool_no_longer_wants(stage: Stage) -> None:
    owner = await stage.client.create(MODEL_POOLS, stage.namespace, pool(stage.namespace))
    ghost = copy.deepcopy(owner)
    ghost["metadata"] |= {"name": "ghost", "uid": "11111111-1111-1111-1111-111111111111"}
    both = (*children(owner), *children(ghost))
    await stage.act(children=both)
    held = await stage.act(held=frozenset({f"{stage.namespace}/small"}))
    assert held.writes == 0
    assert (await stage.act(held_flavors=frozenset({f"{stage.namespace}/small/cpu"}))).writes == 0
    result = await stage.act(held_flavors=frozenset({f"{stage.namespace}/small/other"}))
    assert (result.writes, dict(result.errors)) == (2, {})
    left, _ = await stage.client.list(DEPLOYMENTS, stage.namespace)
    assert [d["metadata"]["name"] for d in left] == ["ghost-cpu"]
    assert (await stage.act()).writes == 0

    # the same name again, under another uid: the old child is the garbage collector's
    await stage.client.create(MODEL_POOLS, stage.namespace, pool(stage.namespace, "ghost"))
    assert (await stage.act()).writes == 0


async def test_a_held_pool_is_not_applied_either(stage: Stage) -> None:
    owner = await stage.client.create(MODEL_POOLS, stage.namespace, pool(stage.namespace))
    assert (await stage.act(children=children(owner), held=frozenset({f"{stage.namespace}/small"}))).writes == 0


async def test_one_refused_object_does_not_stop_the_others(stage: Stage) -> None:
    owner = await stage.client.create(MODEL_POOLS, stage.namespace, pool(stage.namespace))
    deployment, service = children(owner)
    bad = copy.deepcopy(deployment)
    bad["metadata"] = bad["metadata"] | {"name": "bad"}
    bad["spec"]["selector"] = {"matchLabels": {FLAVOR: "other"}}
    result = await stage.act(children=(bad, deployment, service))
    assert list(result.errors) == [f"Deployment:{stage.namespace}/bad"]
    assert result.errors[f"Deployment:{stage.namespace}/bad"].status == 422
    assert await stage.client.get(DEPLOYMENTS, stage.namespace, "small-cpu")
    again = await stage.actor.act(Plan(children=(bad, deployment, service)), skip=frozenset(result.errors))
    assert (again.writes, dict(again.errors)) == (0, {})


async def test_status_is_written_on_change_and_removed_fields_go(stage: Stage) -> None:
    await stage.client.create(MODEL_POOLS, stage.namespace, pool(stage.namespace))

    def write(**status: Any) -> dict[str, Any]:
        return {"statuses": (StatusWrite("ModelPool", stage.namespace, "small", status),)}

    full = {"observedGeneration": 1, "replicas": 2, "ready": "2/2", "flavors": [{"name": "cpu", "desired": 2, "reason": "Preferred", "costPerHour": "1.5"}]}
    assert (await stage.act(**write(**full))).writes == 1
    assert (await stage.act(**write(**full))).writes == 0
    less = {"observedGeneration": 1, "replicas": 2, "flavors": [{"name": "cpu", "desired": 2, "reason": "Preferred"}]}
    assert (await stage.act(**write(**less))).writes == 1
    stored = (await stage.client.get(MODEL_POOLS, stage.namespace, "small"))["status"]
    assert "ready" not in stored
    assert "costPerHour" not in stored["flavors"][0]
    assert (await stage.act(**write(**less))).writes == 0
    # a field that another manager wrote cannot be removed by us: tried once, not for ever
    await stage.client.merge_patch(MODEL_POOLS, stage.namespace, "small", {"status": {"servedNames": ["theirs"]}}, manager="x", subresource="status")
    assert (await stage.act(**write(**less))).writes == 1
    assert (await stage.act(**write(**less))).writes == 0
    # gone meanwhile: nothing to write
    assert (await stage.act(statuses=(StatusWrite("ModelPool", stage.namespace, "none", less),))).writes == 0


async def test_figures_and_lists_that_become_empty_go(stage: Stage) -> None:
    await stage.client.create(MODEL_POOLS, stage.namespace, pool(stage.namespace))
    price = {"flavor": "cpu", "inputPerMillion": "1", "outputPerMillion": "2"}
    decision = {"time": "2026-01-01T00:00:00Z", "summary": "cpu 0 -> 1"}
    full = {
        "observedGeneration": 1,
        "cost": {"currency": "USD", "perHour": "0.80", "perMillionTokens": {"live": "77.48"}},
        "price": [price],
        "servedNames": ["m"],
        "lastDecision": decision | {"reasons": [{"code": "Preferred"}]},
    }
    empty = {
        "observedGeneration": 1,
        "cost": {"currency": "USD", "perHour": "0.80", "perMillionTokens": {}},
        "price": [],
        "servedNames": [],
        "lastDecision": decision | {"reasons": []},
    }
    for status in (full, empty, full):
        write = (StatusWrite("ModelPool", stage.namespace, "small", status),)
        result = await stage.act(statuses=write)
        assert (result.writes, dict(result.errors)) == (1, {})
        result = await stage.act(statuses=write)
        assert (result.writes, dict(result.errors)) == (0, {})


async def test_routers_own_their_entries_and_vanished_ones_are_removed(stage: Stage) -> None:
    await stage.client.create(ROUTING_POLICIES, stage.namespace, policy(stage.namespace))
    for gateway in ("gw-1", "gw-2", "gw-3"):
        entry = {"status": {"gateways": [{"name": gateway, "generation": 1, "version": "v"}]}}
        await stage.client.apply(ROUTING_POLICIES, stage.namespace, "assistant", entry, MANAGER_ROUTER_PREFIX + gateway, subresource="status")
    status = StatusWrite("RoutingPolicy", stage.namespace, "assistant", {"observedGeneration": 1, "entrypoints": "auto"})
    gone = tuple(GatewayEntry("RoutingPolicy", stage.namespace, "assistant", name) for name in ("gw-1", "gw-3", "gw-9"))
    assert (await stage.act(statuses=(status,), vanished_gateways=gone)).writes == 2
    stored = (await stage.client.get(ROUTING_POLICIES, stage.namespace, "assistant"))["status"]
    assert [g["name"] for g in stored["gateways"]] == ["gw-2"]
    assert stored["entrypoints"] == "auto"
    result = await stage.act(statuses=(status,), vanished_gateways=gone)
    assert (result.writes, dict(result.errors)) == (0, {})


async def test_a_team_has_three_writers_that_leave_each_other_alone(stage: Stage) -> None:
    await stage.client.create(AGENT_TEAMS, stage.namespace, team(stage.namespace))

    def runtime(**condition: Any) -> dict[str, Any]:
        said = {"type": "Programmed", "status": "True", "reason": "Programmed", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z", **condition}
        return {"status": {"conditions": [said]}}

    async def cycle() -> int:
        """One cycle of the operator, as it sees the world now; how many writes it made to teams."""
        await stage.settle()
        seen = stage.mirror.snapshot(NOW, Telemetry(), Defaults())
        plan = plan_fleet(replace(seen, gateways=(Gateway("gw-0"),)))
        only = tuple(s for s in plan.statuses if s.kind == "AgentTeam" and s.namespace == stage.namespace)
        result = await stage.actor.act(Plan(statuses=only, vanished_gateways=plan.vanished_gateways))
        assert dict(result.errors) == {}
        return result.writes

    async def status() -> dict[str, Any]:
        found: dict[str, Any] = (await stage.client.get(AGENT_TEAMS, stage.namespace, "writers"))["status"]
        return found

    def conditions(of: dict[str, Any]) -> dict[str, tuple[str, str]]:
        return {c["type"]: (c["status"], c["reason"]) for c in of["conditions"]}

    async def apply(body: dict[str, Any], manager: str) -> None:
        await stage.client.apply(AGENT_TEAMS, stage.namespace, "writers", body, manager, subresource="status")

    assert [await cycle(), await cycle()] == [1, 0]
    assert conditions(await status())["ResolvedRefs"] == ("False", "PoolNotFound")
    assert "Programmed" not in conditions(await status())

    small = await stage.client.create(MODEL_POOLS, stage.namespace, pool(stage.namespace))
    flavors = [{"name": "f0", "ready": 1, "reason": "Preferred"}]
    priced = {"observedGeneration": 1, "flavors": flavors, "price": [{"flavor": "f0", "inputPerMillion": "0.02", "outputPerMillion": "0.20"}]}
    body = {"metadata": {"uid": small["metadata"]["uid"]}, "status": priced}
    await stage.client.apply(MODEL_POOLS, stage.namespace, "small", body, "modelfleet-status", subresource="status")
    assert [await cycle(), await cycle()] == [1, 0]
    assert conditions(await status())["Reconciling"] == ("True", "Pending")
    assert (await status())["bounds"]["maxModelCalls"] == 2

    await apply(runtime(observedGeneration=1), "modelfleet-teams")
    for gateway in ("gw-0", "gw-9"):
        await apply({"status": {"gateways": [{"name": gateway, "generation": 1, "version": "v"}]}}, MANAGER_ROUTER_PREFIX + gateway)
    assert await cycle() == 2, "the conditions, and the entry of the gateway that is gone"
    assert await cycle() == 0
    now = await status()
    assert conditions(now)["Ready"] == ("True", "Ready")
    assert conditions(now)["Programmed"] == ("True", "Programmed")
    assert [g["name"] for g in now["gateways"]] == ["gw-0"]

    await apply(runtime(observedGeneration=1, status="False", reason="RuntimeUnavailable"), "modelfleet-teams")
    assert [await cycle(), await cycle()] == [1, 0]
    assert conditions(await status())["Ready"] == ("False", "RuntimeUnavailable")
    raw = await stage.client.get(AGENT_TEAMS, stage.namespace, "writers")
    assert {m["manager"] for m in raw["metadata"]["managedFields"] if m.get("subresource") == "status"} == {
        "modelfleet-status",
        "modelfleet-teams",
        MANAGER_ROUTER_PREFIX + "gw-0",
    }


async def test_nodes_are_labelled_and_unlabelled_and_never_created(stage: Stage) -> None:
    name, other = f"{stage.namespace}-node", f"{stage.namespace}-other"
    for node in (name, other):
        await stage.client.create(NODES, None, {"metadata": {"name": node, "labels": {"keep": "me"}}})
    await stage.client.merge_patch(NODES, None, other, {"metadata": {"labels": {ACCELERATOR_CLASS: "by-hand"}}}, manager="somebody")

    async def act(*labels: NodeLabel) -> int:
        await eventually(lambda: all(stage.mirror.node(n) is not None for n in (name, other)), "nodes are seen")
        for node in (name, other):
            raw = await stage.client.get(NODES, None, node)
            await eventually(lambda n=node, r=raw: stage.mirror.node(n).version >= int(r["metadata"]["resourceVersion"]), "node is seen")
        return (await stage.act(node_labels=labels)).writes

    async def label(node: str) -> str | None:
        return (await stage.client.get(NODES, None, node))["metadata"]["labels"].get(ACCELERATOR_CLASS)

    assert await act(NodeLabel(name, "l4")) == 1
    assert await label(name) == "l4"
    assert await act(NodeLabel(name, "l4")) == 0
    assert await act(NodeLabel(name, "h100"), NodeLabel("nowhere", "l4")) == 1
    assert await label(name) == "h100"
    assert await act(NodeLabel(name, None)) == 1
    assert await label(name) is None
    assert (await stage.client.get(NODES, None, name))["metadata"]["labels"]["keep"] == "me"
    # what a person set is not ours to remove: tried once, not for ever
    assert await act(NodeLabel(other, None)) == 1
    assert await act(NodeLabel(other, None)) == 0
    assert await label(other) == "by-hand"
    # a node deleted behind the mirror's back does not come back
    stale = stage.mirror.node(name)
    await stage.client.delete(NODES, None, name)
    stage.mirror._nodes = {name: stale}
    result = await stage.actor.act(Plan(node_labels=(NodeLabel(name, "l4"),)))
    assert list(result.errors) == [f"Node:{name}"]
    with pytest.raises(NotFound):
        await stage.client.get(NODES, None, name)
    await stage.client.delete(NODES, None, other)


async def test_an_event_is_told_once_by_this_process_and_the_next(stage: Stage) -> None:
    owner = await stage.client.create(MODEL_POOLS, stage.namespace, pool(stage.namespace))
    event = Event("ModelPool", stage.namespace, "small", owner["metadata"]["uid"], "Warning", "NoFreeDevice", "x" * 2000)
    assert (await stage.act(events=(event, event))).writes == 1
    again = Recorder(stage.client, lambda: NOW)
    assert not await again.emit(event)
    items, _ = await stage.client.list(EVENTS, stage.namespace)
    assert [(e["reason"], e["type"], len(e["message"])) for e in items] == [("NoFreeDevice", "Warning", 1024)]
    cluster = Event("AcceleratorClass", "", "l4", "22222222-2222-2222-2222-222222222222", "Normal", "NodesMatched", stage.namespace)
    assert (await stage.act(events=(cluster,))).writes == 1


async def test_a_lost_lease_stops_the_act_with_one_plain_error(stage: Stage) -> None:
    owner = await stage.client.create(MODEL_POOLS, stage.namespace, pool(stage.namespace))
    await stage.settle()

    def lost() -> None:
        raise Retry("LeaseNotHeld", "no")

    stage.client.before_write = lost
    before = stage.client.writes.total()
    with pytest.raises(Retry, match="LeaseNotHeld"):
        await stage.act(children=children(owner))
    assert stage.client.writes.total() == before


async def test_an_act_cut_off_at_any_write_is_completed_by_the_next(apiserver_with_crds: ApiServer, client: Client, namespace: str, tmp_path: Path) -> None:
    """The answer to the N-th write never arrives: a new process, knowing nothing, ends at the same objects."""
    owner = await client.create(MODEL_POOLS, namespace, pool(namespace))
    status = StatusWrite("ModelPool", namespace, "small", {"observedGeneration": 1, "replicas": 2})
    event = Event("ModelPool", namespace, "small", owner["metadata"]["uid"], "Normal", "Converged", "done")
    plan = {"children": children(owner), "statuses": (status,), "events": (event,)}
    for cut_at in (1, 2, 3, 4):
        for kind in (DEPLOYMENTS, SERVICES):
            with contextlib.suppress(NotFound):
                await client.delete(kind, namespace, "small-cpu")
        async with ApiProxy(apiserver_with_crds) as proxy:
            through = await Client.connect("test", proxy.kubeconfig(tmp_path))
            async with staged(through, namespace) as first:
                await first.settle()
                died = asyncio.Event()
                proxy.at_write(cut_at, lambda _, died=died: died.set(), when="after")
                act = asyncio.create_task(first.act(**plan))
                done, _ = await asyncio.wait({act, asyncio.create_task(died.wait())}, return_when=asyncio.FIRST_COMPLETED)
                act.cancel()
                await asyncio.wait(done | {act})
            await through.close()
        async with staged(client, namespace) as second:
            await second.act(**plan)
            assert (await second.act(**plan)).writes == 0
        for kind in (DEPLOYMENTS, SERVICES):
            assert [o["metadata"]["name"] for o in (await client.list(kind, namespace))[0]] == ["small-cpu"]
        assert len((await client.list(EVENTS, namespace))[0]) == 1


async def test_the_real_plan_comes_to_rest_and_a_new_process_writes_nothing(stage: Stage) -> None:
    """plan_fleet and the actor together: whatever the renderer writes survives the API server's defaulting unchanged."""
    classes = {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "AcceleratorClass",
        "metadata": {"name": "cpu"},
        "spec": {
            "vendor": "any",
            "device": "cpu",
            "nodes": [{"matchLabels": {"real-plan": "yes"}, "resource": "cpu"}],
            "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "models", "effect": "NoSchedule"}],
        },
    }
    node = f"{stage.namespace}-cpu"
    await stage.client.create(ACCELERATOR_CLASSES, None, classes)
    await stage.client.create(NODES, None, {"metadata": {"name": node, "labels": {"real-plan": "yes"}}})
    amounts = {"cpu": "8", "memory": "16Gi", "pods": "110"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    status = {"status": {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}}
    await stage.client.merge_patch(NODES, None, node, status, subresource="status")
    wanted = pool(stage.namespace, flavors=2)
    wanted["spec"]["replicas"] = 2
    wanted["spec"]["engine"] |= {"resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}}, "env": [{"name": "A", "value": "1"}, {"name": "EMPTY"}]}
    await stage.client.create(MODEL_POOLS, stage.namespace, wanted)
    await stage.client.create(ROUTING_POLICIES, stage.namespace, policy(stage.namespace))
    await eventually(lambda: stage.mirror.node(node) is not None and stage.mirror.node(node).record.ready, "the node is seen")

    async def cycle() -> ActResult:
        await stage.settle()
        return await stage.actor.act(plan_fleet(stage.mirror.snapshot(NOW, Telemetry(), Defaults())))

    history = [await cycle() for _ in range(4)]
    assert not any(result.errors for result in history), history
    assert history[0].writes > 5
    assert [result.writes for result in history[2:]] == [0, 0]
    assert len(stage.mirror.children()) == 4
    stage.actor = Actor(stage.client, stage.mirror, Recorder(stage.client, lambda: NOW))
    again = await cycle()
    assert (again.writes, dict(again.errors)) == (0, {})
    await stage.client.delete(ACCELERATOR_CLASSES, None, "cpu")
    await stage.client.delete(NODES, None, node)


async def test_what_was_compared_is_compared_again_only_when_wish_or_observation_is_another(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = await stage.client.create(MODEL_POOLS, stage.namespace, pool(stage.namespace))
    wanted = children(raw)
    status = (StatusWrite("ModelPool", stage.namespace, raw["metadata"]["name"], {"observedGeneration": 1, "replicas": 1}),)
    await stage.act(children=wanted, statuses=status)
    assert (await stage.act(children=wanted, statuses=status)).writes == 0
    compared: list[str] = []
    real = apply_module.covers, apply_module._own_part
    monkeypatch.setattr(apply_module, "covers", lambda *args: compared.append("child") or real[0](*args))
    monkeypatch.setattr(apply_module, "_own_part", lambda *args: compared.append("status") or real[1](*args))

    assert (await stage.act(children=wanted, statuses=status)).writes == 0
    assert compared == []

    # an equal wish that is another object, and a child that somebody has changed
    assert (await stage.act(children=(copy.deepcopy(wanted[0]), *wanted[1:]), statuses=status)).writes == 0
    assert compared == ["child"]
    await stage.client.merge_patch(DEPLOYMENTS, stage.namespace, wanted[0]["metadata"]["name"], {"spec": {"replicas": 7}})
    assert (await stage.act(children=wanted, statuses=status)).writes == 1
    await stage.client.merge_patch(MODEL_POOLS, stage.namespace, raw["metadata"]["name"], {"status": {"replicas": 9}}, subresource="status")
    assert (await stage.act(children=wanted, statuses=status)).writes == 1
