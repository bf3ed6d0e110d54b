"""What can be asked of the API server: list, watch, get, apply, patch, create, replace, delete.

Decided here: which requests are safe to repeat (reads, applies, deletions bound to a uid), that every write asks ``before_write`` first and is counted.
How bytes travel is in ``wire.py``; what to read or write is not decided here.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import orjson
from kubernetes.aio.client.configuration import Configuration

from modelfleet.errors import Gone, NotFound, Unavailable
from modelfleet.observability.logging import say

from .resources import Resource, object_key
from .wire import JSON, Call, Credentials, Object, Wire, answered_error, load_configuration, nothing

__all__ = ["Client", "Credentials", "Object", "key_of"]

_log = logging.getLogger(__name__)
Propagation = Literal["Background", "Foreground", "Orphan"]
Objects = list[Object]
Listed = tuple[Objects, str]

_APPLY: Final = "application/apply-patch+yaml"
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class Client:
    """One API server, one identity. Every method raises an ``ApiError`` of ``errors.py``, writes also what ``before_write`` raises."""

    def __init__(self, configuration: Configuration, process: str, *, timeout: float = 30.0) -> None:
        """``process`` names us in the User-Agent; ``timeout`` in seconds for every request but watches."""
        self.before_write: Callable[[], None] = nothing
        """Raises when writing is not allowed (``lease.check``); asked when a write is called for and again when its bytes are about to leave."""
        self.on_write: Callable[[str, str], None] | None = None
        """Hears (verb, kind) of every write sent."""
        self.writes: Counter[tuple[str, str]] = Counter()
        """Writes sent, by (verb, kind); repetitions count."""
        self._wire = Wire(configuration, process, timeout)

    @classmethod
    async def connect(
        cls, process: str, kubeconfig: Path | str | None = None, *, context: str | None = None, request_timeout: float = 30.0, pool: int = 100
    ) -> Client:
        """Credentials from ``kubeconfig``, else from the pod's service account, else from the usual kubeconfig. Raises Stalled when there are none."""
        return cls(await load_configuration(kubeconfig, context, pool), process, timeout=request_timeout)

    async def credentials(self) -> Credentials:
        """What the loaders found, the token refreshed."""
        return await self._wire.credentials()

    async def close(self) -> None:
        """Close every connection."""
        await self._wire.close()

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
        accept = _METADATA_ONLY if metadata_only else JSON
        try:
            return await self._list(resource, namespace, query | {"limit": str(limit)}, accept)
        except Gone:
            return await self._list(resource, namespace, query, accept)

    async def _list(self, resource: Resource, namespace: str | None, query: dict[str, str], accept: str) -> Listed:
        items: Objects = []
        while True:
            page = await self._wire.send(Call("GET", resource.path(namespace), query, accept=accept, repeatable=True))
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
        seconds: float = 150.0,
        silence: float = 180.0,
        on_open: Callable[[], None] = nothing,
    ) -> AsyncGenerator[tuple[str, Object]]:
        """(type, object) as they happen, BOOKMARK included; ends when the server closes, after ``seconds``. ``on_open`` hears that it was accepted.

        Raises Gone when the history is lost, Unavailable after ``silence`` seconds without a byte or when the connection breaks.
        """
        query = _selectors(label_selector, field_selector)
        query |= {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": resource_version, "timeoutSeconds": str(max(1, int(seconds)))}
        call = Call("GET", resource.path(namespace), query)
        async for line in self._wire.stream(call, silence, on_open):
            yield _watch_event(call, line)

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """One object; raises NotFound."""
        return await self._wire.send(Call("GET", resource.path(namespace, name), repeatable=True))

    async def server_version(self) -> str:
        """As in ``v1.34.4``."""
        return str((await self._wire.send(Call("GET", "/version", repeatable=True)))["gitVersion"])

    async def served(self, group: str, version: str) -> frozenset[str]:
        """Plurals of the resources that the API server serves under a group and version, now; empty when it knows no such group."""
        try:
            found = await self._wire.send(Call("GET", f"/apis/{group}/{version}", repeatable=True))
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
        call = Call("PATCH", resource.path(namespace, name, subresource), query, orjson.dumps(full), _APPLY, repeatable=True)
        return await self._write("apply", resource, call)

    async def json_patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        operations: Sequence[Mapping[str, Any]],
        *,
        manager: str | None = None,
        subresource: str | None = None,
    ) -> Object:
        """RFC 6902; a failed ``test`` raises Invalid."""
        return await self._patch(resource, resource.path(namespace, name, subresource), orjson.dumps(operations), "application/json-patch+json", manager)

    async def merge_patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: Mapping[str, Any],
        *,
        manager: str | None = None,
        subresource: str | None = None,
    ) -> Object:
        """RFC 7386."""
        return await self._patch(resource, resource.path(namespace, name, subresource), orjson.dumps(patch), "application/merge-patch+json", manager)

    async def _patch(self, resource: Resource, path: str, body: bytes, content_type: str, manager: str | None) -> Object:
        return await self._write("patch", resource, Call("PATCH", path, {"fieldManager": manager} if manager else {}, body, content_type))

    async def create(
        self, resource: Resource, namespace: str | None, body: Mapping[str, Any], *, guarded: bool = True, request_timeout: float | None = None
    ) -> Object:
        """POST; raises Conflict when it exists. ``guarded`` False is for the Lease alone."""
        call = Call("POST", resource.path(namespace), {}, orjson.dumps(body), timeout=request_timeout)
        return await self._write("create", resource, call, guarded=guarded)

    async def replace(
        self, resource: Resource, namespace: str | None, name: str, body: Mapping[str, Any], *, guarded: bool = True, request_timeout: float | None = None
    ) -> Object:
        """PUT; raises Conflict unless ``body`` carries the present resourceVersion. ``guarded`` False is for the Lease alone."""
        call = Call("PUT", resource.path(namespace, name), {}, orjson.dumps(body), timeout=request_timeout)
        return await self._write("update", resource, call, guarded=guarded)

    async def delete(self, resource: Resource, namespace: str | None, name: str, *, uid: str | None = None, propagation: Propagation = "Background") -> None:
        """Delete the object that has this uid (any, if None). Raises NotFound when there is none, Conflict when it has another uid."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if uid:
            options["preconditions"] = {"uid": uid}
        await self._write("delete", resource, Call("DELETE", resource.path(namespace, name), {}, orjson.dumps(options), repeatable=bool(uid)))

    async def _write(self, verb: str, resource: Resource, call: Call, *, guarded: bool = True) -> Object:
        def guard() -> None:
            if guarded:
                self.before_write()
            self.writes[verb, resource.kind] += 1
            if self.on_write is not None:
                self.on_write(verb, resource.kind)

        if guarded:
            self.before_write()
        answer = await self._wire.send(call, guard)
        # the Lease is renewed all the time, and that is no news
        _tell(logging.INFO if guarded else logging.DEBUG, verb, resource, call.path, answer)
        return answer


def _tell(level: int, verb: str, resource: Resource, path: str, answer: Mapping[str, Any]) -> None:
    """One line for each change. What a create made is named in its answer; every other path ends in the name and perhaps a subresource."""
    before, _, after = path.partition(f"/{resource.plural}")
    namespace = before.rpartition("/namespaces/")[2] if resource.namespaced and "/namespaces/" in before else None
    name, _, part = after.strip("/").partition("/")
    name = name or str((answer.get("metadata") or {}).get("name") or "")
    say(_log, level, verb, kind=resource.kind, namespace=namespace, name=name, part=part or None)


def _selectors(label_selector: str | None, field_selector: str | None) -> dict[str, str]:
    pairs = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {name: value for name, value in pairs.items() if value}


def _watch_event(call: Call, line: bytes) -> tuple[str, Object]:
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise Unavailable(0, "NotJson", f"{call.method} {call.path}: a line of the watch is not JSON") from error
    if event["type"] == "ERROR":
        status = event.get("object") or {}
        raise answered_error(call, int(status.get("code") or 500), orjson.dumps(status))
    return event["type"], event["object"]


def key_of(raw: Mapping[str, Any]) -> str:
    """The key of an object as the API server sends it."""
    metadata = raw["metadata"]
    return object_key(metadata.get("namespace"), metadata["name"])
