"""World: one frozen snapshot of everything a plan may depend on.

The mirror fills it (``kube/mirror.py``), tests build it by hand. Records are slim: what no decision reads is not here.
The planner's own memory (timers of fallback and return) is what it wrote into the pools' status; losing it restarts a timer and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from modelfleet.api.parse import InvalidObject
from modelfleet.api.v1alpha1 import AcceleratorClass, AgentTeam, ModelPool, RoutingPolicy

__all__ = ["Defaults", "EndpointHealth", "Gateway", "Node", "Pod", "Served", "Telemetry", "Workload", "World"]


@dataclass(frozen=True, slots=True)
class Node:
    """A node. Quantities: whole devices for extended resources, millicores for ``cpu``, bytes for ``memory``."""

    name: str
    labels: Mapping[str, str]
    capacity: Mapping[str, int]
    allocatable: Mapping[str, int]
    ready: bool = True
    schedulable: bool = True


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the cluster, ours or not (``pool`` and ``flavor`` are set on ours, from labels). ``requests`` as in Node.

    ``revision``: which template of its Deployment it was made from (``pod-template-hash``), empty where there is none.
    """

    namespace: str
    name: str
    uid: str
    requests: Mapping[str, int]
    node: str | None = None
    phase: str = "Pending"
    ready: bool = False
    deleting: bool = False
    created: datetime | None = None
    unschedulable_since: datetime | None = None
    unschedulable_message: str = ""
    waiting_reason: str = ""
    restarts: int = 0
    pool: str | None = None
    flavor: str | None = None
    revision: str = ""

    @property
    def holds_devices(self) -> bool:
        """True while the scheduler counts its requests against its node."""
        return self.node is not None and self.phase not in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment of ours. ``failure`` is the ReplicaFailure condition's message (a quota, a refused pod), empty if none.

    ``in_place``: a rollout stops a replica before it starts another (maxSurge 0). ``owners``: uids of the pools that own it.
    """

    namespace: str
    name: str
    pool: str
    flavor: str
    replicas: int
    failure: str = ""
    in_place: bool = False
    owners: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Served:
    """Tokens that routers saw a flavor of a pool serve in the last ``window`` seconds (at most 600)."""

    pool: str
    flavor: str
    input_tokens: int
    output_tokens: int
    window: float


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """What routers say of a remote endpoint: ``reason`` is empty when up, else KeyRefused, Unreachable, RateLimited or SecretMissing."""

    pool: str
    flavor: str
    up: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What was scraped. ``fresh`` False: hold or grow, never shrink on its word."""

    served: tuple[Served, ...] = ()
    endpoints: tuple[EndpointHealth, ...] = ()
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway pod (Envoy and router) as the API server sees it. ``address`` is the pod's IP, empty until it has one."""

    name: str
    ready: bool = True
    address: str = ""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the installer chose: engine images by engine type, whether nodes may be labelled, the pull policy of model servers."""

    images: Mapping[str, str] = field(
        default_factory=lambda: {
            "LlamaCpp": "ghcr.io/ggml-org/llama.cpp:server",
            "VLLM": "docker.io/vllm/vllm-openai:v0.11.0",
        }
    )
    label_nodes: bool = True
    image_pull_policy: str = "IfNotPresent"


@dataclass(frozen=True, slots=True)
class World:
    """See the module. ``pools`` and the rest are sorted by key; ``invalid`` are objects of our kinds that do not parse."""

    now: datetime
    pools: tuple[ModelPool, ...] = ()
    policies: tuple[RoutingPolicy, ...] = ()
    teams: tuple[AgentTeam, ...] = ()
    classes: tuple[AcceleratorClass, ...] = ()
    invalid: tuple[InvalidObject, ...] = ()
    nodes: tuple[Node, ...] = ()
    pods: tuple[Pod, ...] = ()
    workloads: tuple[Workload, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    telemetry: Telemetry = Telemetry()
    defaults: Defaults = field(default_factory=Defaults)
