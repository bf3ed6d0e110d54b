"""The Lease lost in three ways, under a fleet that never rests: the old leader sends nothing after its deadline but what was in flight, and exits 1."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from datetime import datetime

from tests.operator.running import QUICK, Fleet, eventually, is_work, told
from tests.support.proxy import TcpProxy

from modelfleet.kube.resources import MODEL_POOLS

DEADLINE = float(QUICK["LEASE_DEADLINE"])
IN_FLIGHT = 2
"""What one step of an act sends at once in this fleet: the statuses of the pool and of its class."""


@contextlib.asynccontextmanager
async def restless(fleet: Fleet) -> AsyncIterator[None]:
    """Somebody scales the pool up and down all the time, so that a leader always has something to write."""

    async def scale() -> None:
        for n in range(10_000):
            with contextlib.suppress(Exception):
                await fleet.client.merge_patch(MODEL_POOLS, fleet.namespace, "small", {"spec": {"replicas": 1 + n % 5}})
            await asyncio.sleep(0.05)

    task = asyncio.create_task(scale())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_another_holder_writes_the_lease(fleet, server, start):
    await fleet.a_fleet()
    operator = start(server.kubeconfig, **QUICK)
    await operator.leads()
    async with restless(fleet):
        await eventually(lambda: fleet.settled("small"), operator.story)
        await fleet.steal_lease()
        stolen = time.time()
        assert await operator.ends() == 1, operator.story()
        await asyncio.sleep(DEADLINE)

    writes = [
        e for e in server.audit_events()
        if e["userAgent"].startswith("modelfleet-operator/") and e["verb"] in ("create", "update", "patch", "delete") and fleet.namespace in e["requestURI"]
    ]  # fmt: skip
    late = [e for e in writes if _time(e) > stolen + DEADLINE and e["objectRef"]["resource"] != "leases"]
    assert len(writes) > 5
    assert len(late) <= IN_FLIGHT, late
    assert await fleet.holder() == "somebody-else"


async def test_the_api_server_is_unreachable(fleet, server, start, tmp_path):
    await fleet.a_fleet()
    async with TcpProxy(server.url) as proxy:
        operator = start(proxy.kubeconfig(tmp_path, server), **QUICK)
        await operator.leads()
        async with restless(fleet):
            await eventually(lambda: fleet.settled("small"), operator.story)
            proxy.pause()
            paused = time.time()
            assert await operator.ends() == 1, operator.story()
            proxy.resume()  # what was in flight arrives now
            await asyncio.sleep(1)

    late = [e for e in server.audit_events() if e["userAgent"].startswith("modelfleet-operator/") and e["verb"] == "patch" and _time(e) > paused + 0.5]
    assert len([e for e in late if fleet.namespace in e["requestURI"]]) <= IN_FLIGHT, late


async def test_a_paused_process_that_wakes_up_writes_nothing(fleet, server, proxy, start, tmp_path):
    await fleet.a_fleet()
    old = start(proxy.kubeconfig(tmp_path), **QUICK)
    await old.leads()
    new = start(server.kubeconfig, **QUICK)
    async with restless(fleet):
        await eventually(lambda: fleet.settled("small"), old.story)
        await eventually(lambda: len([w for w in proxy.written() if is_work(w)]) > 5, old.story)
        old.signal(signal.SIGSTOP)
        await eventually(lambda: _silent(proxy), "what had left the process has arrived")
        before = len(proxy.written())
        await new.leads()
        old.signal(signal.SIGCONT)
        assert await old.ends() == 1, old.story()
        late = [w for w in proxy.written()[before:] if is_work(w)]
        assert len(late) <= IN_FLIGHT, told(late)
        await asyncio.sleep(0.5)
        assert not new.ended(), new.story()
    assert (await fleet.holder() or "").startswith(new.log.stem)


async def test_a_follower_is_ready_and_writes_nothing(fleet, server, proxy, start, tmp_path):
    await fleet.a_fleet()
    leader = start(server.kubeconfig)
    await leader.leads()
    follower = start(proxy.kubeconfig(tmp_path))
    async with restless(fleet):
        await eventually(lambda: _polled(proxy, 3), follower.story)
        assert (await follower.ask("/readyz"))[0] == 200
        assert (await follower.ask("/healthz"))[0] == 200
        assert told(proxy.written()) == []
        # a clean stop hands over at once, a Lease of an hour would not
        leader.signal(signal.SIGTERM)
        assert await leader.ends() == 0
        await follower.leads()
        await eventually(lambda: any(is_work(w) for w in proxy.written()), follower.story)


async def _silent(proxy) -> bool:
    before = len(proxy.written())
    await asyncio.sleep(1)
    return len(proxy.written()) == before


async def _polled(proxy, times: int) -> bool:
    return sum(count for (verb, path), count in proxy.counts.items() if verb == "get" and "/leases/" in path) >= times


def _time(event: dict) -> float:
    return datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp()
