"""Raw objects of the API server -> the slim records of ``core/world.py``. What no decision reads is left behind; nothing is decided here.

Quantities become integers, rounded up: millicores for ``cpu``, bytes for ``memory`` and ``ephemeral-storage``, whole units for the rest.
A pod's requests are counted as the scheduler counts them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from modelfleet.api.parse import InvalidObject, parse
from modelfleet.api.v1alpha1 import ModelPool
from modelfleet.api.v1alpha1.common import Kind
from modelfleet.core.quantity import parse_quantity
from modelfleet.core.render.labels import FLAVOR, MANAGED_BY, MANAGED_BY_VALUE, POOL
from modelfleet.core.routing.ir import Address
from modelfleet.core.world import Node, Pod, Workload

from .resources import object_key

__all__ = ["Endpoints", "endpoints_of", "node_of", "parse_quantity", "pod_of", "reader_of", "requests_of", "workload_of"]

Raw = Mapping[str, Any]
KindT = TypeVar("KindT", bound=Kind)

_REVISION: Final = "pod-template-hash"
"""The Deployment controller's label: one value per revision of the pod template."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The ready addresses in one EndpointSlice of a pool (key ``<namespace>/<pool>``), sorted."""

    pool: str
    addresses: tuple[Address, ...]


def node_of(raw: Raw) -> Node:
    """A node."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    return Node(
        name=metadata["name"],
        labels=metadata.get("labels") or {},
        capacity=_amounts(status.get("capacity")),
        allocatable=_amounts(status.get("allocatable")),
        ready=any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ()),
        schedulable=not spec.get("unschedulable"),
    )


def pod_of(raw: Raw) -> Pod:
    """A pod; ``pool`` and ``flavor`` only where the labels say that it is ours."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    labels = metadata.get("labels") or {}
    ours = labels.get(MANAGED_BY) == MANAGED_BY_VALUE
    conditions = {c.get("type"): c for c in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled") or {}
    unschedulable = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return Pod(
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        requests=requests_of(spec),
        node=spec.get("nodeName") or None,
        phase=status.get("phase") or "Pending",
        ready=(conditions.get("Ready") or {}).get("status") == "True",
        deleting=bool(metadata.get("deletionTimestamp")),
        created=_time(metadata.get("creationTimestamp")),
        unschedulable_since=_time(scheduled.get("lastTransitionTime")) if unschedulable else None,
        unschedulable_message=scheduled.get("message", "") if unschedulable else "",
        waiting_reason=next((reason for c in containers if (reason := ((c.get("state") or {}).get("waiting") or {}).get("reason"))), ""),
        restarts=sum(int(c.get("restartCount") or 0) for c in containers),
        pool=labels.get(POOL) if ours else None,
        flavor=labels.get(FLAVOR) if ours else None,
        revision=labels.get(_REVISION, "") if ours else "",
    )


def requests_of(spec: Raw) -> dict[str, int]:
    """What the scheduler sets aside for a pod: containers and sidecars together, or the hungriest moment of its start, and the overhead."""
    running: dict[str, int] = {}
    for container in spec.get("containers") or ():
        _add(running, _container_requests(container))
    sidecars: dict[str, int] = {}
    starting: dict[str, int] = {}
    for container in spec.get("initContainers") or ():
        amounts = _container_requests(container)
        if container.get("restartPolicy") == "Always":
            _add(running, amounts)
            _add(sidecars, amounts)
            amounts = sidecars
        else:
            amounts = _sum(amounts, sidecars)
        starting = {name: max(starting.get(name, 0), amounts.get(name, 0)) for name in {*starting, *amounts}}
    total = {name: max(running.get(name, 0), starting.get(name, 0)) for name in {*running, *starting}}
    total.update(_amounts((spec.get("resources") or {}).get("requests")))
    _add(total, _amounts(spec.get("overhead")))
    return {name: total[name] for name in sorted(total)}


def workload_of(raw: Raw) -> Workload | None:
    """A Deployment of ours; None when the labels do not name a pool and a flavor."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    labels = metadata.get("labels") or {}
    if labels.get(MANAGED_BY) != MANAGED_BY_VALUE or POOL not in labels or FLAVOR not in labels:
        return None
    failures = [c for c in status.get("conditions") or () if c.get("type") == "ReplicaFailure" and c.get("status") == "True"]
    return Workload(
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        pool=labels[POOL],
        flavor=labels[FLAVOR],
        replicas=int(spec.get("replicas", 1)),
        failure=(failures[0].get("message") or failures[0].get("reason") or "ReplicaFailure") if failures else "",
        in_place=str(((spec.get("strategy") or {}).get("rollingUpdate") or {}).get("maxSurge")) in ("0", "0%"),
        owners=frozenset(r["uid"] for r in metadata.get("ownerReferences") or () if r.get("kind") == ModelPool.KIND),
    )


def endpoints_of(raw: Raw) -> Endpoints | None:
    """The ready addresses of an EndpointSlice of ours; None when its labels do not name a pool and a flavor."""
    metadata = raw["metadata"]
    labels = metadata.get("labels") or {}
    if POOL not in labels or FLAVOR not in labels:
        return None
    ports = [port["port"] for port in raw.get("ports") or () if port.get("port")]
    ready = [e for e in raw.get("endpoints") or () if (e.get("conditions") or {}).get("ready") is not False and e.get("addresses")]
    addresses = {(e["addresses"][0], port) for e in ready for port in ports[:1]}
    return Endpoints(
        pool=object_key(metadata.get("namespace"), labels[POOL]),
        addresses=tuple(Address(host=host, port=port, flavor=labels[FLAVOR]) for host, port in sorted(addresses)),
    )


def _container_requests(container: Raw) -> dict[str, int]:
    return _amounts((container.get("resources") or {}).get("requests"))


def _amounts(raw: Raw | None) -> dict[str, int]:
    return {name: _amount(name, str(text)) for name, text in (raw or {}).items()}


def _amount(name: str, text: str) -> int:
    value = parse_quantity(text)
    return math.ceil(value * 1000 if name == "cpu" else value)


def _add(total: dict[str, int], amounts: Mapping[str, int]) -> None:
    for name, amount in amounts.items():
        total[name] = total.get(name, 0) + amount


def _sum(*many: Mapping[str, int]) -> dict[str, int]:
    total: dict[str, int] = {}
    for amounts in many:
        _add(total, amounts)
    return total


def _time(text: Any) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) and text else None


def reader_of(kind: type[KindT]) -> Callable[[dict[str, Any]], KindT]:
    """An informer's reader of one of our kinds; it raises ValueError with every fault, upon which the informer keeps the last readable form."""

    def read(raw: dict[str, Any]) -> KindT:
        parsed = parse(kind, raw)
        if isinstance(parsed, InvalidObject):
            raise ValueError("; ".join(parsed.errors))  # noqa: TRY004 - what the informer listens for
        return parsed

    return read
