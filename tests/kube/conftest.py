"""A client and a namespace of its own for each test of this room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from modelfleet.kube.client import Client
from modelfleet.kube.resources import NAMESPACES
from tests.support.apiserver import ApiServer


@pytest.fixture
async def client(apiserver_with_crds: ApiServer) -> AsyncIterator[Client]:
    made = await Client.connect("test", apiserver_with_crds.kubeconfig)
    yield made
    await made.close()


@pytest.fixture
async def namespace(client: Client) -> str:
    name = f"kube-{uuid4().hex[:8]}"
    await client.create(NAMESPACES, None, {"metadata": {"name": name}})
    return name
