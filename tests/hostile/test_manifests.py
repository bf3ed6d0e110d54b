"""Malformed manifests of every kind, generated from the schema: each is refused with the field named, or stalls alone, or works; nobody else notices.

A seed that found something stays in FOUND, with what it found.
"""

from __future__ import annotations

import json
import re
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.api.door import BASES, Door
from tests.core.routing.test_xds import as_file
from tests.hostile.manifests import Object, hostile
from tests.support.apiserver import ApiServer
from tests.support.builders import GPU, NOON, a_class, a_node, a_pod, a_policy, a_pool
from tests.support.envoy import remove, short_dir, validate

from modelfleet.api.parse import InvalidObject, parse
from modelfleet.api.v1alpha1 import KINDS, AgentTeam, RoutingPolicy
from modelfleet.core.plan import Plan
from modelfleet.core.reconcile import plan_fleet
from modelfleet.core.routing.compile import compile_routes
from modelfleet.core.routing.ir import Address, RoutingWorld
from modelfleet.core.routing.rewrite import REWRITE_FILE, REWRITE_SOURCE
from modelfleet.core.routing.xds import GatewaySettings, resources
from modelfleet.core.teams.compile import compile_teams
from modelfleet.core.world import Gateway, World

SEEDS = range(170)
FOUND: dict[str, tuple[int, ...]] = {"ModelPool": (), "AcceleratorClass": (), "RoutingPolicy": (), "AgentTeam": ()}
"""Seeds beyond SEEDS whose objects broke something once."""
OURS = {k.KIND: k for k in KINDS}
LONGEST = 1024
NAMED = re.compile(r"^(metadata|spec|object|status)\b")
TEAM = AgentTeam.model_validate(BASES["AgentTeam"] | {"metadata": {"name": "healthy-readers", "namespace": "default", "uid": "uid-team", "generation": 1}})


@pytest.fixture(scope="module")
def door(apiserver_with_crds: ApiServer) -> Iterator[Door]:
    made = Door(apiserver_with_crds)
    yield made
    made.close()


def healthy_world() -> World:
    """Neighbours of every kind, in the namespace of the hostile objects, and older than they."""
    runs = {"name": "gw-0", "generation": 1, "version": "v", "acknowledgedAt": "2026-01-05T11:00:00Z"}
    small = a_pool("small", "default").on("card", "h100", capacity={"tokensPerSecond": 400, "concurrency": 4}).or_endpoint().replicas(2).build()
    policy = a_policy("assistant", "small", namespace="default", status={"gateways": [runs]})
    policy = policy.model_copy(update={"spec": RoutingPolicy.model_validate(BASES["RoutingPolicy"]).spec})
    pods = tuple(a_pod("small", "card", "n", index=i, namespace="default") for i in range(2))
    return World(
        NOON,
        pools=(small, a_pool("boss", "default").wants("h100").build()),
        policies=(policy,),
        teams=(TEAM,),
        classes=(a_class("h100", "6.88"),),
        nodes=(a_node("n", "h100", 8), replace(a_node("m", "other", 0), capacity={GPU: 0, "hostile.example/card": 8})),
        pods=pods,
        gateways=(Gateway("gw-0"),),
    )


WORLD = healthy_world()
HEALTHY = {"small", "boss", "assistant", "h100", "healthy-readers"}


def with_guest(kind: str, found: Any) -> World:
    if isinstance(found, InvalidObject):
        return replace(WORLD, invalid=(found,))
    room = {"ModelPool": "pools", "RoutingPolicy": "policies", "AgentTeam": "teams", "AcceleratorClass": "classes"}[kind]
    return replace(WORLD, **{room: (*getattr(WORLD, room), found)})


def neighbours(plan: Plan) -> bytes:
    """What healthy objects get: statuses, children, labels of nodes; times never enter."""
    statuses = [[s.kind, s.namespace, s.name, s.status] for s in plan.statuses if s.name in HEALTHY]
    children = [c for c in plan.children if c["metadata"]["labels"]["modelfleet.dev/pool"] in HEALTHY]
    labels = [[label.node, label.accelerator_class] for label in plan.node_labels if label.node == "n"]
    events = [[e.name, e.reason, e.message] for e in plan.events if e.name in HEALTHY]
    return json.dumps([statuses, children, labels, events], sort_keys=True, default=str).encode()


def routes(world: World) -> bytes:
    """What the healthy policy and the team's name compile to."""
    addresses = {"default/small": (Address("10.0.0.1", 8000, "card"),)}
    plan = compile_routes(RoutingWorld(pools=world.pools, policies=world.policies, addresses=addresses))
    mine = [repr(p) for p in plan.policies if p.key == "default/assistant"]
    clusters = [repr(c) for c in (*plan.pod_clusters, *plan.remote_clusters) if "small" in c.name or "boss" in c.name]
    problems = [repr(p) for p in plan.problems if p.policy == "default/assistant"]
    teams = compile_teams(world.teams, world.pools, world.policies)
    names = sorted(name for name, key in teams.names.items() if key == TEAM.key)
    return json.dumps([mine, clusters, problems, repr(teams.teams.get(TEAM.key)), repr([p for p in teams.problems if p.team == TEAM.key]), names]).encode()


PLANNED, ROUTED = neighbours(plan_fleet(WORLD)), routes(WORLD)


def check_alone(kind: str, raw: Object) -> str:
    """Parse, plan and compile with the object beside healthy ones. Answers what became of it."""
    younger = {"creationTimestamp": "2026-01-05T12:01:00Z"}  # the API server sets it, and of two claims to a name the older one wins
    stored = raw | {"metadata": {"uid": "uid-hostile", "generation": 1} | (raw.get("metadata") or {}) | younger}
    found = parse(OURS[kind], stored)
    if isinstance(found, InvalidObject):
        assert found.errors
        for error in found.errors:
            check_text(error, most=300)
            assert NAMED.match(error), f"{error!r} does not begin with a path"
    world = with_guest(kind, found)
    plan = plan_fleet(world)
    assert neighbours(plan) == PLANNED
    assert routes(world) == ROUTED
    name = getattr(found, "name", None) or found.metadata.name if not isinstance(found, InvalidObject) else found.name
    for status in (s.status for s in plan.statuses if (s.kind, s.name) == (kind, name)):
        for condition in status["conditions"]:
            check_text(condition["message"], most=LONGEST, may_be_empty=True)
            if (condition["type"], condition["status"]) == ("Stalled", "True"):
                assert condition["message"], condition
    for event in plan.events:
        check_text(event.message, most=LONGEST)
    return "invalid" if isinstance(found, InvalidObject) else "works"


def check_text(text: str, *, most: int, may_be_empty: bool = False) -> None:
    assert text or may_be_empty
    assert len(text) <= most, len(text)
    assert text.isprintable(), f"control characters in {text!r}"


def check_refusal(code: int, body: dict[str, Any]) -> None:
    """The API server says which field, in words."""
    assert 400 <= code < 500, body
    if code == 413:
        return  # megabytes: of no field in particular
    told = [f"{c.get('field', '')} {c.get('message', '')}" for c in (body.get("details") or {}).get("causes", ())] or [body["message"]]
    assert all(line.strip() for line in told), body
    assert any("spec" in line or "meta" in line.lower() or "name" in line for line in told), told


@pytest.fixture(scope="module")
def verdicts(door: Door) -> dict[str, list[Verdict]]:
    """What the API server says of every seed's object, asked once."""
    return {kind: [Verdict(seed, raw := hostile(kind, seed), *send(door, kind, raw)) for seed in (*SEEDS, *FOUND[kind])] for kind in sorted(BASES)}


@pytest.mark.parametrize("kind", sorted(BASES))
def test_a_malformed_manifest_is_refused_by_field_or_stalls_alone_or_works(verdicts: dict[str, list[Verdict]], kind: str) -> None:
    became: Counter[str] = Counter()
    wrong: list[str] = []
    for seen in verdicts[kind]:
        try:
            if seen.code == 201:
                became[f"accepted, {check_alone(kind, seen.body)}"] += 1
            else:
                check_refusal(seen.code, seen.body)
                # an older schema might have let it in, or somebody wrote past it
                became[f"refused, then {check_alone(kind, seen.raw)}"] += 1
        except Exception as error:
            where = "".join(traceback.format_tb(error.__traceback__)[-2:])
            wrong.append(f"seed {seen.seed}: {type(error).__name__}: {str(error)[:600]} {where}")
    assert not wrong, f"{len(wrong)} of {kind}:\n" + "\n".join(wrong[:8])
    assert sum(became.values()) >= len(SEEDS)
    assert all(became[what] for what in ("accepted, works", "refused, then invalid")), became


def test_at_least_five_hundred_different_ones_are_refused(verdicts: dict[str, list[Verdict]]) -> None:
    refused = [(kind, seen) for kind, all_seen in verdicts.items() for seen in all_seen if seen.code != 201]
    assert len({json.dumps([kind, seen.raw]).replace(f'"hostile-{seen.seed}"', "") for kind, seen in refused}) >= 500


def test_the_children_of_every_accepted_pool_are_accepted_too(verdicts: dict[str, list[Verdict]], door: Door) -> None:
    refused = []
    for seen in accepted(verdicts, "ModelPool"):
        plan = plan_fleet(with_guest("ModelPool", parsed("ModelPool", seen.body)))
        for child in (c for c in plan.children if c["metadata"]["labels"]["modelfleet.dev/pool"] not in HEALTHY):
            group = "/apis/apps/v1" if child["kind"] == "Deployment" else "/api/v1"
            path = f"{group}/namespaces/default/{child['kind'].lower()}s"
            answer = door._client.post(path, json=child, params={"dryRun": "All", "fieldValidation": "Strict"})
            if answer.status_code != 201:
                refused.append(f"seed {seen.seed}, {child['kind']}: {answer.json()['message'][:500]}")
    assert refused == []


def test_envoy_takes_every_accepted_pool_and_policy_at_once(verdicts: dict[str, list[Verdict]]) -> None:
    """One resource that Envoy refuses would hold up the routes of everybody."""
    pools = tuple(parsed("ModelPool", seen.body) for seen in accepted(verdicts, "ModelPool"))
    policies = tuple(parsed("RoutingPolicy", seen.body) for seen in accepted(verdicts, "RoutingPolicy"))
    to_each = tuple(policy_to(p.metadata.name) for p in pools)
    addresses = {p.key: (Address("10.0.0.1", 8000, p.spec.flavors[0].name),) for p in (*WORLD.pools, *pools)}
    world = RoutingWorld(pools=(*WORLD.pools, *pools), policies=(*WORLD.policies, *policies, *to_each), addresses=addresses)
    run_dir = short_dir()
    try:
        (Path(run_dir) / REWRITE_FILE).write_text(REWRITE_SOURCE)
        plan = compile_routes(world)
        assert len(plan.policies) > len(pools)
        assert validate(as_file(resources(plan, GatewaySettings(run_dir=run_dir)), run_dir)) == ""
    finally:
        remove(run_dir)


def test_a_policy_that_names_a_candidate_it_does_not_have_says_so_and_stalls_alone() -> None:
    """The API server lets none in today; one that is there all the same once made every cycle of the operator fail."""
    spec = BASES["RoutingPolicy"]["spec"] | {"entrypoints": [{"name": "theirs"}], "default": {"chain": ["boss", "gone"]}}
    raw = {"metadata": {"name": "old", "namespace": "default", "generation": 1}, "spec": spec}
    found = RoutingPolicy.model_validate(raw)
    plan = plan_fleet(with_guest("RoutingPolicy", found))
    assert neighbours(plan) == PLANNED
    (status,) = [s.status for s in plan.statuses if s.name == "old"]
    stalled = next(c for c in status["conditions"] if c["type"] == "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "Invalid")
    assert stalled["message"] == "spec.default.chain names gone, which is not in spec.candidates"
    assert "theirs" not in {e.name for p in compile_routes(RoutingWorld(WORLD.pools, (found,))).policies for e in p.entrypoints}


def policy_to(pool: str) -> RoutingPolicy:
    candidates = [{"name": "only", "poolRef": {"name": pool}}]
    spec = {"entrypoints": [{"name": f"to-{pool}"}], "candidates": candidates, "default": {"chain": ["only"]}}
    return RoutingPolicy.model_validate({"metadata": {"name": f"to-{pool}", "namespace": "default", "generation": 1}, "spec": spec})


@dataclass(frozen=True)
class Verdict:
    """The API server's answer to one manifest."""

    seed: int
    raw: Object
    code: int
    body: dict[str, Any]


def accepted(verdicts: dict[str, list[Verdict]], kind: str) -> list[Verdict]:
    return [seen for seen in verdicts[kind] if seen.code == 201]


def parsed(kind: str, body: Object) -> Any:
    found = parse(OURS[kind], body)
    assert not isinstance(found, InvalidObject), found
    return found


def send(door: Door, kind: str, raw: Object) -> tuple[int, dict[str, Any]]:
    """A dry run of what a careless client would send; text that JSON cannot carry is escaped, as clients do."""
    namespace = "/namespaces/default" if OURS[kind].SCOPE == "Namespaced" else ""
    path = f"/apis/modelfleet.dev/v1alpha1{namespace}/{OURS[kind].PLURAL}"
    answer = door._client.post(path, content=json.dumps(raw), headers={"content-type": "application/json"}, params={"dryRun": "All"})
    body: dict[str, Any] = answer.json()
    return answer.status_code, body
