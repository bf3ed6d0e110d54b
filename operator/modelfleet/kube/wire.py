"""One connection pool to one API server: bytes out and in, typed errors, and how often to try.

Borrowed from ``kubernetes.aio``: configuration, token refresh, TLS and the session. Decided here: timeouts, repetition of what is safe to repeat, and that
a write's guard is asked at the last moment, when its connection is at hand. Which requests exist is not known here.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config
from yaml import YAMLError

from modelfleet.errors import ApiError, Conflict, Forbidden, Gone, Invalid, NotFound, Stalled, Unavailable

__all__ = ["JSON", "Call", "Credentials", "Object", "Wire", "answered_error", "load_configuration", "nothing"]

Object = dict[str, Any]

JSON: Final = "application/json"
_ATTEMPTS: Final = 3
_BACKOFF: Final = 0.25
_LONGEST_RETRY_AFTER: Final = 5.0
_ERRORS: Final[Mapping[int, type[ApiError]]] = {
    400: Invalid,
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    408: Unavailable,
    409: Conflict,
    410: Gone,
    413: Invalid,
    422: Invalid,
    429: Unavailable,
}

_before_send: ContextVar[Callable[[], None] | None] = ContextVar("before_send", default=None)


def nothing() -> None:
    """Does nothing: the guard and the listener of who has none."""


class _GuardedRequest(aiohttp.ClientRequest):
    """Asks the guard when the connection is ready, not before: a connection may take longer to come than a Lease lasts."""

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        guard = _before_send.get()
        if guard is not None:
            try:
                guard()
            except BaseException:
                conn.close()
                raise
        return await super().send(conn)


class _Throttled(Unavailable):
    """The server named the seconds after which to try again."""

    def __init__(self, status: int, reason: str, message: str, after: float) -> None:
        super().__init__(status, reason, message)
        self.after = after


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where and as whom we talk, for ``kopf.on.login``. Paths are files; absent parts are None. The token never shows in a repr."""

    server: str
    ca_path: str | None = None
    insecure: bool = False
    certificate_path: str | None = None
    private_key_path: str | None = None
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """One request. ``repeatable``: doing it twice is as good as once; ``timeout`` in seconds, None for the pool's."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = JSON
    accept: str = JSON
    repeatable: bool = False
    timeout: float | None = None


async def load_configuration(kubeconfig: Path | str | None, context: str | None, pool: int) -> Configuration:
    """Credentials from ``kubeconfig``, else from the pod's service account, else from the usual kubeconfig. Raises Stalled when there are none."""
    configuration = Configuration()
    configuration.connection_pool_maxsize = pool
    try:
        if kubeconfig is None and context is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            file = str(kubeconfig) if kubeconfig else None
            await load_kube_config(config_file=file, context=context, client_configuration=configuration, persist_config=False)  # type: ignore[no-untyped-call]
    except (ConfigException, OSError, TypeError, ValueError, YAMLError) as error:
        raise _no_credentials(kubeconfig, error) from error
    return configuration


def _no_credentials(kubeconfig: Path | str | None, error: Exception) -> Stalled:
    where = str(kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config")
    cure = "name one with --kubeconfig or KUBECONFIG"
    if not any(Path(part).expanduser().exists() for part in where.split(os.pathsep)):
        return Stalled("NoCredentials", f"there is no kubeconfig at {where}: {cure}")
    return Stalled("NoCredentials", f"kubeconfig {where} cannot be used ({error}): {cure}")


class Wire:
    """See the module. Raises an ``ApiError`` of ``errors.py`` and nothing else of the network's."""

    def __init__(self, configuration: Configuration, process: str, timeout: float) -> None:
        """``process`` names us in the User-Agent; ``timeout`` in seconds for whole requests and for opening streams."""
        self._configuration = configuration
        self._timeout = timeout
        self._agent = f"modelfleet-{process}/{version('modelfleet')}"
        configuration.client_session_kwargs = {"request_class": _GuardedRequest, "cookie_jar": aiohttp.DummyCookieJar(), "trust_env": False}
        self._rest = RESTClientObject(configuration)
        self._session = self._rest._create_pool_manager()  # noqa: SLF001 - documented there as the point to override
        self._host = str(configuration.host).rstrip("/")

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()
        await self._rest.close()

    async def credentials(self) -> Credentials:
        """What the loaders found, the token refreshed."""
        token = await self._bearer()
        c = self._configuration
        return Credentials(
            server=self._host,
            ca_path=c.ssl_ca_cert,
            insecure=not c.verify_ssl,
            certificate_path=c.cert_file,
            private_key_path=c.key_file,
            token=token.split(None, 1)[1].strip() if token else None,
        )

    async def send(self, call: Call, guard: Callable[[], None] | None = None) -> Object:
        """The answer's JSON. ``guard`` is called before each attempt is sent; what it raises is raised."""
        attempts = _ATTEMPTS if call.repeatable else 1
        for attempt in range(1, attempts):
            try:
                return await self._send_once(call, guard)
            except _Throttled as error:
                pause = error.after
            except Unavailable:
                pause = _BACKOFF * 2**attempt * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
            await asyncio.sleep(pause)
        return await self._send_once(call, guard)

    async def _send_once(self, call: Call, guard: Callable[[], None] | None) -> Object:
        token = _before_send.set(guard)
        limits = aiohttp.ClientTimeout(total=call.timeout or self._timeout)
        try:
            async with self._session.request(**await self._arguments(call, limits)) as response:
                content = await response.read()
                if response.status >= 400:
                    raise answered_error(call, response.status, content, response.headers.get("Retry-After"))
                answer: Object = orjson.loads(content) if content else {}
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _no_answer(call, error) from error
        except orjson.JSONDecodeError as error:
            raise Unavailable(0, "NotJson", f"{call.method} {call.path}: the answer is not JSON; is this an API server?") from error
        finally:
            _before_send.reset(token)

    async def stream(self, call: Call, silence: float, on_open: Callable[[], None]) -> AsyncGenerator[bytes]:
        """Lines as they come, until the server ends; Unavailable after ``silence`` seconds without a byte. ``on_open`` hears that it was accepted."""
        limits = aiohttp.ClientTimeout(total=None, connect=self._timeout, sock_connect=self._timeout, sock_read=silence)
        rest = b""
        try:
            async with self._session.request(**await self._arguments(call, limits)) as response:
                if response.status >= 400:
                    raise answered_error(call, response.status, await response.read())
                on_open()
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        if line:
                            yield line
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _no_answer(call, error) from error

    async def _arguments(self, call: Call, limits: aiohttp.ClientTimeout) -> dict[str, Any]:
        headers = {"Accept": call.accept, "User-Agent": self._agent}
        if call.body is not None:
            headers["Content-Type"] = call.content_type
        if bearer := await self._bearer():
            headers["Authorization"] = bearer
        arguments: dict[str, Any] = {"method": call.method, "url": self._host + call.path, "params": call.query, "data": call.body}
        arguments |= {"headers": headers, "timeout": limits}
        if self._configuration.tls_server_name:
            arguments["server_hostname"] = self._configuration.tls_server_name
        if self._rest.proxy:
            arguments["proxy"] = self._rest.proxy
        return arguments

    async def _bearer(self) -> str | None:
        # asked before each request, so that the loaders' refresh hook runs
        return await self._configuration.get_api_key_with_prefix("BearerToken")


def answered_error(call: Call, status: int, content: bytes, retry_after: str | None = None) -> ApiError:
    """The error that the API server answered with; ``content`` is its Status object."""
    try:
        told = orjson.loads(content)
    except orjson.JSONDecodeError:
        told = None
    told = told if isinstance(told, dict) else {}
    reason = str(told.get("reason") or f"Http{status}")
    message = f"{call.method} {call.path}: {told.get('message') or content[:300].decode('utf-8', 'replace').strip() or 'no reason given'}"
    kind = _ERRORS.get(status, Unavailable if status >= 500 else ApiError)
    if kind is Unavailable and retry_after and retry_after.isdigit():
        return _Throttled(status, reason, message, min(float(retry_after), _LONGEST_RETRY_AFTER))
    return kind(status, reason, message)


def _no_answer(call: Call, error: BaseException) -> Unavailable:
    reason = "Timeout" if isinstance(error, TimeoutError) else "ConnectionFailed"
    return Unavailable(0, reason, f"{call.method} {call.path}: {str(error) or type(error).__name__}")
