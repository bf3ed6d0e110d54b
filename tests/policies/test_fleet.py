"""The example fleet is valid as it stands, its overlays say what they promise, and its parts refer to each other and to the catalogue."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import yaml
from tests.support.apiserver import CHECKOUT, ApiServer
from tests.support.builders import a_class, a_node
from tests.support.fakefleet import FakeFleet

from modelfleet.api.v1alpha1 import AcceleratorClass, AgentTeam, ModelPool, RoutingPolicy
from modelfleet.core.reconcile import plan_fleet

FLEET = CHECKOUT / "policies" / "examples" / "fleet"
FOLDER = FLEET / "base"
VARIANTS = ("base", "overlays/dev", "overlays/production")
OBJECTS = [o for f in sorted(FOLDER.glob("*.yaml")) for o in yaml.safe_load_all(f.read_text()) if o and o["kind"] != "Kustomization"]


def of(kind: str, objects: list[dict[str, Any]] = OBJECTS) -> dict[str, dict[str, Any]]:
    return {o["metadata"]["name"]: copy.deepcopy(o) for o in objects if o["kind"] == kind}


def built(server: ApiServer, variant: str) -> list[dict[str, Any]]:
    """What `kubectl kustomize` makes of it."""
    return list(yaml.safe_load_all(server.kubectl("kustomize", FLEET / variant, check=True).stdout))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_api_server_accepts_it_as_it_is(apiserver_with_crds: ApiServer, variant: str) -> None:
    objects = built(apiserver_with_crds, variant)
    (namespace,) = of("Namespace", objects).values()
    namespace["metadata"]["name"] = f"fleet-{variant.replace('/', '-')}"
    apiserver_with_crds.apply(yaml.safe_dump(namespace))
    rest = [o for o in objects if o["kind"] != "Namespace"]
    for o in rest:
        assert o["metadata"]["namespace"] == "demo"
        o["metadata"]["namespace"] = namespace["metadata"]["name"]
    for how in (("--server-side",), ()):
        done = apiserver_with_crds.kubectl("apply", *how, "--dry-run=server", "--validate=strict", "-f", "-", input=yaml.safe_dump_all(rest))
        assert done.returncode == 0, done.stderr
        assert done.stderr == "", "no warning either"


def test_the_base_is_every_file_of_its_folder(apiserver_with_crds: ApiServer) -> None:
    """`make demo` applies the files of the folder, GitOps controllers what the kustomization lists."""
    objects = built(apiserver_with_crds, "base")
    key = lambda o: (o["kind"], o["metadata"]["name"])  # noqa: E731 said once, used twice
    assert sorted(objects, key=key) == sorted(OBJECTS, key=key)


def test_the_development_overlay_needs_no_gpu_no_key_and_nothing_outside(apiserver_with_crds: ApiServer) -> None:
    objects = built(apiserver_with_crds, "overlays/dev")
    assert of("Secret", objects) == {}
    pools = [ModelPool.parse(raw) for raw in of("ModelPool", objects).values()]
    assert len(pools) == 2
    for pool in pools:
        assert [f.accelerator_class for f in pool.spec.flavors] == ["cpu"]
        assert (pool.spec.replicas, pool.spec.scaling.max) == (1, 1)
    assert AgentTeam.model_validate(of("AgentTeam", objects)["readers"]).spec.limits.max_runs == 1


def test_the_production_overlay_has_more_replicas_its_own_prices_and_no_key_in_git(apiserver_with_crds: ApiServer) -> None:
    objects = built(apiserver_with_crds, "overlays/production")
    assert of("Secret", objects) == {}
    pools = {name: ModelPool.parse(raw) for name, raw in of("ModelPool", objects).items()}
    assert {name: (p.spec.replicas, p.spec.scaling.max) for name, p in pools.items()} == {"small": (4, 8), "boss": (2, 8)}
    burst = pools["boss"].spec.flavors[-1].endpoint
    assert burst is not None
    assert burst.price is not None
    base = ModelPool.parse(of("ModelPool")["boss"]).spec.flavors[-1].endpoint
    assert base is not None
    assert base.price is not None
    assert burst.price != base.price
    assert AgentTeam.model_validate(of("AgentTeam", objects)["readers"]).spec.budget.per_run.cost == "0.05"


def test_the_namespace_enforces_the_restricted_profile() -> None:
    assert of("Namespace")["demo"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_pools_use_classes_of_the_catalogue_and_a_key_that_is_there() -> None:
    classes = {o["metadata"]["name"] for f in (CHECKOUT / "policies" / "accelerators").glob("*.yaml") for o in yaml.safe_load_all(f.read_text()) if o}
    pools = {name: ModelPool.parse(raw) for name, raw in of("ModelPool").items()}
    assert {name: [f.name for f in p.spec.flavors] for name, p in pools.items()} == {"small": ["l4", "cpu"], "boss": ["h100", "l4", "burst"]}
    for pool in pools.values():
        for flavor in pool.spec.flavors:
            if flavor.endpoint is None:
                assert flavor.accelerator_class in classes
                assert flavor.capacity is not None
                assert flavor.capacity.tokens_per_second, "without it there is no price per token"
            else:
                assert flavor.endpoint.auth_secret_ref is not None
                secret = of("Secret")[flavor.endpoint.auth_secret_ref.name]
                assert flavor.endpoint.auth_secret_ref.key in secret["stringData"]


def test_the_policy_routes_short_requests_and_a_canary_to_pools_that_exist() -> None:
    policy = RoutingPolicy.model_validate(of("RoutingPolicy")["assistant"])
    assert {c.pool_ref.name for c in policy.spec.candidates} == set(of("ModelPool"))
    assert [e.name for e in policy.spec.entrypoints] == ["auto"]
    canary, short = policy.spec.rules or []
    assert canary.match.headers is not None
    assert [(h.name, h.value) for h in canary.match.headers] == [("x-canary", "1")]
    assert canary.weights is not None
    assert (short.match.tools, short.candidates) == ("Absent", ["small", "boss"])
    assert policy.spec.default.chain == ["boss", "small"]


def test_the_readers_fit_the_contexts_of_their_pools() -> None:
    """A request on a pool may use its context divided by its parallel requests; four bytes are taken for a token, as the splitter does."""
    team = AgentTeam.model_validate(of("AgentTeam")["readers"])
    work = team.spec.strategy.map_reduce
    assert work is not None
    assert work.reduce is not None
    assert work.split.tokens is not None
    roles = {r.name: r for r in team.spec.roles}
    reader, boss = roles[work.map.role], roles[work.reduce.role]
    question = 200
    reads = len(reader.instructions) // 4 + question + work.split.tokens + reader.sampling.max_tokens
    assert reads * 1.5 < context("small"), "half as many tokens again, for text that is not plain English"
    answers = len(boss.instructions) // 4 + question + work.reduce.fan_in * (reader.sampling.max_tokens + 10) + boss.sampling.max_tokens
    assert answers * 1.5 < context("boss")


def context(pool: str) -> int:
    """Tokens per request: --ctx-size over the parallel requests of a replica."""
    parsed = ModelPool.parse(of("ModelPool")[pool])
    assert parsed.spec.engine is not None
    (size,) = [int(a.partition("=")[2]) for a in parsed.spec.engine.args or [] if a.startswith("--ctx-size=")]
    parallel = {f.capacity.concurrency for f in parsed.spec.flavors if f.capacity is not None}
    (lanes,) = parallel
    return size // (lanes or 1)


def test_the_readers_work_on_pools_that_exist_and_under_a_budget_of_money_and_time() -> None:
    team = AgentTeam.model_validate(of("AgentTeam")["readers"])
    assert {r.name: r.model_from.model_pool_ref.name for r in team.spec.roles if r.model_from.model_pool_ref} == {"reader": "small", "boss": "boss"}
    assert set(of("ModelPool")) == {"small", "boss"}
    assert (team.spec.budget.per_run.cost, team.spec.budget.per_run.wall_clock, team.spec.budget.on_exhausted) == ("0.02", "5m", "Finalize")


def test_a_run_of_the_readers_over_sixty_parts_fits_its_budget() -> None:
    """Compiled and priced as on a cluster with all classes: accepted, resolved, priced, and the budget is no trap."""
    classes = {c.metadata.name: c for c in catalogue() if c.metadata.name in ("nvidia-l4", "nvidia-h100-80gb", "cpu")}
    nodes = [a_node("a", "nvidia-l4", 2), a_node("b", "nvidia-h100-80gb", 1), a_node("c", "cpu", 0)]
    pools = [ModelPool.parse(raw) for raw in of("ModelPool").values()]
    cards = [a_class(name, c.spec.price.per_device_hour) for name, c in classes.items() if c.spec.price is not None]
    fleet = FakeFleet(pools, cards, nodes)
    fleet.settle()
    world = replace(
        fleet.world(),
        teams=(AgentTeam.model_validate(of("AgentTeam")["readers"]),),
        policies=(RoutingPolicy.model_validate(of("RoutingPolicy")["assistant"]),),
    )
    (status,) = [s.status for s in plan_fleet(world).statuses if s.kind == "AgentTeam"]
    conditions = {c["type"]: (c["status"], c["reason"], c["message"]) for c in status["conditions"]}
    assert {t: conditions[t][0] for t in ("Accepted", "ResolvedRefs", "Priced")} == {"Accepted": "True", "ResolvedRefs": "True", "Priced": "True"}, conditions
    assert status["modelNames"] == ["demo/readers", "readers"]
    assert status["bounds"]["maxModelCalls"] == 60 + 3 + 1
    prices = {r["name"]: {k: float(v) for k, v in r["worstPrice"].items()} for r in status["roles"]}
    reading = 60 * (900 * prices["reader"]["inputPerMillion"] + 200 * prices["reader"]["outputPerMillion"])
    answering = 4 * (2000 * prices["boss"]["inputPerMillion"] + 256 * prices["boss"]["outputPerMillion"])
    assert (reading + answering) / 1e6 < 0.02, "sixty parts at the dearest price, each answer as long as it may be"


def catalogue() -> list[AcceleratorClass]:
    files = sorted((CHECKOUT / "policies" / "accelerators").glob("*.yaml"))
    return [AcceleratorClass.model_validate(o) for f in files for o in yaml.safe_load_all(f.read_text()) if o]
