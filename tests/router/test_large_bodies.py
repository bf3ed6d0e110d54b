"""Bodies beyond what the decider sees, through the real Envoy and the real decider: decided by their head, told so, and passed on whole."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import grpc
import pytest
from tests.support.envoy import Upstream, a_bench, a_policy, a_pool

from modelfleet.core.routing.ir import Address, RoutingWorld
from modelfleet.router.authz import Decider


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    server = await Upstream().start()
    yield server
    await server.stop()


async def test_a_body_is_decided_whole_up_to_one_mebibyte_and_by_its_head_beyond(upstream: Upstream) -> None:
    bench, decider = await a_bench(), Decider()
    server = grpc.aio.server()
    decider.add_to(server)
    server.add_insecure_port(f"unix:{bench.settings.run_dir}/authz.sock")
    await server.start()
    short = {"name": "short", "match": {"inputTokens": {"min": 0}}, "candidates": ["large"]}
    world = RoutingWorld(
        pools=(a_pool("small"), a_pool("large")),
        policies=(a_policy("p", "small", "large", chain=["small"], rules=[short]),),
        addresses={f"shop/{name}": (Address("127.0.0.1", upstream.port, "gpu"),) for name in ("small", "large")},
    )
    try:
        decider.use(await bench.serve(world))
        for size, why, served in (
            (1_000_000, "RuleMatched", "large"),
            (1_100_000, "BodyCut", "small"),
            (4_000_000, "BodyCut", "small"),
            (8_300_000, "BodyCut", "small"),
        ):
            body = json.dumps({"messages": [{"role": "user", "content": "x" * size}], "model": "auto"}).encode()
            answer = await bench.ask(body)
            assert (size, answer.status, answer.headers["x-modelfleet-decision"].rpartition("why=")[2]) == (size, 200, why)
            assert answer.headers["x-modelfleet-served"] == f"shop/{served}/gpu"
            assert upstream.requests[-1].json["model"] == f"{served}-model"
            assert len(upstream.requests[-1].json["messages"][0]["content"]) == size
    finally:
        await server.stop(None)
        await bench.close()
