"""What sends a request to the next group, in the real Envoy: and that nothing does after the first byte of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from tests.support.envoy import Bench, Reply, Upstream, a_bench, a_policy, a_pool, completion, decision, free_port, pods, remote, stream, until

from modelfleet.core.routing.ir import Address, RoutingWorld


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = await a_bench()
    yield made
    await made.close()


@pytest.fixture
async def upstreams() -> AsyncIterator[Callable]:
    started: list[Upstream] = []

    async def start(reply: Reply | None = None) -> Upstream:
        started.append(await Upstream((lambda _: reply) if reply else None).start())
        return started[-1]

    yield start
    for server in started:
        await server.stop()


def a_world(*ports: int | None, **policy) -> RoutingWorld:
    """Pools a, b, c in this order; a port of None: no ready pod."""
    names = "abc"[: len(ports)]
    return RoutingWorld(
        pools=tuple(a_pool(n) for n in names),
        policies=(a_policy("p", *names, **policy),),
        addresses={f"shop/{n}": (Address("127.0.0.1", port, "gpu"),) for n, port in zip(names, ports, strict=True) if port},
    )


FIRST_BYTE = {"fallback": {"firstByteTimeout": "2s"}}


@pytest.mark.parametrize(
    ("reply", "attempts"),
    [
        (Reply(503), "2"),
        (Reply(429), "2"),
        (Reply(reset=True), "2"),
    ],
    ids=["503", "429", "reset"],
)
async def test_a_failing_group_is_left_for_the_next(bench: Bench, upstreams: Callable, reply: Reply, attempts: str) -> None:
    first, second = await upstreams(reply), await upstreams()
    await bench.serve(a_world(first.port, second.port))
    for more in ({}, {"stream": True}):
        answer = await bench.chat("auto", **more)
        assert (answer.status, answer.headers["x-modelfleet-served"], answer.headers["x-modelfleet-attempts"]) == (200, "shop/b/gpu", attempts)


@pytest.mark.parametrize("how", [{"stream": True}, {"stream": False}, {}])
async def test_the_first_byte_limit_is_for_streams_alone(bench: Bench, upstreams: Callable, how: dict[str, bool]) -> None:
    """The first byte of a whole answer is its last: there a limit would only repeat the work elsewhere."""
    slow, second = await upstreams(Reply(after=6.0)), await upstreams()
    await bench.serve(a_world(slow.port, second.port, **FIRST_BYTE))
    answer = await bench.chat("auto", **how)
    served = ("shop/b/gpu", "2") if how.get("stream") else ("shop/a/gpu", "1")
    assert (answer.status, answer.headers["x-modelfleet-served"], answer.headers["x-modelfleet-attempts"]) == (200, *served)


async def test_refused_connections_and_empty_pools_are_left_for_the_next(bench: Bench, upstreams: Callable) -> None:
    last = await upstreams()
    await bench.serve(a_world(free_port(), None, last.port))
    for _ in range(8):
        answer = await bench.chat("auto")
        assert (answer.status, answer.headers["x-modelfleet-served"], answer.headers["x-modelfleet-attempts"]) == (200, "shop/c/gpu", "3")


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_an_endpoint_whose_name_does_not_resolve_is_left_for_the_next(bench: Bench, upstreams: Callable, scheme: str) -> None:
    last = await upstreams()
    pool = a_pool("a", remote("far", f"{scheme}://nowhere.invalid"))
    world = RoutingWorld((pool, a_pool("b")), (a_policy("p", "a", "b"),), {"shop/b": (Address("127.0.0.1", last.port, "gpu"),)})
    await bench.serve(world)
    answer = await bench.chat("auto")
    assert (answer.status, answer.headers["x-modelfleet-served"], answer.headers["x-modelfleet-attempts"]) == (200, "shop/b/gpu", "2")


async def test_the_sink_answers_for_ever_when_every_pool_is_empty(bench: Bench) -> None:
    await bench.serve(a_world(None, None))
    for _ in range(12):
        answer = await bench.chat("auto")
        assert (answer.status, answer.json["error"]["code"], answer.headers["retry-after"]) == (503, "no_ready_replica", "5")
        assert answer.headers["x-modelfleet-attempts"] == "3"
        assert "x-modelfleet-served" not in answer.headers


@pytest.mark.parametrize("status", [400, 404, 422, 500])
async def test_an_answer_about_the_request_itself_is_the_clients(bench: Bench, upstreams: Callable, status: int) -> None:
    first, second = await upstreams(Reply(status)), await upstreams()
    await bench.serve(a_world(first.port, second.port))
    answer = await bench.chat("auto")
    assert (answer.status, answer.headers["x-modelfleet-attempts"], len(second.requests)) == (status, "1", 0)


async def test_only_the_named_triggers_are_followed(bench: Bench, upstreams: Callable) -> None:
    first, second = await upstreams(Reply(503)), await upstreams()
    await bench.serve(a_world(first.port, second.port, fallback={"retryOn": ["Connect"]}))
    assert (await bench.chat("auto")).status == 503
    first.reply = lambda _: Reply(429)
    assert (await bench.chat("auto")).status == 429
    assert not second.requests


async def test_a_stream_that_began_is_never_retried_and_outlives_the_first_byte_limit(bench: Bench, upstreams: Callable) -> None:
    first, second = await upstreams(stream(6, pause=0.5)), await upstreams()
    await bench.serve(a_world(first.port, second.port, **FIRST_BYTE))
    whole = await bench.chat("auto", stream=True)
    assert (whole.complete, whole.body.count(b"data:"), whole.headers["x-modelfleet-attempts"]) == (True, 8, "1")
    cut = stream(3, pause=0.05)
    cut.cut = True
    first.reply = lambda _: cut
    broken = await bench.chat("auto", stream=True)
    assert (broken.status, broken.complete, broken.headers["x-modelfleet-served"]) == (200, False, "shop/a/gpu")
    assert not second.requests


async def test_a_full_candidate_says_so_and_the_rest_of_the_chain_is_walked_by_retries_alone(bench: Bench, upstreams: Callable) -> None:
    """The circuit breaker is a safety net: Envoy does not retry when it trips, which is why a decider reads headroom and not this."""
    full = asyncio.Event()
    slow = await upstreams(Reply(chunks=[full, b"{}"]))
    pool = a_pool("a", remote("r", f"http://127.0.0.1:{slow.port}", concurrency=1))
    await bench.serve(RoutingWorld(pools=(pool,), policies=(a_policy("p", "a"),)))
    asking = [asyncio.create_task(bench.chat("auto")) for _ in range(20)]
    await until(lambda: sum(task.done() for task in asking) >= 12, "all but those that are served or wait to be refused")
    full.set()
    answers = await asyncio.gather(*asking)
    assert {a.status for a in answers} == {200, 503}
    assert 4 <= len(slow.requests) <= 8
    assert {a.json["error"]["code"] for a in answers if a.status == 503} == {"overloaded"}


async def test_the_static_chain_is_padded_so_its_end_is_never_passed(bench: Bench, upstreams: Callable) -> None:
    first, second, third = await upstreams(Reply(503)), await upstreams(Reply(503)), await upstreams()
    world = a_world(first.port, second.port, third.port, chain=["a", "b"], fallback={"maxAttempts": 5})
    plan = await bench.serve(world)
    assert plan.policies[0].static_chain == ("a", "b", "b#2", "b#3", "b#4")
    answer = await bench.chat("auto")
    assert (answer.status, answer.headers["x-modelfleet-attempts"]) == (503, "5")
    assert (len(first.requests), len(second.requests), len(third.requests)) == (1, 4, 0)

    async def decide(_request) -> object:
        return decision(["c", "c", "c", "c", "c"])

    await bench.decide(decide)
    assert (await bench.chat("auto")).headers["x-modelfleet-served"] == "shop/c/gpu"


async def test_one_attempt_means_one(bench: Bench, upstreams: Callable) -> None:
    first, second = await upstreams(Reply(503)), await upstreams()
    await bench.serve(a_world(first.port, second.port, fallback={"maxAttempts": 1}))
    answer = await bench.chat("auto")
    assert (answer.status, answer.headers["x-modelfleet-attempts"], len(second.requests)) == (503, "1", 0)


async def test_the_total_limit_ends_a_request_with_504(bench: Bench, upstreams: Callable) -> None:
    hung = await upstreams(Reply(after=30.0))
    await bench.serve(a_world(hung.port, fallback={"firstByteTimeout": "500ms", "totalTimeout": "800ms", "maxAttempts": 5}))
    answer = await bench.chat("auto")
    assert (answer.status, answer.json["error"]["code"]) == (504, "upstream_timeout")


async def test_endpoints_that_fail_locally_are_ejected_and_the_others_serve(bench: Bench, upstreams: Callable) -> None:
    alive, world = await upstreams(), None
    dead = free_port()
    world = RoutingWorld(
        pools=(a_pool("a", pods("gpu")),),
        policies=(a_policy("p", "a"),),
        addresses={"shop/a": (Address("127.0.0.1", alive.port, "gpu"), Address("127.0.0.1", dead, "gpu"))},
    )
    await bench.serve(world)
    assert {(await bench.chat("auto")).status for _ in range(30)} == {200}


async def test_requests_follow_the_weights_of_flavors(bench: Bench, upstreams: Callable) -> None:
    fast, slow = await upstreams(completion()), await upstreams(completion())
    world = RoutingWorld(
        pools=(a_pool("a", pods("fast", tokens=4000), pods("slow", tokens=1000)),),
        policies=(a_policy("p", "a"),),
        addresses={"shop/a": (Address("127.0.0.1", fast.port, "fast"), Address("127.0.0.1", slow.port, "slow"))},
    )
    await bench.serve(world)
    for _ in range(100):
        await bench.chat("auto")
    assert len(fast.requests) > 2 * len(slow.requests) > 0


async def test_pods_that_come_and_go_move_no_version_and_remote_endpoints_step_in(bench: Bench, upstreams: Callable) -> None:
    pod, far = await upstreams(), await upstreams()
    pool = a_pool("a", pods("gpu"), remote("far", f"http://127.0.0.1:{far.port}"))
    world = RoutingWorld(pools=(pool,), policies=(a_policy("p", "a"),))
    versions = set()
    for addresses, served in (((), "shop/a/far"), ((Address("127.0.0.1", pod.port, "gpu"),), "shop/a/gpu"), ((), "shop/a/far")):
        plan = await bench.serve(RoutingWorld(world.pools, world.policies, {"shop/a": addresses}))
        versions.add(plan.policies[0].version)
        for _ in range(4500):
            answer = await bench.chat("auto")
            if (answer.headers["x-modelfleet-served"], answer.headers["x-modelfleet-attempts"]) == (served, "1"):
                break
            await asyncio.sleep(0.02)
        assert (answer.status, answer.headers["x-modelfleet-served"], answer.headers["x-modelfleet-attempts"]) == (200, served, "1")
    assert len(versions) == 1
