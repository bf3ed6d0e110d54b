"""A leader in a process of its own, for tests that stop it with signals: holds the Lease and applies a counter as fast as it may.

Usage: python -m tests.kube.leader KUBECONFIG NAMESPACE IDENTITY. Exits 1 when the Lease is lost.
"""

from __future__ import annotations

import asyncio
import os
import sys

from modelfleet.errors import ApiError, Retry
from modelfleet.kube.client import Client
from modelfleet.kube.lease import Lease
from modelfleet.kube.resources import Resource

MAPS = Resource("", "v1", "configmaps", "ConfigMap")


async def main(kubeconfig: str, namespace: str, identity: str) -> None:
    client = await Client.connect(identity, kubeconfig)
    lease = Lease(client, namespace, "leader", identity, duration=8.0, deadline=6.0, renew=1.0)
    client.before_write = lease.check
    await lease.acquire()
    print("leading", flush=True)
    renewing = asyncio.create_task(lease.run())
    writing = [asyncio.create_task(write(client, namespace, i)) for i in range(4)]
    await lease.lost.wait()
    # a process that has lost its Lease leaves at once; this one lingers, to show that the guard alone keeps it silent
    await asyncio.sleep(1.0)
    for task in (*writing, renewing):
        task.cancel()
    os._exit(1)


async def write(client: Client, namespace: str, number: int) -> None:
    count = 0
    while True:
        count += 1
        try:
            await client.apply(MAPS, namespace, f"written-{number}", {"data": {"count": str(count)}}, "leader")
        except (ApiError, Retry):
            await asyncio.sleep(0.001)


asyncio.run(main(*sys.argv[1:]))
