"""The resources that modelfleet reads or writes, and the paths under which the API server keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from modelfleet.api.v1alpha1 import AcceleratorClass, AgentTeam, ModelPool, RoutingPolicy
from modelfleet.api.v1alpha1.common import GROUP, VERSION

__all__ = [
    "ACCELERATOR_CLASSES",
    "AGENT_TEAMS",
    "CRDS",
    "DEPLOYMENTS",
    "ENDPOINT_SLICES",
    "EVENTS",
    "LEASES",
    "MODEL_POOLS",
    "NAMESPACES",
    "NODES",
    "OURS",
    "PODS",
    "ROUTING_POLICIES",
    "SECRETS",
    "SERVICES",
    "Resource",
    "object_key",
    "of_kind",
]


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource of the API server. ``group`` is empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """``v1`` or ``<group>/<version>``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of a collection, an object or its subresource; without namespace, all namespaces."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        parts += [quote(part, safe="") for part in (name, subresource) if part]
        return "/".join(parts)


MODEL_POOLS: Final = Resource(GROUP, VERSION, ModelPool.PLURAL, ModelPool.KIND)
AGENT_TEAMS: Final = Resource(GROUP, VERSION, AgentTeam.PLURAL, AgentTeam.KIND)
ROUTING_POLICIES: Final = Resource(GROUP, VERSION, RoutingPolicy.PLURAL, RoutingPolicy.KIND)
ACCELERATOR_CLASSES: Final = Resource(GROUP, VERSION, AcceleratorClass.PLURAL, AcceleratorClass.KIND, namespaced=False)
NODES: Final = Resource("", "v1", "nodes", "Node", namespaced=False)
NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
PODS: Final = Resource("", "v1", "pods", "Pod")
SERVICES: Final = Resource("", "v1", "services", "Service")
SECRETS: Final = Resource("", "v1", "secrets", "Secret")
EVENTS: Final = Resource("", "v1", "events", "Event")
DEPLOYMENTS: Final = Resource("apps", "v1", "deployments", "Deployment")
ENDPOINT_SLICES: Final = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease")
CRDS: Final = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)

OURS: Final = (ACCELERATOR_CLASSES, MODEL_POOLS, ROUTING_POLICIES, AGENT_TEAMS)

_BY_KIND: Final = {r.kind: r for r in (*OURS, NODES, PODS, SERVICES, SECRETS, EVENTS, DEPLOYMENTS, ENDPOINT_SLICES, LEASES)}


def of_kind(kind: str) -> Resource:
    """The resource of a kind that we know; raises KeyError for any other."""
    return _BY_KIND[kind]


def object_key(namespace: str | None, name: str) -> str:
    """``<namespace>/<name>``, or ``<name>`` for a cluster-scoped object: the key used everywhere."""
    return f"{namespace}/{name}" if namespace else name
