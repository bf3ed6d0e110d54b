"""Everything the operator has observed, in memory: one level-based picture, from which ``snapshot`` cuts a World.

Our four kinds arrive by ``hear`` (Kopf delivers, nobody tells what a gap swallowed: ``ghosts.py``); nodes, pods and our children by informers,
which replace on every list. Objects are parsed once, when they arrive. Nothing is decided here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from modelfleet.api.parse import InvalidObject, parse
from modelfleet.api.v1alpha1 import KINDS, AcceleratorClass, AgentTeam, ModelPool, RoutingPolicy
from modelfleet.api.v1alpha1.common import Kind
from modelfleet.core.render.labels import COMPONENT, FLAVOR, GATEWAY_SELECTOR, MANAGED_BY, MANAGED_BY_VALUE, MANAGER_CHILDREN, POOL
from modelfleet.core.world import Defaults, Gateway, Node, Pod, Telemetry, Workload, World

from .changes import Changes
from .client import Client, Object, key_of
from .informer import Informer
from .records import node_of, pod_of, workload_of
from .resources import DEPLOYMENTS, NODES, OURS, PODS, SERVICES, object_key

__all__ = ["Child", "Mirror", "Ours", "Seen"]

_log = logging.getLogger(__name__)
T = TypeVar("T")
KindT = TypeVar("KindT", bound=Kind)

_MODELS: Final[dict[str, type[Kind]]] = {model.KIND: model for model in KINDS}
_GATEWAY_LABELS: Final = dict(pair.split("=", 1) for pair in GATEWAY_SELECTOR.split(","))
_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    **{model.KIND: (model.KIND, f"{model.KIND}:good", f"{model.KIND}:bad") for model in KINDS},
    NODES.kind: (NODES.kind,),
    PODS.kind: (PODS.kind, f"{PODS.kind}:gateways"),
    DEPLOYMENTS.kind: (DEPLOYMENTS.kind,),
    SERVICES.kind: (),
}
"""Parts of a snapshot that are cut anew when something of a kind has changed."""
_CHILD_SELECTOR: Final = f"{MANAGED_BY}={MANAGED_BY_VALUE},{POOL}"


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """A record with what a write needs to know. Equality is the record's: a heartbeat is no news."""

    record: T
    uid: str
    version: int = field(compare=False)
    """The resourceVersion it was read from."""


@dataclass(frozen=True, slots=True)
class Ours:
    """An object of one of our kinds. ``status`` is raw, as the API server has it."""

    parsed: Kind | InvalidObject
    uid: str
    version: int
    status: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Child:
    """A Deployment or Service of ours. ``desired`` is metadata (labels, annotations, owners) and spec; ``owned`` the fields that we applied (fieldsV1)."""

    kind: str
    namespace: str
    name: str
    uid: str
    version: int = field(compare=False)
    desired: Mapping[str, Any]
    owned: Mapping[str, Any]
    deleting: bool
    workload: Workload | None

    @property
    def pool(self) -> str:
        """The key of the pool that the labels name."""
        return object_key(self.namespace, self.desired["metadata"]["labels"][POOL])

    @property
    def flavor_key(self) -> str:
        """``<namespace>/<pool>/<flavor>``, as in ``Plan.held_flavors``."""
        return f"{self.pool}/{self.desired['metadata']['labels'].get(FLAVOR, '')}"

    @property
    def owner_uids(self) -> frozenset[str]:
        """Uids of the ModelPools that own it."""
        return frozenset(r["uid"] for r in self.desired["metadata"].get("ownerReferences") or () if r.get("kind") == ModelPool.KIND)


class Mirror:
    """See the module. One loop feeds and reads it."""

    def __init__(self, changes: Changes, *, gateway_namespace: str | None = None) -> None:
        """``changes`` hears the key (``<Kind>:<ns>/<name>``) of all that differs. Gateways are looked for in ``gateway_namespace`` (None: everywhere)."""
        self._changes = changes
        self._gateway_namespace = gateway_namespace
        self._ours: dict[str, dict[str, Ours]] = {r.kind: {} for r in OURS}
        self._complete: set[str] = set()
        self._informers: tuple[Informer[Any], ...] = ()
        self._nodes: Mapping[str, Seen[Node]] = {}
        self._pods: Mapping[str, Seen[_SeenPod]] = {}
        self._children: dict[str, Mapping[str, Child]] = {DEPLOYMENTS.kind: {}, SERVICES.kind: {}}
        self._cut: dict[str, tuple[Any, ...]] = {}
        """Records by kind as the last snapshot had them, sorted; without the kinds of which something has changed since."""

    # Feeding

    def informers(self, client: Client, *, silence: float = 180.0, watch_seconds: float = 150.0) -> tuple[Informer[Any], ...]:
        """Informers of nodes, pods, our Deployments and our Services; run each as a task. ``synced`` waits for them from this call on. Seconds."""
        settings: dict[str, Any] = {"silence": silence, "watch_seconds": watch_seconds}
        nodes = Informer(client, NODES, _seen_node, self._hears(NODES.kind), **settings)
        pods = Informer(client, PODS, _seen_pod, self._hears(PODS.kind), **settings)
        children = [Informer(client, r, child_of, self._hears(r.kind), label_selector=_CHILD_SELECTOR, **settings) for r in (DEPLOYMENTS, SERVICES)]
        self._nodes, self._pods = nodes.objects, pods.objects
        self._children = {informer.resource.kind: informer.objects for informer in children}
        self._informers = (nodes, pods, *children)
        self._cut.clear()
        return self._informers

    def hear(self, event_type: str | None, raw: Mapping[str, Any]) -> None:
        """One event of one of our kinds, as Kopf delivers it (``event["type"]``, ``event["object"]``); names its key. Never raises."""
        try:
            self._hear(event_type, raw)
        except (KeyError, TypeError, ValueError, AttributeError):
            _log.exception("cannot read an event of type %s", event_type)

    def _hear(self, event_type: str | None, raw: Mapping[str, Any]) -> None:
        kind, key = raw["kind"], key_of(raw)
        known = self._ours[kind]
        if event_type == "DELETED":
            known.pop(key, None)
        else:
            metadata = raw["metadata"]
            known[key] = Ours(parse(_MODELS[kind], raw), metadata["uid"], int(metadata["resourceVersion"]), raw.get("status") or {})
        self._tell(kind, key)

    def known(self, kind: str) -> dict[str, tuple[str, int]]:
        """Key -> (uid, resourceVersion) of what is held of one of our kinds, as a copy."""
        return {key: (ours.uid, ours.version) for key, ours in self._ours[kind].items()}

    def forget(self, kind: str, key: str, uid: str) -> bool:
        """Drop an object that is gone, if it is still this one; True when it was."""
        ours = self._ours[kind].get(key)
        if ours is None or ours.uid != uid:
            return False
        del self._ours[kind][key]
        self._tell(kind, key)
        return True

    def confirm(self, kind: str) -> None:
        """A list has shown that the mirror holds everything of this kind."""
        if kind not in self._complete:
            self._complete.add(kind)
            self._changes.add(f"{kind}:")

    # Reading

    def synced(self) -> bool:
        """True when every informer has listed and each of our kinds has been confirmed: only then may anyone plan."""
        return len(self._complete) == len(OURS) and bool(self._informers) and all(i.synced.is_set() for i in self._informers)

    def fresh(self, within: float) -> bool:
        """True when every informer has heard the API server in the last ``within`` seconds."""
        return all(informer.fresh(within) for informer in self._informers)

    def ours(self, kind: str, key: str) -> Ours | None:
        """An object of one of our kinds as observed."""
        return self._ours[kind].get(key)

    def node(self, name: str) -> Seen[Node] | None:
        """A node as observed."""
        return self._nodes.get(name)

    def child(self, kind: str, key: str) -> Child | None:
        """A child as observed."""
        return self._children.get(kind, {}).get(key)

    def children(self) -> list[Child]:
        """All children as observed, sorted."""
        return [objects[key] for _, objects in sorted(self._children.items()) for key in sorted(objects)]

    def keys_of_children(self) -> Mapping[str, AbstractSet[str]]:
        """By kind, the keys of all children as observed; live views."""
        return {kind: objects.keys() for kind, objects in self._children.items()}

    def snapshot(self, now: datetime, telemetry: Telemetry, defaults: Defaults) -> World:
        """The World at this moment; everything sorted by key, and the very tuples of the last snapshot where nothing has changed."""
        pools, invalid = self._parsed(ModelPool)
        policies, bad_policies = self._parsed(RoutingPolicy)
        teams, bad_teams = self._parsed(AgentTeam)
        classes, bad_classes = self._parsed(AcceleratorClass)
        return World(
            now=now,
            pools=pools,
            policies=policies,
            teams=teams,
            classes=classes,
            invalid=(*bad_classes, *bad_teams, *invalid, *bad_policies),
            nodes=self._part(NODES.kind, lambda: (s.record for s in _sorted(self._nodes))),
            pods=self._part(PODS.kind, lambda: (s.record.pod for s in _sorted(self._pods))),
            workloads=self._part(DEPLOYMENTS.kind, lambda: (w for c in _sorted(self._children[DEPLOYMENTS.kind]) if (w := c.workload) is not None)),
            gateways=self.gateways(),
            telemetry=telemetry,
            defaults=defaults,
        )

    def _parsed(self, kind: type[KindT]) -> tuple[tuple[KindT, ...], tuple[InvalidObject, ...]]:
        """All objects of a kind of ours: those that parse, and those that do not."""
        parsed = self._part(kind.KIND, lambda: (ours.parsed for ours in _sorted(self._ours[kind.KIND])))
        good = self._part(f"{kind.KIND}:good", lambda: (p for p in parsed if isinstance(p, kind)))
        return good, self._part(f"{kind.KIND}:bad", lambda: (p for p in parsed if isinstance(p, InvalidObject)))

    def _part(self, name: str, make: Callable[[], Iterable[Any]]) -> tuple[Any, ...]:
        if name not in self._cut:
            self._cut[name] = tuple(make())
        return self._cut[name]

    def gateways(self) -> tuple[Gateway, ...]:
        """The gateway pods that are not being deleted, sorted by key."""
        return self._part(f"{PODS.kind}:gateways", self._gateways)

    def _gateways(self) -> Iterable[Gateway]:
        seen = (s.record for s in _sorted(self._pods))
        return (Gateway(name=p.pod.name, ready=p.pod.ready, address=p.address) for p in seen if self._is_gateway(p))

    def _is_gateway(self, seen: _SeenPod) -> bool:
        return seen.gateway and not seen.pod.deleting and self._gateway_namespace in (None, seen.pod.namespace)

    def _hears(self, kind: str) -> Any:
        return lambda key, _old, _new: self._tell(kind, key)

    def _tell(self, kind: str, key: str) -> None:
        for name in _PARTS[kind]:
            self._cut.pop(name, None)
        self._changes.add(f"{kind}:{key}")


def _sorted(objects: Mapping[str, T]) -> Iterable[T]:
    return (objects[key] for key in sorted(objects))


@dataclass(frozen=True, slots=True)
class _SeenPod:
    pod: Pod
    gateway: bool
    address: str
    """The pod's IP, kept of gateways alone."""


def child_of(raw: Object) -> Child | None:
    """A Deployment or Service of ours, without what nobody compares; None when the labels do not name a pool."""
    metadata = raw["metadata"]
    labels = metadata.get("labels") or {}
    if POOL not in labels:
        return None
    applied = [
        f for f in metadata.get("managedFields") or () if f.get("manager") == MANAGER_CHILDREN and f.get("operation") == "Apply" and not f.get("subresource")
    ]
    kept = {part: metadata[part] for part in ("labels", "annotations", "ownerReferences") if metadata.get(part)}
    return Child(
        kind=raw["kind"],
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        version=int(metadata["resourceVersion"]),
        desired={"metadata": kept, "spec": raw.get("spec") or {}},
        owned=applied[0].get("fieldsV1") or {} if applied else {},
        deleting=bool(metadata.get("deletionTimestamp")),
        workload=workload_of(raw) if raw["kind"] == DEPLOYMENTS.kind else None,
    )


def _seen_node(raw: Object) -> Seen[Node]:
    return Seen(node_of(raw), raw["metadata"]["uid"], int(raw["metadata"]["resourceVersion"]))


def _seen_pod(raw: Object) -> Seen[_SeenPod]:
    labels = raw["metadata"].get("labels") or {}
    gateway = COMPONENT in labels and all(labels.get(name) == value for name, value in _GATEWAY_LABELS.items())
    address = str((raw.get("status") or {}).get("podIP") or "") if gateway else ""
    return Seen(_SeenPod(pod_of(raw), gateway, address), raw["metadata"]["uid"], int(raw["metadata"]["resourceVersion"]))
