"""Without its kinds the operator waits and says for what; when one is taken away it ends, and waits again."""

from __future__ import annotations

import asyncio

from tests.operator.running import OperatorProcess, eventually, make_fleet

from modelfleet.kube.client import Client


async def test_kinds_that_come_late_and_go_again(make_apiserver, tmp_path):
    server = make_apiserver()
    operator = OperatorProcess(tmp_path, server.kubeconfig, "default", PACE_CRDS="0.5")
    try:

        async def waits() -> bool:
            status, text = await operator.ask("/readyz")
            return status == 503 and "modelpools.modelfleet.dev" in text and "modelfleet-crds" in text

        await eventually(waits, operator.story)
        assert (await operator.ask("/healthz"))[0] == 200

        await asyncio.to_thread(server.apply_crds)
        await operator.leads()
        client = await Client.connect("test", server.kubeconfig)
        fleet = await make_fleet(client)
        await fleet.a_fleet()
        await eventually(lambda: fleet.settled("small"), operator.story)
        await client.close()

        await asyncio.to_thread(server.kubectl, "delete", "crd", "routingpolicies.modelfleet.dev", check=True)
        assert await operator.ends() == 1, operator.story()
    finally:
        operator.close()

    again = OperatorProcess(tmp_path, server.kubeconfig, "default")
    try:

        async def names_it() -> bool:
            status, text = await again.ask("/readyz")
            return status == 503 and "routingpolicies.modelfleet.dev" in text and "modelpools" not in text

        await eventually(names_it, again.story)
    finally:
        again.close()
