"""Connections to the gateway: lent again when a call is over, replaced when the other side left, and every failure one that the client's callers know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from modelfleet.teamserver.transport import LendingTransport

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Server:
    """Answers every request with ``reply`` and counts connections; ``leaves``: after one answer it closes, as a server may at any time."""

    def __init__(self, reply: bytes = OK, *, leaves: bool = False) -> None:
        self.reply, self.leaves = reply, leaves
        self.connections = 0
        self.asked = 0
        self.url = ""
        self.left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.asked += 1
                writer.write(self.reply)
                await writer.drain()
                if self.leaves:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()
        self.left.set()


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    server.url = f"http://{host}:{port}/"
    async with httpx.AsyncClient(transport=LendingTransport(kept=2), timeout=httpx.Timeout(None, connect=5)) as http:
        yield http
    listener.close()


async def test_a_connection_that_is_back_is_lent_again() -> None:
    server = Server()
    async with serving(server) as http:
        assert [(await http.get(server.url)).text for _ in range(3)] == ["ok"] * 3
    assert (server.connections, server.asked) == (1, 3)


async def test_calls_that_are_out_together_have_one_each_and_only_so_many_are_kept() -> None:
    server = Server()
    async with serving(server) as http:
        for _ in range(2):
            await asyncio.gather(*(http.get(server.url) for _ in range(5)))
    assert server.connections == 5 + 3


async def test_a_connection_that_the_server_left_is_not_lent_again() -> None:
    server = Server(leaves=True)
    async with serving(server) as http:
        for _ in range(3):
            server.left.clear()
            assert (await http.get(server.url)).text == "ok"
            await server.left.wait()
    assert server.connections == 3


async def test_a_reply_that_is_given_up_takes_its_connection_along() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nok")
    async with serving(server) as http:
        for _ in range(2):
            async with http.stream("GET", server.url) as reply:
                assert await anext(aiter(reply.aiter_raw())) == b"ok"
            await server.left.wait()
    assert server.connections == 2


@pytest.mark.parametrize("reply", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nok"], ids=["none", "garbage", "cut"])
async def test_a_reply_that_is_none_is_a_transport_error(reply: bytes) -> None:
    server = Server(reply, leaves=True)
    async with serving(server) as http:
        with pytest.raises(httpx.TransportError):
            await http.get(server.url)


@pytest.mark.parametrize("scheme", ["https", "ftp"])
async def test_a_gateway_that_cannot_be_reached_so_is_a_transport_error_and_nothing_is_sent(scheme: str) -> None:
    server, sent = Server(), []

    async def trace(name: str, _info: object) -> None:
        sent.append(name)

    async with serving(server) as http:
        with pytest.raises(httpx.TransportError):
            await http.get(server.url.replace("http", scheme), extensions={"trace": trace})
    assert not sent
    assert server.asked == 0


async def test_nobody_there_is_a_transport_error() -> None:
    server = Server()
    async with serving(server):
        pass
    async with httpx.AsyncClient(transport=LendingTransport(), timeout=5) as http:
        with pytest.raises(httpx.TransportError):
            await http.get(server.url)
