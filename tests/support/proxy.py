"""Two proxies between a client and the API server, for tests that take the network away.

`TcpProxy` moves bytes and knows nothing of them (TLS passes through): it pauses, swallows, cuts. `ApiProxy` speaks HTTP: the client is given a kubeconfig
whose server is `http://127.0.0.1:<port>`, the proxy forwards with the admin's token, counts by verb and path, and stops at the N-th write.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from tests.support.apiserver import ApiServer

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_HOP = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "authorization", "keep-alive", "te", "upgrade", "content-encoding", "accept-encoding"}
)


def plain_kubeconfig(path: Path, server: str, ca_file: Path | None = None, token: str | None = None) -> Path:
    """A kubeconfig that names one server; without CA and token for a plain HTTP one."""
    cluster = f"server: {server}" + (f", certificate-authority: {ca_file}" if ca_file else "")
    user = f"token: {token}" if token else ""
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: it\n"
        f"clusters: [{{name: it, cluster: {{{cluster}}}}}]\n"
        f"users: [{{name: it, user: {{{user}}}}}]\n"
        "contexts: [{name: it, context: {cluster: it, user: it}}]\n"
    )
    return path


class TcpProxy:
    """Bytes in, bytes out, unless told otherwise. Use as an async context manager."""

    def __init__(self, url: str) -> None:
        """`url` of the server behind it; only host and port are read."""
        parts = urlsplit(url)
        self._scheme, self._host, self._target = parts.scheme, parts.hostname or "127.0.0.1", parts.port or 443
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._swallowing = False
        self.port = 0
        self.connections = 0

    @property
    def url(self) -> str:
        """The server as seen through the proxy."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def kubeconfig(self, folder: Path, server: ApiServer) -> Path:
        """The admin's kubeconfig through this proxy."""
        return plain_kubeconfig(folder / f"tcp-{self.port}.kubeconfig", self.url, server.ca_file, server.token)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refuse()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def pause(self) -> None:
        """Hold every byte, both ways, until `resume`; none is lost."""
        self._flowing.clear()

    def resume(self) -> None:
        """Let bytes flow again; what was swallowed stays lost."""
        self._swallowing = False
        self._flowing.set()

    def blackhole(self) -> None:
        """Connections stay open and bytes vanish, both ways, until `resume`."""
        self._swallowing = True
        self._flowing.set()

    def cut(self) -> None:
        """Reset every open connection; new ones are accepted."""
        for writer in list(self._writers):
            writer.transport.abort()

    def refuse(self) -> None:
        """Cut, and refuse new connections until `listen`."""
        if self._server is not None:
            self._server.close()
        self.cut()

    async def listen(self) -> None:
        """Accept again on the same port."""
        await self.__aenter__()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._flowing.wait()
            far_reader, far_writer = await asyncio.open_connection(self._host, self._target)
            self._writers |= {writer, far_writer}
            try:
                pumps = {asyncio.create_task(self._pump(reader, far_writer)), asyncio.create_task(self._pump(far_reader, writer))}
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
            finally:
                self._writers -= {writer, far_writer}
                far_writer.transport.abort()
        except OSError:
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                if not self._swallowing:
                    writer.write(data)
                    await writer.drain()


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it arrived. `number` counts from 1; `write` counts the writes from 1 (0: a read)."""

    number: int
    write: int
    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    agent: str = ""

    @property
    def verb(self) -> str:
        """The verb as RBAC and audit name it, `apply` told from `patch`."""
        if self.method == "GET":
            return "watch" if self.query.get("watch") in ("1", "true") else "get"
        if self.method == "PATCH":
            return "apply" if "force" in self.query else "patch"
        return {"POST": "create", "PUT": "update", "DELETE": "delete"}.get(self.method, self.method.lower())


Callback = Callable[[Seen], Awaitable[None] | None]


class Hold:
    """Requests that match wait: `arrived` is set by the first, `release()` lets all go."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self._released = asyncio.Event()

    def release(self) -> None:
        """Let the held, and all later ones, pass."""
        self._released.set()

    async def _wait(self) -> None:
        self.arrived.set()
        await self._released.wait()


class ApiProxy:
    """An HTTP proxy in front of the API server. Use as an async context manager."""

    def __init__(self, server: ApiServer) -> None:
        self._upstream = server
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._at: dict[tuple[int, str], Callback] = {}
        self._holds: list[tuple[Callable[[Seen], bool], Hold, str]] = []
        self._failures: list[tuple[Callable[[Seen], bool], int, list[int]]] = []
        self.port = 0
        self.seen: list[Seen] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        """Requests by (verb, path)."""
        self.writes = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kubeconfig(self, folder: Path) -> Path:
        """A kubeconfig through this proxy; the proxy adds the token."""
        return plain_kubeconfig(folder / f"http-{self.port}.kubeconfig", self.url)

    def written(self) -> list[Seen]:
        """The writes so far."""
        return [request for request in self.seen if request.write]

    def at_write(self, number: int, callback: Callback, when: Literal["before", "after"] = "before") -> None:
        """Call at the N-th write (from 1, since the last `reset`): before it is forwarded, or after it was answered but before the client hears."""
        self._at[number, when] = callback

    def hold(self, matches: Callable[[Seen], bool], when: Literal["before", "after"] = "before") -> Hold:
        """Hold matching requests before they are forwarded, or their answers after."""
        hold = Hold()
        self._holds.append((matches, hold, when))
        return hold

    def fail(self, matches: Callable[[Seen], bool], status: int, times: int = 1) -> None:
        """Answer the next `times` matching requests with `status` (0: cut the connection) instead of forwarding them."""
        self._failures.append((matches, status, [times]))

    def reset(self) -> None:
        """Forget counts, callbacks, holds and failures."""
        self.seen.clear()
        self.counts.clear()
        self._at.clear()
        for _, hold, _ in self._holds:
            hold.release()
        self._holds.clear()
        self._failures.clear()
        self.writes = 0

    async def __aenter__(self) -> Self:
        context = ssl.create_default_context(cafile=str(self._upstream.ca_file))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=0), auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), read_bufsize=2**21
        )
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.reset()
        assert self._runner is not None
        assert self._session is not None
        await self._session.close()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        seen = await self._see(request)
        for matches, status, left in self._failures:
            if left[0] > 0 and matches(seen):
                left[0] -= 1
                return self._refuse(request, status)
        await self._stop_at(seen, "before")
        assert self._session is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        headers["Authorization"] = f"Bearer {self._upstream.token}"
        headers["Accept-Encoding"] = "identity"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        url = self._upstream.url + request.raw_path
        from yarl import URL

        async with self._session.request(request.method, URL(url, encoded=True), data=seen.body or None, headers=headers, timeout=timeout) as answer:
            if seen.verb != "watch":
                body = await answer.read()
                await self._stop_at(seen, "after")
                return web.Response(status=answer.status, body=body, headers=_pass(answer))
            response = web.StreamResponse(status=answer.status, headers=_pass(answer))
            await response.prepare(request)
            async for chunk in _chunks(answer):
                await response.write(chunk)
            return response

    async def _see(self, request: web.Request) -> Seen:
        body = await request.read()
        self.writes += request.method in WRITES
        seen = Seen(
            number=len(self.seen) + 1,
            write=self.writes if request.method in WRITES else 0,
            method=request.method,
            path=request.path,
            query=dict(request.query),
            body=body,
            agent=request.headers.get("User-Agent", ""),
        )
        self.seen.append(seen)
        self.counts[seen.verb, seen.path] += 1
        return seen

    async def _stop_at(self, seen: Seen, when: str) -> None:
        callback = self._at.get((seen.write, when)) if seen.write else None
        if callback is not None and (awaitable := callback(seen)) is not None:
            await awaitable
        for matches, hold, at in list(self._holds):
            if at == when and matches(seen):
                await hold._wait()

    def _refuse(self, request: web.Request, status: int) -> web.StreamResponse:
        if not status:
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=500)
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "reason": "Injected", "message": "refused by the test"}
        return web.json_response(body, status=status)


def _pass(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.lower() in ("content-type", "retry-after", "warning")}


async def _chunks(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    with contextlib.suppress(aiohttp.ClientError):
        async for chunk in answer.content.iter_any():
            yield chunk
