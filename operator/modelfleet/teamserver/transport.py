"""Connections to the gateway: one for each call that is out, lent again when it is back.

The client's own pool looks at all its connections for every request, which at hundreds of calls in flight costs more than the calls themselves; here each
connection is a pool of one, and the idle ones lie on a stack. Nothing else is decided here: no retries, no proxies, no redirects.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import httpx

__all__ = ["LendingTransport", "gateway_client"]

_KEPT: Final = 256
_CONNECT: Final = 5.0


def gateway_client() -> httpx.AsyncClient:
    """A client for calls through the gateway. Only connecting has a time-out (seconds); everything after it is its caller's to limit."""
    return httpx.AsyncClient(transport=LendingTransport(), timeout=httpx.Timeout(None, connect=_CONNECT))


class LendingTransport(httpx.AsyncBaseTransport):
    """Lends connections; keeps up to ``kept`` idle ones."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._ssl = httpx.create_ssl_context()
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send over an idle connection, or a new one."""
        connection = self._idle.pop() if self._idle else self._connection()
        try:
            response = await connection.handle_async_request(request)
        except BaseException:
            await self._back(connection)
            raise
        stream = response.stream
        if not isinstance(stream, httpx.AsyncByteStream):
            raise TypeError("a connection answered without a stream")
        response.stream = _Lent(stream, self, connection)
        return response

    async def aclose(self) -> None:
        """Close what is idle, and what comes back later."""
        self._closed = True
        while self._idle:
            await self._idle.pop().aclose()

    async def take_back(self, connection: httpx.AsyncHTTPTransport) -> None:
        """A call is over."""
        await self._back(connection)

    def _connection(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(verify=self._ssl, trust_env=False, limits=httpx.Limits(max_connections=1, max_keepalive_connections=1))

    async def _back(self, connection: httpx.AsyncHTTPTransport) -> None:
        if self._closed or len(self._idle) >= self._kept:
            await connection.aclose()
        else:
            self._idle.append(connection)


class _Lent(httpx.AsyncByteStream):
    """A reply's body; its connection goes back when it is closed."""

    def __init__(self, stream: httpx.AsyncByteStream, lender: LendingTransport, connection: httpx.AsyncHTTPTransport) -> None:
        self._stream = stream
        self._lender = lender
        self._connection: httpx.AsyncHTTPTransport | None = connection

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        try:
            await self._stream.aclose()
        finally:
            if connection is not None:
                await self._lender.take_back(connection)
