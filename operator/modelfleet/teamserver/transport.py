"""Connections to the gateway: one for each call that is out, lent again when it is back.

The client's own pool looks at all its connections for every request, which at hundreds of calls in flight costs more than the calls themselves; here the idle
ones lie on a stack, and bytes come from asyncio's own streams. What HTTP is stays httpcore's. Nothing else is decided here: no retries, proxies or redirects.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import AsyncIterator
from typing import Any, Final

import httpcore
import httpx

__all__ = ["LendingTransport", "gateway_client"]

_KEPT: Final = 256
_KEPT_FOR: Final = 5.0
_CONNECT: Final = 5.0
_NEXT_ADDRESS: Final = 0.25
_SCHEMES: Final = ("http", "https")
_FAULTS: Final = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)


def gateway_client() -> httpx.AsyncClient:
    """A client for calls through the gateway. Only connecting has a time-out (seconds); everything after it is its caller's to limit."""
    return httpx.AsyncClient(transport=LendingTransport(), timeout=httpx.Timeout(None, connect=_CONNECT))


class LendingTransport(httpx.AsyncBaseTransport):
    """Lends connections; keeps up to ``kept`` idle ones, each for five seconds."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._idle: list[httpcore.AsyncHTTP11Connection] = []
        self._ssl = httpx.create_ssl_context()
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send over an idle connection, or a new one. Raises httpx.TransportError."""
        if request.url.scheme not in _SCHEMES:
            raise httpx.UnsupportedProtocol(f"the gateway is asked by http or https, not by {request.url.scheme or 'nothing'}", request=request)
        url = httpcore.URL(scheme=request.url.raw_scheme, host=request.url.raw_host, port=request.url.port, target=request.url.raw_path)
        wish = httpcore.Request(request.method, url, headers=request.headers.raw, content=request.stream, extensions=request.extensions)
        try:
            connection = await self._take(url.origin) or await self._connect(url.origin, request.extensions.get("timeout", {}).get("connect"))
            try:
                reply = await connection.handle_async_request(wish)
            except BaseException:
                await self.take_back(connection)
                raise
        except _FAULTS as error:
            raise httpx.TransportError(str(error), request=request) from error
        return httpx.Response(reply.status, headers=reply.headers, stream=_Lent(reply, self, connection), extensions=reply.extensions)

    async def aclose(self) -> None:
        """Close what is idle, and what comes back later."""
        self._closed = True
        while self._idle:
            await self._idle.pop().aclose()

    async def take_back(self, connection: httpcore.AsyncHTTP11Connection) -> None:
        """A call is over. A connection that cannot be used again is closed."""
        if self._closed or not connection.is_idle() or len(self._idle) >= self._kept:
            await connection.aclose()
        else:
            self._idle.append(connection)

    async def _take(self, origin: httpcore.Origin) -> httpcore.AsyncHTTP11Connection | None:
        """The idle connection that came back last, if it is still open."""
        while self._idle:
            connection = self._idle.pop()
            if connection.can_handle_request(origin) and not connection.has_expired():
                return connection
            await connection.aclose()
        return None

    async def _connect(self, origin: httpcore.Origin, seconds: float | None) -> httpcore.AsyncHTTP11Connection:
        host, port = origin.host.decode("ascii"), origin.port
        tls = self._ssl if origin.scheme == b"https" else None
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_connection(host, port, ssl=tls, happy_eyeballs_delay=_NEXT_ADDRESS)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"no connection to {host} port {port} within {seconds} s") from error
        except (OSError, ssl.SSLError) as error:
            raise httpcore.ConnectError(str(error)) from error
        return httpcore.AsyncHTTP11Connection(origin, _Bytes(reader, writer), keepalive_expiry=_KEPT_FOR)


class _Bytes(httpcore.AsyncNetworkStream):
    """One connection's bytes, as httpcore wants them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's signature
        try:
            if timeout is None:
                return await self._reader.read(max_bytes)
            async with asyncio.timeout(timeout):
                return await self._reader.read(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's signature
        if not buffer:
            return
        try:
            self._writer.write(buffer)
            async with asyncio.timeout(timeout):
                await self._writer.drain()
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    async def aclose(self) -> None:
        # at once: what was not sent of a call that is given up need not be sent
        self._writer.transport.abort()

    def get_extra_info(self, info: str) -> Any:
        return self._is_readable() if info == "is_readable" else None

    def _is_readable(self) -> bool:
        """Whether something came, or the other side has left; the kernel may know before the loop does."""
        transport = self._writer.transport
        if self._reader.at_eof() or transport.is_closing():
            return True
        look = select.poll()
        look.register(transport.get_extra_info("socket"), select.POLLIN)
        return bool(look.poll(0))


class _Lent(httpx.AsyncByteStream):
    """A reply's body; its connection goes back when it is closed."""

    def __init__(self, reply: httpcore.Response, lender: LendingTransport, connection: httpcore.AsyncHTTP11Connection) -> None:
        self._reply = reply
        self._lender = lender
        self._connection: httpcore.AsyncHTTP11Connection | None = connection

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._reply.aiter_stream():
                yield part
        except _FAULTS as error:
            raise httpx.TransportError(str(error)) from error

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        try:
            await self._reply.aclose()
        finally:
            if connection is not None:
                await self._lender.take_back(connection)
