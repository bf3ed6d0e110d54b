"""What compile decides: who owns a name, which groups serve, what is wrong; one table row per promise."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from tests.support.envoy import a_policy, a_pool, pods, remote

from modelfleet.core.routing import compile as compile_module
from modelfleet.core.routing.compile import NOTHING, compile_routes
from modelfleet.core.routing.egress import egress
from modelfleet.core.routing.ir import Address, Price, RoutingPlan, RoutingWorld, SecretRef

FAR = "https://api.example.com/v1"
READY = (Address("10.0.0.1", 8000, "gpu"),)


def compiled(*policies, pools=(), addresses=None, secrets=None) -> RoutingPlan:
    return compile_routes(RoutingWorld(tuple(pools), tuple(policies), addresses or {}, secrets))


def chain(plan: RoutingPlan) -> tuple[str, ...]:
    return plan.policies[0].static_chain


def test_the_oldest_policy_keeps_a_name_and_the_loser_is_told_who_has_it() -> None:
    new = a_policy("a", "m", entrypoints=["auto", "mine"], created="2026-02-01T00:00:00Z")
    old = a_policy("z", "m", entrypoints=["auto"], created="2026-01-01T00:00:00Z")
    plan = compiled(new, old, pools=[a_pool("m")])
    assert {p.key: [e.name for e in p.entrypoints] for p in plan.policies} == {"shop/a": ["mine"], "shop/z": ["auto"]}
    assert [(p.policy, p.type, p.reason, p.message) for p in plan.problems] == [
        ("shop/a", "Accepted", "EntrypointConflict", "auto belongs to the older policy shop/z")
    ]


def test_equal_ages_are_settled_by_key_and_a_policy_left_without_a_name_is_not_programmed() -> None:
    plan = compiled(a_policy("b", "m"), a_policy("a", "m"), pools=[a_pool("m")])
    assert [p.key for p in plan.policies] == ["shop/a"]
    assert [p.policy for p in plan.problems] == ["shop/b"]


def test_a_missing_pool_drops_its_candidate_and_nothing_else() -> None:
    plan = compiled(a_policy("p", "gone", "m", "lost"), pools=[a_pool("m")], addresses={"shop/m": READY})
    assert chain(plan) == ("m", "m#2", "m#3")
    assert [(c.name, c.groups, bool(c.unusable)) for c in plan.policies[0].candidates] == [("gone", (), True), ("m", ("m",), False), ("lost", (), True)]
    assert plan.problems[0].message == "no such ModelPool: shop/gone, shop/lost"
    assert plan.problems[0].reason == "PoolNotFound"


def test_a_policy_with_nothing_behind_it_answers_from_the_sink() -> None:
    plan = compiled(a_policy("p", "gone"))
    assert plan.policies[0].groups[0] == NOTHING
    assert chain(plan) == ("_none", "_none#2", "_none#3")


def test_a_missing_secret_drops_the_endpoint_only_where_secrets_are_known() -> None:
    pool = a_pool("m", pods(), remote("far", FAR, secret=("s", "k")))
    ref = SecretRef("shop", "s", "k")
    for known, groups in ((None, ("far", "m")), (frozenset([ref]), ("far", "m")), (frozenset(), ("m",))):
        plan = compiled(a_policy("p", "m"), pools=[pool], secrets=known)
        assert plan.policies[0].candidates[0].groups == tuple(g if g == "m" else f"m/{g}" for g in groups)
        assert [p.reason for p in plan.problems] == (["SecretNotFound"] if known == frozenset() else [])
    assert plan.problems[0].message == "no such Secret or key: shop/s key k"


def test_an_endpoint_that_may_not_be_reached_leaves_the_chain_and_its_pool_says_why() -> None:
    pools = [a_pool("m", pods(), remote("meta", "http://169.254.169.254/v1", secret=("s", "k"))), a_pool("n", remote("far", FAR))]
    world = RoutingWorld(tuple(pools), (a_policy("p", "m", "n"),), {}, frozenset())
    for change, left, dropped in (
        ({}, ("n/far", "m"), ["meta"]),
        ({"egress": egress([])}, ("m", "n/far"), ["meta"]),
        ({"egress": egress([]), "barred": frozenset({("shop/n", "far")})}, ("m",), ["meta", "far"]),
        ({"egress": egress(["169.254.169.254"]), "secrets": None}, ("m/meta", "m", "n/far"), []),
    ):
        plan = compile_routes(replace(world, **change))
        policy = plan.policies[0]
        assert set(left) == {g for g, _ in policy.groups if "#" not in g}
        assert [r.flavor for r in plan.dropped] == dropped
        assert not {r.name for r in plan.dropped} & {r.name for r in plan.remote_clusters}
        asks = [p.reason for p in plan.problems]
        assert asks == (["SecretNotFound"] if not change else []), "a Secret of an endpoint that may not be reached is not asked for"
    barred = compile_routes(replace(world, egress=egress([]), barred=frozenset({("shop/n", "far")})))
    assert "endpoints.allow" in barred.policies[0].candidates[1].unusable


@pytest.mark.parametrize(
    ("flavors", "ready", "groups"),
    [
        ([pods()], True, ("m",)),
        ([pods()], False, ("m",)),
        ([remote("far", FAR)], False, ("m/far",)),
        ([remote("far", FAR), pods()], True, ("m", "m/far")),
        ([pods(), remote("one", FAR), remote("two", FAR)], True, ("m", "m/one", "m/two")),
        ([pods(), remote("one", FAR), remote("two", FAR)], False, ("m/one", "m/two", "m")),
    ],
)
def test_pods_come_first_while_one_is_ready(flavors, ready, groups) -> None:
    plan = compiled(a_policy("p", "m"), pools=[a_pool("m", *flavors)], addresses={"shop/m": READY} if ready else {})
    assert plan.policies[0].candidates[0].groups == groups


def test_the_static_chain_comes_first_and_is_cut_or_padded_under_names_of_its_own() -> None:
    pools = [a_pool(n) for n in "abcd"]
    for attempts, wanted in ((1, ("b",)), (2, ("b", "c")), (4, ("b", "c", "c#2", "c#3"))):
        plan = compiled(a_policy("p", *"abcd", chain=["b", "c"], fallback={"maxAttempts": attempts}), pools=pools)
        policy = plan.policies[0]
        assert policy.static_chain == wanted
        assert tuple(g for g, _ in policy.groups)[: len(wanted)] == wanted
        assert {g for g, _ in policy.groups} == {*wanted, *"abcd"}
        assert all(cluster == f"pods/shop/{group.partition('#')[0]}" for group, cluster in policy.groups)


def test_pods_that_come_and_go_move_no_version_and_what_is_written_does() -> None:
    pool, policy = a_pool("m", pods(), remote("far", FAR)), a_policy("p", "m")
    empty, full = compiled(policy, pools=[pool]), compiled(policy, pools=[pool], addresses={"shop/m": READY})
    assert empty.policies[0].version == full.policies[0].version
    assert empty.policies[0].static_chain != full.policies[0].static_chain
    versions = {
        compiled(a_policy("p", "m", **change), pools=[changed]).policies[0].version
        for change, changed in (
            ({}, pool),
            ({"refuse": True}, pool),
            ({"fallback": {"maxAttempts": 2}}, pool),
            ({"entrypoints": ["other"]}, pool),
            ({}, a_pool("m", pods(), remote("far", FAR, model="other"))),
            ({}, a_pool("m", pods())),
        )
    }
    assert len(versions) == 6


def test_a_neighbour_moves_no_version() -> None:
    pools = [a_pool("m"), a_pool("n")]
    alone = compiled(a_policy("p", "m"), pools=pools).policies[0]
    beside = compiled(a_policy("p", "m"), a_policy("q", "n", entrypoints=["n"]), pools=pools).policies[0]
    assert alone == beside


def test_weights_and_limits_come_from_declared_capacity() -> None:
    pool = a_pool("m", pods("fast", tokens=4000, concurrency=32), pods("slow", tokens=1000, concurrency=8), pods("silent", concurrency=8), replicas=3)
    addresses = tuple(Address(f"10.0.0.{i}", 8000, f) for i, f in enumerate(("fast", "slow", "silent", "fast")))
    plan = compiled(a_policy("p", "m"), pools=[pool], addresses={"shop/m": addresses})
    cluster = plan.pod_clusters[0]
    assert {(a.flavor, a.weight) for a in cluster.addresses} == {("fast", 128), ("slow", 32), ("silent", 32)}
    assert (cluster.concurrency, cluster.max_requests) == (32 + 8 + 8 + 32, 512)
    huge = a_pool("m", pods("fast", concurrency=100_000))
    huge = huge.model_copy(update={"spec": huge.spec.model_copy(update={"replicas": 10_000})})
    assert compiled(a_policy("p", "m"), pools=[huge]).pod_clusters[0].max_requests == 1 << 20
    undeclared = compiled(a_policy("p", "m"), pools=[a_pool("m")], addresses={"shop/m": READY}).pod_clusters[0]
    assert (undeclared.concurrency, undeclared.max_requests, undeclared.addresses[0].weight) == (0, 4096, 1)


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "prefix"),
    [
        ("https://api.example.com/v1", "api.example.com", 443, True, "/v1"),
        ("https://api.example.com", "api.example.com", 443, True, "/v1"),
        ("http://10.1.2.3:8000/", "10.1.2.3", 8000, False, "/v1"),
        ("https://gw.example.com:8443/openai/deployments/x/", "gw.example.com", 8443, True, "/openai/deployments/x"),
    ],
)
def test_an_endpoints_url_is_the_base_that_openai_clients_take(url, host, port, tls, prefix) -> None:
    far = compiled(a_policy("p", "m"), pools=[a_pool("m", remote("far", url))]).remote_clusters[0]
    assert (far.host, far.port, far.tls, far.path_prefix) == (host, port, tls, prefix)


def test_prices_come_from_status_and_from_price_lists_until_it_is_there() -> None:
    told = [{"flavor": "gpu", "inputPerMillion": "0.25", "outputPerMillion": "0.5"}, {"flavor": "odd", "inputPerMillion": "NaN", "outputPerMillion": "1"}]
    pool = a_pool("m", pods(), remote("far", FAR), price=told)
    assert compiled(a_policy("p", "m"), pools=[pool]).prices == {
        ("shop/m", "far"): Price(1_500_000, 6_000_000),
        ("shop/m", "gpu"): Price(250_000, 500_000),
    }


def test_clusters_no_policy_uses_are_not_programmed() -> None:
    plan = compiled(a_policy("p", "m"), pools=[a_pool("m"), a_pool("idle", pods(), remote("far", FAR))])
    assert [c.name for c in plan.pod_clusters] == ["pods/shop/m"]
    assert not plan.remote_clusters


def test_addresses_that_are_no_addresses_are_left_out() -> None:
    addresses = (Address("pod.example.com", 80, "gpu"), *READY, Address("fd00::1", 80, "gpu"))
    plan = compiled(a_policy("p", "m"), pools=[a_pool("m")], addresses={"shop/m": addresses})
    assert [a.host for a in plan.pod_clusters[0].addresses] == ["10.0.0.1", "fd00::1"]


names = st.sampled_from("abcd")


@settings(max_examples=60, deadline=None)
@given(
    st.permutations(range(6)),
    st.lists(st.lists(names, min_size=1, max_size=4, unique=True), min_size=1, max_size=3),
    st.integers(1, 5),
    st.sets(names),
    st.sets(names),
)
def test_order_is_no_matter_and_every_route_has_a_chain(order, candidates, attempts, existing, ready) -> None:
    pools = [a_pool(n, pods(), remote("far", FAR)) for n in sorted(existing)]
    policies = [a_policy(f"p{i}", *c, entrypoints=[f"e{i}", "shared"], fallback={"maxAttempts": attempts}) for i, c in enumerate(candidates)]
    world = RoutingWorld(tuple(pools), tuple(policies), {f"shop/{n}": READY for n in ready & existing})
    shuffled = replace(world, pools=tuple(reversed(pools)), policies=tuple(policies[i] for i in order if i < len(policies)))
    plan = compile_routes(world)
    assert plan == compile_routes(shuffled)
    clusters = {c.name for c in (*plan.pod_clusters, *plan.remote_clusters)} | {NOTHING[1]}
    for policy in plan.policies:
        groups = dict(policy.groups)
        assert len(groups) == len(policy.groups)
        assert len(policy.static_chain) == attempts
        assert set(policy.static_chain) <= set(groups)
        assert set(groups.values()) <= clusters
        assert {g for c in policy.candidates for g in c.groups} <= set(groups)


def test_compile_imports_nothing_that_could_surprise() -> None:
    tree = ast.parse(Path(compile_module.__file__).read_text())
    imported = {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and not n.level}
    assert not imported & {"asyncio", "random", "time", "os", "grpc", "envoy"}
