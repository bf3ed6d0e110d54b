"""One API server for this room, since an operator looks at every namespace; an empty fleet and a proxy for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.operator.running import Fleet, OperatorProcess, make_fleet
from tests.support.apiserver import ApiServer
from tests.support.proxy import ApiProxy

from modelfleet.kube.client import Client


@pytest.fixture(scope="session")
def server() -> Iterator[ApiServer]:
    made = ApiServer()
    made.apply_crds()
    yield made
    made.close()


@pytest.fixture
async def fleet(server: ApiServer) -> AsyncIterator[Fleet]:
    client = await Client.connect("test", server.kubeconfig)
    yield await make_fleet(client)
    await client.close()


@pytest.fixture
async def proxy(server: ApiServer) -> AsyncIterator[ApiProxy]:
    async with ApiProxy(server) as made:
        yield made


@pytest.fixture
def start(tmp_path: Path, fleet: Fleet) -> Iterator[Callable[..., OperatorProcess]]:
    """Start an operator by a kubeconfig; settings without their prefix."""
    started: list[OperatorProcess] = []

    def begin(kubeconfig: Path, **settings: str) -> OperatorProcess:
        started.append(OperatorProcess(tmp_path, kubeconfig, fleet.namespace, **settings))
        return started[-1]

    yield begin
    for process in started:
        process.close()
