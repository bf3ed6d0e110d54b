"""The Lease against a real API server that is paused, cut off or written to by another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.kube.waiting import eventually
from tests.support.apiserver import ApiServer
from tests.support.proxy import TcpProxy

from modelfleet.errors import Retry
from modelfleet.kube.client import Client
from modelfleet.kube.lease import Lease
from modelfleet.kube.resources import LEASES, Resource

QUICK = {"duration": 8.0, "deadline": 6.0, "renew": 0.5}
"""A Lease to lose: longer than a busy machine stands still."""
HELD = {"duration": 90.0, "deadline": 60.0, "renew": 0.5}


MAPS = Resource("", "v1", "configmaps", "ConfigMap")


async def written(client: Client, namespace: str) -> int:
    """How often the leader in the other process has written, by the counters that it writes."""
    return sum(int(found["data"]["count"]) for found in (await client.list(MAPS, namespace))[0] if "count" in (found.get("data") or {}))


@asynccontextmanager
async def renewing(lease: Lease) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(lease.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_the_deadline_must_end_before_another_may_lead() -> None:
    with pytest.raises(ValueError, match="renew < deadline < duration"):
        Lease(None, "n", "l", "me", duration=10, deadline=10, renew=5)  # type: ignore[arg-type]


async def test_one_put_per_renewal_in_utc(client: Client, namespace: str, apiserver_with_crds: ApiServer) -> None:
    lease = Lease(client, namespace, "leader", "me", **HELD)
    with pytest.raises(Retry, match="LeaseNotHeld"):
        lease.check()
    await lease.acquire()
    lease.check()
    first = (await client.get(LEASES, namespace, "leader"))["spec"]
    async with renewing(lease):
        await eventually(lambda: client.writes["update", "Lease"] >= 3, "three renewals")
    spec = (await client.get(LEASES, namespace, "leader"))["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"], spec["acquireTime"]) == ("me", 90, 0, first["acquireTime"])
    assert abs(datetime.fromisoformat(spec["renewTime"]) - datetime.now(UTC)) < timedelta(minutes=1)

    def verbs() -> list[str]:
        events = apiserver_with_crds.audit_events()
        return [e["verb"] for e in events if f"/namespaces/{namespace}/leases" in e["requestURI"] and "modelfleet-test" in e["userAgent"]]

    # an answer may be here before the log tells of it
    await eventually(lambda: verbs().count("get") >= 3, "the last look in the log")
    # one look and one creation to begin with, the two looks of this test, and nothing but PUTs to renew
    assert verbs().count("get") == 3
    assert set(verbs()) == {"get", "create", "update"}


async def test_a_clean_stop_hands_over_at_once_and_a_crash_after_the_duration(client: Client, namespace: str) -> None:
    first, second = (Lease(client, namespace, "leader", name, **HELD) for name in ("first", "second"))
    await first.acquire()
    assert not await second._try_acquire()
    await first.release()
    assert not first.held()
    assert (await client.get(LEASES, namespace, "leader"))["spec"]["holderIdentity"] == ""
    assert await second._try_acquire()
    assert second.held()
    # now `second` crashes: nobody renews; `third` has to see the record stand still for the whole duration
    now = [1000.0]
    third = Lease(client, namespace, "leader", "third", **HELD, clock=lambda: now[0])
    assert not await third._try_acquire()
    now[0] += HELD["duration"]
    assert not await third._try_acquire()
    now[0] += 0.01
    assert await third._try_acquire()
    assert (await client.get(LEASES, namespace, "leader"))["spec"]["leaseTransitions"] == 2


async def test_expiry_is_judged_by_what_we_saw_and_not_by_the_writers_clock(client: Client, namespace: str) -> None:
    now = [1000.0]
    holder = Lease(client, namespace, "leader", "holder", **HELD)
    await holder.acquire()
    record = await client.get(LEASES, namespace, "leader")
    record["spec"]["renewTime"] = "2001-01-01T00:00:00.000000Z"
    await client.replace(LEASES, namespace, "leader", record)
    follower = Lease(client, namespace, "leader", "follower", **HELD, clock=lambda: now[0])
    assert not await follower._try_acquire()
    now[0] += HELD["duration"] - 0.1
    record = await client.get(LEASES, namespace, "leader")
    record["spec"]["renewTime"] = "2001-01-01T00:00:01.000000Z"
    await client.replace(LEASES, namespace, "leader", record)
    assert not await follower._try_acquire()
    now[0] += HELD["duration"] - 0.1
    assert not await follower._try_acquire()
    now[0] += 0.2
    assert await follower._try_acquire()


async def test_lost_when_another_writes_it_and_kept_when_a_person_annotates_it(client: Client, namespace: str) -> None:
    lease = Lease(client, namespace, "leader", "me", **HELD)
    await lease.acquire()
    async with renewing(lease) as task:
        await client.merge_patch(LEASES, namespace, "leader", {"metadata": {"annotations": {"note": "seen"}}})
        before = client.writes["update", "Lease"]
        await eventually(lambda: client.writes["update", "Lease"] >= before + 3, "renewals go on")
        assert lease.held()
        await client.merge_patch(LEASES, namespace, "leader", {"spec": {"holderIdentity": "thief"}})
        await asyncio.wait_for(lease.lost.wait(), 90)
        assert not lease.held()
        await asyncio.wait_for(task, 90)
    assert (await client.get(LEASES, namespace, "leader"))["spec"]["holderIdentity"] == "thief"
    await lease.release()
    assert (await client.get(LEASES, namespace, "leader"))["spec"]["holderIdentity"] == "thief"


async def test_a_paused_api_server_ends_the_old_reign_before_the_new_one_begins(make_apiserver: Callable[..., ApiServer]) -> None:
    server = make_apiserver()
    client, other = await Client.connect("old", server.kubeconfig), await Client.connect("new", server.kubeconfig)
    old, new = Lease(client, "default", "leader", "old", **QUICK), Lease(other, "default", "leader", "new", **QUICK)
    both: list[str] = []

    async def watchdog() -> None:
        while True:
            if old.held() and new.held():
                both.append("both")
            await asyncio.sleep(0.005)

    await old.acquire()
    async with renewing(old):
        follower = asyncio.create_task(new.acquire())
        watcher = asyncio.create_task(watchdog())
        await eventually(lambda: client.writes["update", "Lease"] >= 2 and new._seen is not None, "a steady reign")
        server.pause()
        await asyncio.wait_for(old.lost.wait(), 90)
        assert not old.held()
        assert not new.held()
        server.resume()
        await asyncio.wait_for(follower, 90)
        assert new.held()
        assert not old.held()
        watcher.cancel()
    assert not both
    await client.close()
    await other.close()


async def test_a_swallowed_answer_is_no_loss(apiserver_with_crds: ApiServer, client: Client, namespace: str, tmp_path: Path) -> None:
    """A renewal that arrived but whose answer was lost changes the resourceVersion under us; the next one finds its own name and goes on."""
    async with TcpProxy(apiserver_with_crds.url) as proxy:
        shaky = await Client.connect("test", proxy.kubeconfig(tmp_path, apiserver_with_crds))
        lease = Lease(shaky, namespace, "leader", "me", duration=30, deadline=20, renew=0.5)
        await lease.acquire()
        record = await client.get(LEASES, namespace, "leader")
        record["spec"]["renewTime"] = "2030-01-01T00:00:00.000000Z"
        await client.replace(LEASES, namespace, "leader", record)
        async with renewing(lease):
            proxy.cut()
            before = lease._until
            await eventually(lambda: lease._until > before, "renewed with a new resourceVersion")
            assert lease.held()
            assert not lease.lost.is_set()
        await shaky.close()


async def test_a_leader_stopped_for_longer_than_the_lease_sends_nothing_when_it_wakes(client: Client, namespace: str, apiserver_with_crds: ApiServer) -> None:
    """SIGSTOP in the middle of a storm of writes, another leads, SIGCONT: the audit log shows no write of the old one but those in flight."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-m", "tests.kube.leader", str(apiserver_with_crds.kubeconfig), namespace, "old-leader"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=env)
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 90) == b"leading\n"
        while await written(client, namespace) < 20:
            await asyncio.sleep(0.2)
        process.send_signal(signal.SIGSTOP)
        successor = Lease(client, namespace, "leader", "successor", duration=8.0, deadline=6.0, renew=1.0)
        await asyncio.wait_for(successor.acquire(), 90)
        woken = datetime.now(UTC)
        process.send_signal(signal.SIGCONT)
        assert await asyncio.wait_for(process.wait(), 90) == 1
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    events = [
        e for e in apiserver_with_crds.audit_events() if e["userAgent"].startswith("modelfleet-old-leader") and f"/namespaces/{namespace}/" in e["requestURI"]
    ]
    assert len([e for e in events if e["verb"] == "patch"]) > 10
    after = [e for e in events if e["verb"] != "get" and datetime.fromisoformat(e["requestReceivedTimestamp"]) > woken]
    # four writers, so at most four requests had left the guard when the signal came; renewals of the Lease meet a Conflict
    assert len([e for e in after if e["verb"] == "patch"]) <= 4
    assert all(e["responseStatus"]["code"] >= 400 for e in after if e["verb"] == "update")
    assert (await client.get(LEASES, namespace, "leader"))["spec"]["holderIdentity"] == "successor"
