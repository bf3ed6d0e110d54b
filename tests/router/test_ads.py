"""The ADS server against the real Envoy: from an empty start, through refusals, restarts and deletions."""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.envoy import Bench, Upstream, a_bench, a_policy, a_pool, pods, remote, stream, until

from modelfleet.core.routing.compile import compile_routes
from modelfleet.core.routing.ir import Address, RoutingWorld, SecretRef
from modelfleet.router.ads import AdsServer
from modelfleet.router.protos import CDS

POISON = "http://example.com:99999"  # the schema counts digits; Envoy knows that a port ends at 65535


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = await a_bench(grace=0.5)
    yield made
    await made.close()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    server = await Upstream().start()
    yield server
    await server.stop()


def a_world(upstream: Upstream, *more: tuple, **policy) -> RoutingWorld:
    """Policy ``p`` on pool ``small``; ``more``: further (policy, pool)."""
    return RoutingWorld(
        pools=(a_pool("small"), *(pool for _, pool in more)),
        policies=(a_policy("p", "small", **policy), *(p for p, _ in more)),
        addresses={"shop/small": (Address("127.0.0.1", upstream.port, "gpu"),)},
    )


def poisoned(name: str) -> tuple:
    return a_policy(name, f"{name}-pool", entrypoints=[name]), a_pool(f"{name}-pool", remote("far", POISON))


async def test_envoy_serves_from_an_empty_start_and_not_before_the_first_publish(bench: Bench, upstream: Upstream) -> None:
    await until(lambda: bench.ads._stream is not None, "Envoy's stream")
    assert (bench.ads.ready, dict(bench.ads.acked)) == (False, {})
    plan = await bench.serve(a_world(upstream))
    assert bench.ads.ready
    assert dict(bench.ads.acked) == {"shop/p": plan.policies[0].version}
    assert bench.ads.running == {"shop/p": plan.policies[0]}
    assert (await bench.chat("auto")).status == 200
    assert stat.S_IMODE(Path(f"{bench.settings.run_dir}/ads.sock").stat().st_mode) == 0o660
    assert "deprecated" not in bench.envoy.log()


async def test_no_policy_at_all_is_an_answer_too(bench: Bench) -> None:
    await bench.serve(RoutingWorld())
    assert (await bench.chat("auto")).json["error"]["message"] == "no such model; this gateway serves: none"
    assert bench.ads.ready


async def test_a_poisoned_policy_is_isolated_and_named_in_envoys_words(bench: Bench, upstream: Upstream) -> None:
    fine = [(a_policy(f"fine-{i}", "small", entrypoints=[f"fine-{i}"]), a_pool(f"other-{i}")) for i in range(9)]
    bad = poisoned("bad"), poisoned("worse")
    world = a_world(upstream, *fine[:4], bad[0], *fine[4:], bad[1])
    await bench.serve(world, wait=False)
    good = {"shop/p", *(f"shop/fine-{i}" for i in range(9))}
    await until(lambda: set(bench.ads.acked) == good and set(bench.ads.rejected) == {"shop/bad", "shop/worse"}, "isolation")
    told = "remote/shop/bad-pool/far: SocketAddressValidationError.PortValue: value must be less than or equal to 65535"
    assert bench.ads.rejected["shop/bad"] == told
    for name in ("auto", "fine-0", "fine-8"):
        assert (await bench.chat(name)).status == 200
    assert (await bench.chat("bad")).status == 404
    refusals = bench.ads.refusals
    await bench.serve(world, wait=False)
    await bench.serve(replace(world, addresses={}), wait=False)
    for _ in range(4500):
        if (await bench.chat("auto")).status == 503:
            break
        await asyncio.sleep(0.02)
    assert bench.ads.refusals == refusals, "what was refused is not tried again until it changes"


async def test_a_policy_that_turns_bad_keeps_its_last_good_form_and_recovers(bench: Bench, upstream: Upstream) -> None:
    await bench.serve(a_world(upstream))
    before = dict(bench.ads.acked)
    turned = RoutingWorld(
        pools=(a_pool("small"), a_pool("far", remote("far", POISON))),
        policies=(a_policy("p", "far", "small"), a_policy("new", "small", entrypoints=["new"])),
        addresses={"shop/small": (Address("127.0.0.1", upstream.port, "gpu"),)},
    )
    await bench.serve(turned, wait=False)
    await until(lambda: "shop/p" in bench.ads.rejected and "shop/new" in bench.ads.acked, "isolation")
    assert bench.ads.acked["shop/p"] == before["shop/p"]
    assert (await bench.chat("auto")).headers["x-modelfleet-served"] == "shop/small/gpu"
    assert (await bench.chat("new")).status == 200
    plan = await bench.serve(replace(turned, pools=(a_pool("small"), a_pool("far", remote("far", f"http://127.0.0.1:{upstream.port}")))))
    assert not bench.ads.rejected
    assert bench.ads.acked["shop/p"] == plan.policies[1].version != before["shop/p"]
    assert (await bench.chat("auto")).headers["x-modelfleet-served"] == "shop/far/far"


async def test_a_shared_pool_that_turns_bad_is_blamed_on_every_policy_that_names_it(bench: Bench, upstream: Upstream) -> None:
    policies = (*(a_policy(n, "far", entrypoints=[n]) for n in ("a", "b")), a_policy("c", "small", entrypoints=["c"]))
    world = RoutingWorld(
        pools=(a_pool("small"), a_pool("far", remote("far", f"http://127.0.0.1:{upstream.port}"))),
        policies=policies,
        addresses={"shop/small": (Address("127.0.0.1", upstream.port, "gpu"),)},
    )
    await bench.serve(world)
    before = dict(bench.ads.acked)
    await bench.serve(replace(world, pools=(a_pool("small"), a_pool("far", remote("far", POISON)))), wait=False)
    await until(lambda: set(bench.ads.rejected) == {"shop/a", "shop/b"}, "both refusals")
    await bench.settled()
    assert dict(bench.ads.acked) == before
    for name in "abc":
        assert (await bench.chat(name)).status == 200


async def test_envoy_restarts_and_has_everything_again(bench: Bench, upstream: Upstream) -> None:
    changes: list[bool] = []
    bench.ads._on_change = lambda: changes.append(bench.ads.ready)
    plan = await bench.serve(a_world(upstream))
    bench.envoy.kill()
    await until(lambda: not bench.ads.ready, "the loss")
    assert dict(bench.ads.acked) == {}
    bench.envoy.start()
    await until(lambda: bench.ads.acked == {"shop/p": plan.policies[0].version}, "ACK")
    await bench.serve(a_world(upstream))
    assert (await bench.chat("auto")).status == 200
    assert changes == [True, False, True]


async def test_a_router_restart_drops_nothing(bench: Bench, upstream: Upstream) -> None:
    upstream.reply = lambda r: stream(10, pause=0.05) if r.json.get("stream") else stream(1)
    world = a_world(upstream)
    await bench.serve(world)
    streams = [asyncio.create_task(bench.chat("auto", stream=True)) for _ in range(4)]
    done, answers = asyncio.Event(), []

    async def load() -> None:
        while not done.is_set():
            answers.append(await bench.chat("auto"))

    loads = [asyncio.create_task(load()) for _ in range(4)]
    await until(lambda: len(answers) > 20, "traffic")
    await bench.ads.stop()
    seen = len(answers)
    await until(lambda: len(answers) > seen + 50, "traffic without a router")
    bench.ads = AdsServer(bench.settings)
    await bench.ads.start(f"{bench.settings.run_dir}/ads.sock")
    await until(lambda: bench.ads._stream is not None, "Envoy's new stream")
    seen = len(answers)
    await until(lambda: len(answers) > seen + 50, "traffic with a router that is not synced")
    await bench.serve(world)
    seen = len(answers)
    await until(lambda: len(answers) > seen + 50, "traffic after the push")
    done.set()
    await asyncio.gather(*loads)
    whole = await asyncio.gather(*streams)
    assert {(a.status, a.complete) for a in [*answers, *whole]} == {(200, True)}


@pytest.fixture
async def slow_to_forget() -> AsyncIterator[Bench]:
    made = await a_bench(grace=8.0)
    yield made
    await made.close()


async def test_a_cluster_goes_only_after_its_routes_and_a_while(slow_to_forget: Bench, upstream: Upstream) -> None:
    bench = slow_to_forget
    world = a_world(upstream, (a_policy("q", "other", entrypoints=["other"]), a_pool("other")))
    await bench.serve(world)
    await bench.serve(a_world(upstream))
    assert (await bench.chat("other")).status == 404
    assert "pods/shop/other::" in await bench.envoy.admin("/clusters")
    for _ in range(1800):
        if "pods/shop/other::" not in await bench.envoy.admin("/clusters"):
            break
        await asyncio.sleep(0.05)
    assert "pods/shop/other::" not in await bench.envoy.admin("/clusters")
    assert (await bench.chat("auto")).status == 200
    assert bench.ads.ready


async def test_a_cluster_that_comes_back_in_time_stays(bench: Bench, upstream: Upstream) -> None:
    world = a_world(upstream, (a_policy("q", "small", entrypoints=["other"]), a_pool("other")))
    for _ in range(3):
        await bench.serve(world)
        assert (await bench.chat("other")).status == 200
        await bench.serve(replace(world, policies=()))
        assert (await bench.chat("other")).status == 404
    await asyncio.sleep(0.7)
    await bench.serve(world)
    assert (await bench.chat("other")).status == 200


async def test_changed_limits_replace_a_cluster_under_load_without_loss(bench: Bench, upstream: Upstream) -> None:
    world = a_world(upstream)
    await bench.serve(world)
    done, answers = asyncio.Event(), []

    async def load() -> None:
        while not done.is_set():
            answers.append(await bench.chat("auto"))

    loads = [asyncio.create_task(load()) for _ in range(3)]
    for concurrency in (100, 200, 400, 800):
        await bench.serve(replace(world, pools=(a_pool("small", pods("gpu", concurrency=concurrency)),)))
        seen = len(answers)
        await until(lambda seen=seen: len(answers) > seen + 20, "traffic")
    done.set()
    await asyncio.gather(*loads)
    assert {a.status for a in answers} == {200}


async def test_secrets_reach_envoy_and_nothing_that_is_written_down(bench: Bench, upstream: Upstream, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bench.secrets[SecretRef("shop", "key", "token")] = ("41", b"sk-very-secret")
    world = RoutingWorld(pools=(a_pool("far", remote("far", f"http://127.0.0.1:{upstream.port}", secret=("key", "token"))),), policies=(a_policy("p", "far"),))
    await bench.serve(world)
    assert (await bench.chat("auto")).status == 200
    assert upstream.requests[-1].headers["authorization"] == "Bearer sk-very-secret"
    versions = {s.version for s in bench.ads._stream.types.values()}
    for place in (caplog.text, bench.envoy.log(), repr(versions), repr(bench.ads.acked), await bench.envoy.admin("/config_dump")):
        assert "sk-very-secret" not in place


async def test_two_hundred_policies_are_pushed_at_once(bench: Bench, upstream: Upstream) -> None:
    more = [(a_policy(f"q{i}", f"pool{i}", entrypoints=[f"m{i}"]), a_pool(f"pool{i}")) for i in range(200)]
    plan = compile_routes(a_world(upstream, *more))
    assert len(plan.policies) == 201
    await bench.serve(a_world(upstream, *more))
    assert (await bench.chat("auto")).status == 200
    assert (await bench.chat("m199")).status == 503


async def test_a_router_that_starts_anew_keeps_the_clusters_that_envoys_routes_still_name(upstream: Upstream) -> None:
    bench = await a_bench(grace=3.0)
    far, near = a_pool("far", remote("far", f"http://127.0.0.1:{upstream.port}")), a_pool("near", remote("near", f"http://127.0.0.1:{upstream.port}"))
    try:
        await bench.serve(RoutingWorld(pools=(far,), policies=(a_policy("p", "far"),)))
        await bench.ads.stop()
        bench.ads = AdsServer(bench.settings, grace=3.0)
        await bench.ads.start(f"{bench.settings.run_dir}/ads.sock", bench.logs.register)
        await bench.ads.publish(compile_routes(RoutingWorld(pools=(near,), policies=(a_policy("p", "near"),))), {})
        assert {"remote/shop/far/far", "remote/shop/near/near"} <= set(bench.ads._snapshot.resources[CDS])
        await until(lambda: "shop/p" in bench.ads.acked, "an ACK")
        await until(lambda: "remote/shop/far/far" not in bench.ads._in_envoy, "the old cluster to leave")
        assert (await bench.chat("auto")).headers["x-modelfleet-served"] == "shop/near/near"
    finally:
        await bench.close()
