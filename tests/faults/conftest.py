"""One API server for this room, with the controllers that follow our objects: Deployments become pods, and what has lost its owner is collected."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from e2e.lab.binaries import binary, ensure_binaries
from e2e.lab.processes import plain_env
from tests.faults.scene import Scene
from tests.support.apiserver import ApiServer

from modelfleet.kube.client import Client

CONTROLLERS = ("garbage-collector-controller", "deployment-controller", "replicaset-controller")
"""Not those that watch nodes: ours have no kubelet, and would be called lost."""


@pytest.fixture(scope="session")
def server() -> Iterator[ApiServer]:
    made = ApiServer()
    made.apply_crds()
    ensure_binaries(["kube-controller-manager"])
    plane, name = made._plane, "kube-controller-manager"
    manager = plane.process(name)
    flags = [*plane._component_flags(name), f"--controllers={','.join(CONTROLLERS)}"]
    manager.start(binary(name), *flags, die_with_parent=True, env=plain_env())
    yield made
    manager.stop(grace=0.0)
    made.close()


@pytest.fixture
async def client(server: ApiServer) -> AsyncIterator[Client]:
    made = await Client.connect("test", server.kubeconfig)
    yield made
    await made.close()


@pytest.fixture
async def scene(client: Client) -> Scene:
    return await Scene.empty(client)
