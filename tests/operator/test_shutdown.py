"""SIGTERM whenever it comes: exit 0, the Lease released, nothing written afterwards."""

from __future__ import annotations

import asyncio
import signal

import pytest
from tests.operator.running import LEASE, PATIENT, eventually, is_lease, is_work, told

from modelfleet.kube.resources import LEASES


async def stopped_well(fleet, proxy, operator) -> None:
    """It exited 0; the last write of all released the Lease."""
    assert await operator.ends() == 0, operator.story()
    assert await fleet.holder() in ("", None), operator.story()
    written = proxy.written()
    if written:
        assert is_lease(written[-1]), told(written[-3:])
    await asyncio.sleep(0.3)
    assert len(proxy.written()) == len(written)


async def test_during_a_long_act(fleet, proxy, start, tmp_path):
    await fleet.a_fleet("small", "boss")
    held = proxy.hold(lambda seen: is_work(seen) and "/deployments/" in seen.path)
    operator = start(proxy.kubeconfig(tmp_path), PACE_FINISH="90", **PATIENT)
    await asyncio.wait_for(held.arrived.wait(), 90)
    operator.signal(signal.SIGTERM)
    await asyncio.sleep(1.0)
    assert not operator.ended(), operator.story()
    held.release()
    await stopped_well(fleet, proxy, operator)
    assert await fleet.settled("small", "boss"), "the act in hand was finished"


async def test_during_an_act_that_does_not_end(fleet, proxy, start, tmp_path):
    await fleet.a_fleet("small", "boss")
    held = proxy.hold(lambda seen: is_work(seen) and "/deployments/" in seen.path)
    operator = start(proxy.kubeconfig(tmp_path), PACE_FINISH="1", PACE_LAST_WRITE="1", **PATIENT)
    await asyncio.wait_for(held.arrived.wait(), 90)
    operator.signal(signal.SIGTERM)
    await stopped_well(fleet, proxy, operator)


async def test_twice_in_a_row(fleet, proxy, start, tmp_path):
    await fleet.a_fleet()
    held = proxy.hold(lambda seen: is_work(seen) and "/deployments/" in seen.path)
    operator = start(proxy.kubeconfig(tmp_path), **PATIENT)
    await asyncio.wait_for(held.arrived.wait(), 90)
    operator.signal(signal.SIGTERM)
    await asyncio.sleep(0.2)
    operator.signal(signal.SIGTERM)
    operator.signal(signal.SIGINT)
    held.release()
    await stopped_well(fleet, proxy, operator)


@pytest.mark.parametrize("path", ["/api/v1/nodes", "/apis/modelfleet.dev/v1alpha1/modelpools"])
async def test_during_a_list(fleet, proxy, start, tmp_path, path):
    await fleet.a_fleet()
    held = proxy.hold(lambda seen: seen.verb == "get" and seen.path == path)
    operator = start(proxy.kubeconfig(tmp_path), **PATIENT)
    await asyncio.wait_for(held.arrived.wait(), 90)
    operator.signal(signal.SIGTERM)
    await stopped_well(fleet, proxy, operator)
    assert not any(is_work(w) for w in proxy.written())


async def test_while_waiting_for_our_kinds(fleet, proxy, start, tmp_path):
    held = proxy.hold(lambda seen: seen.path == "/apis/modelfleet.dev/v1alpha1")
    operator = start(proxy.kubeconfig(tmp_path))
    await asyncio.wait_for(held.arrived.wait(), 90)
    operator.signal(signal.SIGTERM)
    await stopped_well(fleet, proxy, operator)
    assert proxy.written() == []


@pytest.mark.parametrize("when", ["before", "after"])
async def test_while_taking_the_lease(fleet, proxy, start, tmp_path, when):
    held = proxy.hold(lambda seen: seen.method == "POST" and is_lease(seen), when)
    operator = start(proxy.kubeconfig(tmp_path), **PATIENT)
    await asyncio.wait_for(held.arrived.wait(), 90)
    operator.signal(signal.SIGTERM)
    await asyncio.sleep(0.2)
    held.release()
    await stopped_well(fleet, proxy, operator)


async def test_while_following(fleet, proxy, start, tmp_path):
    spec = {"holderIdentity": "somebody-else", "leaseDurationSeconds": 3600, "renewTime": "2026-01-01T00:00:00.000000Z"}
    await fleet.client.create(LEASES, fleet.namespace, {"metadata": {"name": LEASE}, "spec": spec})
    operator = start(proxy.kubeconfig(tmp_path))

    async def ready() -> bool:
        return (await operator.ask("/readyz"))[0] == 200

    await eventually(ready, operator.story)
    operator.signal(signal.SIGTERM)
    assert await operator.ends() == 0, operator.story()
    assert proxy.written() == []
    assert await fleet.holder() == "somebody-else"


async def test_before_kopf_is_ready(fleet, proxy, start, tmp_path):
    """From the moment it leads, at steps of a few milliseconds, until Kopf is long ready."""
    await fleet.a_fleet()
    for delay in (0.0, 0.05, 0.1, 0.2, 0.4):
        proxy.reset()
        taken = proxy.hold(lambda seen: seen.method in ("POST", "PUT") and is_lease(seen), "after")
        operator = start(proxy.kubeconfig(tmp_path), **PATIENT)
        await asyncio.wait_for(taken.arrived.wait(), 90)
        taken.release()
        await asyncio.sleep(delay)
        operator.signal(signal.SIGTERM)
        await stopped_well(fleet, proxy, operator)
