"""A client and a namespace of its own for each test of this room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from tests.support.apiserver import ApiServer

from modelfleet.kube.client import Client
from modelfleet.kube.resources import AGENT_TEAMS, DEPLOYMENTS, MODEL_POOLS, NAMESPACES, ROUTING_POLICIES, SERVICES


@pytest.fixture
async def client(apiserver_with_crds: ApiServer) -> AsyncIterator[Client]:
    made = await Client.connect("test", apiserver_with_crds.kubeconfig)
    yield made
    await made.close()


@pytest.fixture
async def namespace(client: Client) -> AsyncIterator[str]:
    name = f"kube-{uuid4().hex[:8]}"
    await client.create(NAMESPACES, None, {"metadata": {"name": name}})
    yield name
    # no controller empties namespaces here, and the next test looks at all of them
    client.before_write = lambda: None
    for resource in (MODEL_POOLS, ROUTING_POLICIES, AGENT_TEAMS, DEPLOYMENTS, SERVICES):
        for item in (await client.list(resource, name))[0]:
            await client.delete(resource, name, item["metadata"]["name"])
