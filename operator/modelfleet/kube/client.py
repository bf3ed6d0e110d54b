"""Requests to the API server: JSON bytes out and in, typed errors, one connection pool.

Borrowed from ``kubernetes.aio``: configuration, token refresh, TLS and the session. Decided here: timeouts, which requests are safe to repeat
(reads, applies, deletions bound to a uid), and that a write asks ``before_write`` at the last moment, when its connection is at hand.
Not decided here: what to read or write.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, cast

import aiohttp
import orjson
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from modelfleet.errors import ApiError, Conflict, Forbidden, Gone, Invalid, NotFound, Stalled, Unavailable

from .resources import Resource, object_key

__all__ = ["Client", "Credentials", "Object"]

Object = dict[str, Any]
Objects = list[Object]
Listed = tuple[list[Object], str]
Propagation = Literal["Background", "Foreground", "Orphan"]

_JSON: Final = "application/json"
_APPLY: Final = "application/apply-patch+yaml"
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_ATTEMPTS: Final = 3
_BACKOFF: Final = 0.25
_LONGEST_RETRY_AFTER: Final = 5.0
_ERRORS: Final[Mapping[int, type[ApiError]]] = {
    400: Invalid, 401: Forbidden, 403: Forbidden, 404: NotFound, 408: Unavailable, 409: Conflict, 410: Gone, 413: Invalid, 422: Invalid, 429: Unavailable,
}  # fmt: skip

_before_send: ContextVar[Callable[[], None] | None] = ContextVar("before_send", default=None)


class _GuardedRequest(aiohttp.ClientRequest):
    """Asks the write guard when the connection is ready, not before: a connection may take longer to come than a Lease lasts."""

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        guard = _before_send.get()
        if guard is not None:
            try:
                guard()
            except BaseException:
                conn.close()
                raise
        return await super().send(conn)


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
class _Call:
    """One request, and what may be done about its failure."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = _JSON
    accept: str = _JSON
    repeatable: bool = False
    guarded: bool = False
    timeout: float | None = None


def _nothing() -> None:
    return None


class Client:
    """One API server, one identity. Every method raises an ``ApiError`` of ``errors.py`` and nothing else of the network's."""

    def __init__(
        self,
        configuration: Configuration,
        process: str,
        *,
        timeout: float = 30.0,
        before_write: Callable[[], None] = _nothing,
        on_write: Callable[[str, str], None] | None = None,
    ) -> None:
        """``timeout`` in seconds for every request but watches. ``before_write`` raises when writing is not allowed; ``on_write`` hears (verb, kind)."""
        self.before_write = before_write
        self.writes: Counter[tuple[str, str]] = Counter()
        """Writes asked for, by (verb, kind); repetitions count."""
        self._on_write = on_write
        self._configuration = configuration
        self._timeout = timeout
        self._agent = f"modelfleet-{process}/{version('modelfleet')}"
        configuration.client_session_kwargs = {"request_class": _GuardedRequest, "cookie_jar": aiohttp.DummyCookieJar(), "trust_env": False}
        self._rest = RESTClientObject(configuration)
        self._session = self._rest._create_pool_manager()  # noqa: SLF001 - documented there as the point to override
        self._host = str(configuration.host).rstrip("/")

    @classmethod
    async def connect(
        cls, process: str, kubeconfig: Path | str | None = None, *, context: str | None = None, request_timeout: float = 30.0, pool: int = 100
    ) -> Client:
        """Credentials from ``kubeconfig``, else from the pod's service account, else from the usual kubeconfig. Raises Stalled when there are none."""
        configuration = Configuration()
        configuration.connection_pool_maxsize = pool
        try:
            if kubeconfig is None and context is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
                load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            else:
                await load_kube_config(  # type: ignore[no-untyped-call]
                    config_file=str(kubeconfig) if kubeconfig else None, context=context, client_configuration=configuration, persist_config=False
                )
        except (ConfigException, OSError) as error:
            raise Stalled("NoCredentials", f"cannot read credentials for the API server ({error}); set KUBECONFIG or run inside a pod") from error
        return cls(configuration, process, timeout=request_timeout)

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

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()
        await self._rest.close()

    # Reads

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        limit: int = 500,
        *,
        metadata_only: bool = False,
    ) -> Listed:
        """All objects and the resourceVersion to watch from, in chunks of ``limit``; begins again, whole, if the chunks expire on the way."""
        query = _selectors(label_selector, field_selector)
        try:
            return await self._list(resource, namespace, query | {"limit": str(limit)}, metadata_only)
        except Gone:
            return await self._list(resource, namespace, query, metadata_only)

    async def _list(self, resource: Resource, namespace: str | None, query: dict[str, str], metadata_only: bool) -> Listed:
        items: Objects = []
        while True:
            call = _Call("GET", resource.path(namespace), query, accept=_METADATA_ONLY if metadata_only else _JSON, repeatable=True)
            page = await self._send(call)
            items += page.get("items") or []
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                break
            query = query | {"continue": metadata["continue"]}
        for item in items:
            item["apiVersion"], item["kind"] = resource.api_version, resource.kind
        return items, metadata.get("resourceVersion", "")

    async def watch(
        self,
        resource: Resource,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        *,
        seconds: float = 300.0,
        silence: float = 180.0,
    ) -> AsyncIterator[tuple[str, Object]]:
        """(type, object) as they happen, BOOKMARK included; ends when the server closes, after ``seconds``.

        Raises Gone when the history is lost, Unavailable after ``silence`` seconds without a byte or when the connection breaks.
        """
        query = _selectors(label_selector, field_selector) | {
            "watch": "1", "allowWatchBookmarks": "true", "resourceVersion": resource_version, "timeoutSeconds": str(max(1, int(seconds))),
        }  # fmt: skip
        call = _Call("GET", resource.path(namespace), query)
        timeout = aiohttp.ClientTimeout(total=None, connect=self._timeout, sock_connect=self._timeout, sock_read=silence)
        rest = b""
        try:
            async with self._session.request(**await self._arguments(call, timeout)) as response:
                if response.status >= 400:
                    raise _error(call, response.status, await response.read())
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        if line:
                            yield _watch_event(call, line)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _no_answer(call, error) from error

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """One object; raises NotFound."""
        return await self._send(_Call("GET", resource.path(namespace, name), repeatable=True))

    async def server_version(self) -> str:
        """As in ``v1.34.4``."""
        return str((await self._send(_Call("GET", "/version", repeatable=True)))["gitVersion"])

    async def served(self, group: str, version: str) -> frozenset[str]:
        """Plurals of the resources that the API server serves under a group and version, now; empty when it knows no such group."""
        try:
            found = await self._send(_Call("GET", f"/apis/{group}/{version}", repeatable=True))
        except NotFound:
            return frozenset()
        return frozenset(str(r["name"]) for r in found.get("resources") or () if "/" not in r["name"])

    # Writes

    async def apply(
        self, resource: Resource, namespace: str | None, name: str, body: Mapping[str, Any], manager: str, *, force: bool = True, subresource: str | None = None
    ) -> Object:
        """Server-side apply; ``body`` is everything ``manager`` wants to own. apiVersion, kind and name are filled in."""
        metadata = {**(body.get("metadata") or {}), "name": name}
        if resource.namespaced and namespace:
            metadata["namespace"] = namespace
        full = {**body, "apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        path = resource.path(namespace, name, subresource)
        return await self._write("apply", resource, _Call("PATCH", path, query, orjson.dumps(full), _APPLY, repeatable=True, guarded=True))

    async def json_patch(
        self, resource: Resource, namespace: str | None, name: str, operations: Sequence[Object], *, manager: str | None = None, subresource: str | None = None
    ) -> Object:
        """RFC 6902; a failed ``test`` raises Invalid."""
        return await self._patch(resource, resource.path(namespace, name, subresource), orjson.dumps(operations), "application/json-patch+json", manager)

    async def merge_patch(
        self, resource: Resource, namespace: str | None, name: str, patch: Mapping[str, Any], *, manager: str | None = None, subresource: str | None = None
    ) -> Object:
        """RFC 7386."""
        return await self._patch(resource, resource.path(namespace, name, subresource), orjson.dumps(patch), "application/merge-patch+json", manager)

    async def _patch(self, resource: Resource, path: str, body: bytes, content_type: str, manager: str | None) -> Object:
        query = {"fieldManager": manager} if manager else {}
        return await self._write("patch", resource, _Call("PATCH", path, query, body, content_type, guarded=True))

    async def create(
        self,
        resource: Resource,
        namespace: str | None,
        body: Mapping[str, Any],
        *,
        manager: str | None = None,
        guarded: bool = True,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Object:
        """POST; raises Conflict when it exists. ``guarded`` False is for the Lease alone."""
        query = {"fieldManager": manager} if manager else {}
        call = _Call("POST", resource.path(namespace), query, orjson.dumps(body), guarded=guarded, timeout=timeout)
        return await self._write("create", resource, call)

    async def replace(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        body: Mapping[str, Any],
        *,
        guarded: bool = True,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Object:
        """PUT; raises Conflict unless ``body`` carries the present resourceVersion. ``guarded`` False is for the Lease alone."""
        call = _Call("PUT", resource.path(namespace, name), {}, orjson.dumps(body), guarded=guarded, timeout=timeout)
        return await self._write("update", resource, call)

    async def delete(self, resource: Resource, namespace: str | None, name: str, *, uid: str | None = None, propagation: Propagation = "Background") -> None:
        """Delete the object that has this uid (any, if None). Raises NotFound when there is none, Conflict when it has another uid."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if uid:
            options["preconditions"] = {"uid": uid}
        call = _Call("DELETE", resource.path(namespace, name), {}, orjson.dumps(options), repeatable=bool(uid), guarded=True)
        await self._write("delete", resource, call)

    async def _write(self, verb: str, resource: Resource, call: _Call) -> Object:
        return await self._send(call, on_attempt=lambda: self._count(verb, resource.kind))

    def _count(self, verb: str, kind: str) -> None:
        self.writes[verb, kind] += 1
        if self._on_write is not None:
            self._on_write(verb, kind)

    # The wire

    async def _send(self, call: _Call, on_attempt: Callable[[], None] = _nothing) -> Object:
        attempts = _ATTEMPTS if call.repeatable else 1
        for attempt in range(1, attempts + 1):
            try:
                return await self._send_once(call, on_attempt)
            except Unavailable as error:
                if attempt == attempts:
                    raise
                pause = getattr(error, "retry_after", None) or _BACKOFF * 2**attempt * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
            await asyncio.sleep(pause)
        raise AssertionError  # unreachable: the last attempt returns or raises

    async def _send_once(self, call: _Call, on_attempt: Callable[[], None]) -> Object:
        seconds = call.timeout or self._timeout
        token = _before_send.set(self._guard(call.guarded, on_attempt))
        try:
            async with self._session.request(**await self._arguments(call, aiohttp.ClientTimeout(total=seconds))) as response:
                content = await response.read()
                if response.status >= 400:
                    raise _error(call, response.status, content, response.headers.get("Retry-After"))
                return cast("Object", orjson.loads(content)) if content else {}
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _no_answer(call, error) from error
        except orjson.JSONDecodeError as error:
            raise Unavailable(0, "NotJson", f"{call.method} {call.path}: the answer is not JSON; is this an API server?") from error
        finally:
            _before_send.reset(token)

    def _guard(self, guarded: bool, on_attempt: Callable[[], None]) -> Callable[[], None]:
        def check() -> None:
            if guarded:
                self.before_write()
            on_attempt()

        if guarded:
            self.before_write()
        return check

    async def _arguments(self, call: _Call, limits: aiohttp.ClientTimeout) -> dict[str, Any]:
        headers = {"Accept": call.accept, "User-Agent": self._agent}
        if call.body is not None:
            headers["Content-Type"] = call.content_type
        if bearer := await self._bearer():
            headers["Authorization"] = bearer
        arguments: dict[str, Any] = {
            "method": call.method,
            "url": self._host + call.path,
            "params": call.query,
            "data": call.body,
            "headers": headers,
            "timeout": limits,
        }
        if self._configuration.tls_server_name:
            arguments["server_hostname"] = self._configuration.tls_server_name
        if self._rest.proxy:
            arguments["proxy"] = self._rest.proxy
        return arguments

    async def _bearer(self) -> str | None:
        # asked before each request, so that the loaders' refresh hook runs
        return await self._configuration.get_api_key_with_prefix("BearerToken")


def _selectors(label_selector: str | None, field_selector: str | None) -> dict[str, str]:
    pairs = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {name: value for name, value in pairs.items() if value}


def _watch_event(call: _Call, line: bytes) -> tuple[str, Object]:
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise Unavailable(0, "NotJson", f"{call.method} {call.path}: a line of the watch is not JSON") from error
    if event["type"] == "ERROR":
        status = event.get("object") or {}
        raise _error(call, int(status.get("code") or 500), orjson.dumps(status))
    return event["type"], event["object"]


def _error(call: _Call, status: int, content: bytes, retry_after: str | None = None) -> ApiError:
    try:
        told = orjson.loads(content)
    except orjson.JSONDecodeError:
        told = None
    told = told if isinstance(told, dict) else {}
    reason = told.get("reason") or f"Http{status}"
    message = told.get("message") or content[:300].decode("utf-8", "replace").strip() or "no reason given"
    kind = _ERRORS.get(status, Unavailable if status >= 500 else ApiError)
    error = kind(status, str(reason), f"{call.method} {call.path}: {message}")
    if isinstance(error, Unavailable) and retry_after and retry_after.isdigit():
        error.retry_after = min(float(retry_after), _LONGEST_RETRY_AFTER)  # type: ignore[attr-defined]
    return error


def _no_answer(call: _Call, error: BaseException) -> Unavailable:
    reason = "Timeout" if isinstance(error, TimeoutError) else "ConnectionFailed"
    return Unavailable(0, reason, f"{call.method} {call.path}: {str(error) or type(error).__name__}")


def key_of(raw: Mapping[str, Any]) -> str:
    """The key of an object as the API server sends it."""
    metadata = raw["metadata"]
    return object_key(metadata.get("namespace"), metadata["name"])
