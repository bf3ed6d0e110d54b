"""Builders that read as prose: ``a_pool("boss").wants("h100", or_else="l4").replicas(2).build()``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from modelfleet.api.v1alpha1 import AcceleratorClass, AgentTeam, ModelPool, RoutingPolicy
from modelfleet.core.render.labels import ACCELERATOR_CLASS
from modelfleet.core.world import Node, Pod, World

NOON = datetime(2026, 1, 5, 12, 0, 0, tzinfo=UTC)
GPU = "nvidia.com/gpu"


@dataclass(frozen=True)
class PoolBuilder:
    """A ModelPool in the making; every method answers a new builder."""

    name: str
    namespace: str = "apps"
    flavors: tuple[dict[str, Any], ...] = ()
    spec: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    status: Mapping[str, Any] = field(default_factory=dict)

    def wants(self, *names: str, or_else: str | Iterable[str] = ()) -> PoolBuilder:
        """Pod flavors, each on the class of the same name."""
        rest = (or_else,) if isinstance(or_else, str) else tuple(or_else)
        return replace(self, flavors=(*self.flavors, *({"name": n, "acceleratorClass": n} for n in (*names, *rest))))

    def on(self, flavor: str, accelerator_class: str, **fields: Any) -> PoolBuilder:
        """A pod flavor in full: ``devices``, ``capacity``, ``max``, ``engine``."""
        return replace(self, flavors=(*self.flavors, {"name": flavor, "acceleratorClass": accelerator_class, **fields}))

    def or_endpoint(self, name: str = "remote", url: str = "https://api.example.com/v1", key: str | None = "remote-key") -> PoolBuilder:
        """A remote endpoint as the next flavor."""
        endpoint: dict[str, Any] = {"url": url, "model": "m", "price": {"inputPerMillion": "0.20", "outputPerMillion": "0.60"}}
        if key:
            endpoint["authSecretRef"] = {"name": key, "key": "token"}
        return replace(self, flavors=(*self.flavors, {"name": name, "endpoint": endpoint}))

    def replicas(self, count: int) -> PoolBuilder:
        return self.with_spec(replicas=count)

    def between(self, low: int, high: int) -> PoolBuilder:
        return self.with_spec(scaling={"mode": "Manual", "min": low, "max": high})

    def returning_after(self, after: str, pending_timeout: str = "90s") -> PoolBuilder:
        return self.with_spec(placement={"policy": "Ordered", "pendingTimeout": pending_timeout, "migrateBack": {"after": after}})

    def with_spec(self, **fields: Any) -> PoolBuilder:
        return replace(self, spec={**self.spec, **fields})

    def with_status(self, status: Mapping[str, Any]) -> PoolBuilder:
        return replace(self, status=status)

    def paused(self) -> PoolBuilder:
        return replace(self, metadata={**self.metadata, "annotations": {"modelfleet.dev/paused": "true"}})

    def generation(self, number: int) -> PoolBuilder:
        return replace(self, metadata={**self.metadata, "generation": number})

    def raw(self) -> dict[str, Any]:
        """The object as the API server would send it."""
        metadata = {"name": self.name, "namespace": self.namespace, "uid": f"uid-{self.name}", "generation": 1, **self.metadata}
        base: dict[str, Any] = {
            "model": {"name": f"{self.name}-model", "source": "image:///models/m.gguf"},
            "engine": {"type": "LlamaCpp"},
            "replicas": 1,
            "flavors": list(self.flavors),
        }
        return {"apiVersion": "modelfleet.dev/v1alpha1", "kind": "ModelPool", "metadata": metadata, "spec": {**base, **self.spec}, "status": dict(self.status)}

    def build(self) -> ModelPool:
        return ModelPool.model_validate(self.raw())


def a_pool(name: str, namespace: str = "apps") -> PoolBuilder:
    return PoolBuilder(name, namespace)


def a_class(name: str, price: str | None = "1.00", resource: str = GPU, labels: Mapping[str, str] | None = None, **spec: Any) -> AcceleratorClass:
    """A class whose nodes carry the label ``device: <name>`` unless told otherwise."""
    full: dict[str, Any] = {
        "vendor": "Test",
        "device": name,
        "nodes": [{"resource": resource, "matchLabels": dict(labels) if labels is not None else {"device": name}}],
        **spec,
    }
    if price is not None:
        full["price"] = {"perDeviceHour": price}
    return AcceleratorClass.model_validate({"metadata": {"name": name, "uid": f"uid-{name}", "generation": 1}, "spec": full})


def a_node(
    name: str, device: str, count: int = 1, *, allocatable: int | None = None, ready: bool = True, schedulable: bool = True, labelled: bool = True
) -> Node:
    """A node with ``count`` devices of the class ``device`` (already labelled by us unless told otherwise)."""
    labels = {"device": device, **({ACCELERATOR_CLASS: device} if labelled and count else {})}
    free = {GPU: count if allocatable is None else allocatable, "cpu": 16_000}
    return Node(name, labels, {GPU: count, "cpu": 16_000}, free, ready, schedulable)


def a_cpu_node(name: str, cores: int = 4, *, reserved_milli: int = 0) -> Node:
    """A plain node of the class ``cpu``."""
    return Node(name, {"device": "cpu", ACCELERATOR_CLASS: "cpu"}, {"cpu": cores * 1000}, {"cpu": cores * 1000 - reserved_milli})


def a_pod(pool: str, flavor: str, node: str | None = None, *, index: int = 0, devices: int = 1, namespace: str = "apps", **fields: Any) -> Pod:
    """A model-server pod: ready if it has a node, unless told otherwise."""
    name = f"{pool}-{flavor}-{index}"
    values: dict[str, Any] = {"phase": "Running" if node else "Pending", "ready": node is not None, "created": NOON, **fields}
    return Pod(namespace, name, f"uid-{name}", {GPU: devices}, node, pool=pool, flavor=flavor, **values)


def a_foreign_pod(node: str, devices: int = 1, name: str = "foreign") -> Pod:
    """Somebody else's pod that holds devices."""
    return Pod("other", f"{name}-{node}", f"uid-{name}-{node}", {GPU: devices}, node, "Running", ready=True, created=NOON)


def a_policy(name: str = "assistant", *pools: str, namespace: str = "apps", status: Mapping[str, Any] | None = None, generation: int = 1) -> RoutingPolicy:
    """A policy with one entrypoint over the pools, in order."""
    names = pools or ("boss",)
    return RoutingPolicy.model_validate(
        {
            "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "generation": generation, "creationTimestamp": NOON},
            "spec": {
                "entrypoints": [{"name": "auto"}],
                "candidates": [{"name": n, "poolRef": {"name": n}} for n in names],
                "default": {"chain": list(names)},
            },
            "status": dict(status or {}),
        },
    )


def a_world(*parts: Any, now: datetime = NOON, **fields: Any) -> World:
    """A world of pools, classes, nodes, pods, policies and teams in any order; other fields by name."""
    built = [p.build() if isinstance(p, PoolBuilder) else p for p in parts]

    def of(kind: type[Any]) -> tuple[Any, ...]:
        return tuple(b for b in built if isinstance(b, kind))

    return World(
        now, pools=of(ModelPool), policies=of(RoutingPolicy), teams=of(AgentTeam), classes=of(AcceleratorClass), nodes=of(Node), pods=of(Pod), **fields
    )
