"""A process's port: said at once when it is in use, served until told to stop."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from modelfleet.errors import Stalled
from modelfleet.serving import Serving


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
async def test_it_serves_until_it_is_told(host: str) -> None:
    async def hello(_: object) -> PlainTextResponse:
        return PlainTextResponse("hello")

    port = free_port()
    server = Serving(Starlette(routes=[Route("/", hello)]), host, port, "SOME_PORT")
    serving = asyncio.create_task(server.run_until_told())
    async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(20):
        assert (await http.get(f"http://127.0.0.1:{port}/")).text == "hello"
        server.should_exit = True
        await serving


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_a_port_in_use_names_the_setting_that_chooses_another(host: str) -> None:
    with socket.create_server((host, 0)) as taken, pytest.raises(Stalled, match="SOME_PORT") as stalled:
        Serving(Starlette(), host, taken.getsockname()[1], "SOME_PORT")
    assert stalled.value.reason == "PortInUse"
