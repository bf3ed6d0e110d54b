"""One look at a cluster, without a process that stays: what `modelfleet plan` and `modelfleet explain pool` decide from.

The same mirror and snapshot as the operator's, filled by one list of everything. What only a running operator can know, it has written into the pools' status:
endpoint health is read back from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from modelfleet.api.parse import InvalidObject
from modelfleet.api.v1alpha1 import ModelPool
from modelfleet.core.world import Defaults, EndpointHealth, Telemetry, World
from modelfleet.errors import Retry, Stalled
from modelfleet.kube.changes import Changes
from modelfleet.kube.client import Client
from modelfleet.kube.mirror import Mirror
from modelfleet.kube.resources import OURS

__all__ = ["Observation", "observe_once"]

_PATIENCE = 30.0
"""Seconds for the first lists: beyond them a person would rather have an error."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A World and the mirror it was cut from."""

    world: World
    mirror: Mirror


async def observe_once(client: Client, defaults: Defaults, overlay: Iterable[Mapping[str, Any]] = ()) -> Observation:
    """List everything once. ``overlay``: objects of our kinds that stand in for the cluster's own, as if they had been applied.

    Raises ApiError when a list fails, Retry when the API server takes longer than half a minute, Stalled when an overlay does not parse.
    """
    mirror = Mirror(Changes())
    informers = mirror.informers(client)
    tasks = [asyncio.create_task(informer.run()) for informer in informers]
    try:
        for resource in OURS:
            items, _ = await client.list(resource)
            for item in items:
                mirror.hear("ADDED", item)
            mirror.confirm(resource.kind)
        for raw in overlay:
            _lay_over(mirror, raw)
        async with asyncio.timeout(_PATIENCE):
            await asyncio.gather(*(informer.synced.wait() for informer in informers))
    except TimeoutError as error:
        raise Retry("Slow", f"the API server did not list the fleet within {_PATIENCE:.0f} s; try again, or look at its load", _PATIENCE) from error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    now = datetime.now(UTC)
    world = mirror.snapshot(now, Telemetry(), defaults)
    return Observation(mirror.snapshot(now, Telemetry(endpoints=_endpoint_health(world.pools)), defaults), mirror)


def _lay_over(mirror: Mirror, raw: Mapping[str, Any]) -> None:
    kinds = {resource.kind: resource for resource in OURS}
    given = raw.get("metadata")
    if raw.get("kind") not in kinds:
        raise Stalled("UnknownKind", f"kind {raw.get('kind')!r}: plan takes {', '.join(sorted(kinds))}")
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise Stalled("InvalidSpec", f"{raw['kind']}: metadata.name is missing")
    metadata = dict(given)
    if kinds[raw["kind"]].namespaced:
        metadata.setdefault("namespace", "default")
    key = f"{metadata['namespace']}/{metadata['name']}" if metadata.get("namespace") else str(metadata.get("name"))
    present = mirror.ours(raw["kind"], key)
    metadata |= {"uid": present.uid if present else "new", "resourceVersion": str(present.version if present else 0)}
    if present is not None and not isinstance(present.parsed, InvalidObject):
        metadata["generation"] = present.parsed.metadata.generation + 1
        metadata["annotations"] = dict(present.parsed.metadata.annotations) | (metadata.get("annotations") or {})
    mirror.hear("MODIFIED", {**raw, "metadata": metadata, "status": dict(present.status) if present else {}})
    laid = mirror.ours(raw["kind"], key)
    if laid is not None and isinstance(laid.parsed, InvalidObject):
        raise Stalled("InvalidSpec", f"{raw['kind']} {key}: {'; '.join(laid.parsed.errors)}")


def _endpoint_health(pools: Iterable[ModelPool]) -> tuple[EndpointHealth, ...]:
    return tuple(
        EndpointHealth(pool.key, flavor.name, flavor.reachable, "" if flavor.reachable else flavor.reason)
        for pool in pools
        for flavor in pool.status.flavors
        if flavor.reachable is not None
    )
