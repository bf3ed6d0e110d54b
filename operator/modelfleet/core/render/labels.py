"""Labels, annotations and field managers: the names by which our objects find each other."""

from __future__ import annotations

from typing import Final

__all__ = [
    "ACCELERATOR_CLASS",
    "COMPONENT",
    "FLAVOR",
    "GATEWAY_SELECTOR",
    "MANAGED_BY",
    "MANAGED_BY_VALUE",
    "MANAGER_CHILDREN",
    "MANAGER_NODES",
    "MANAGER_ROUTER_PREFIX",
    "MANAGER_STATUS",
    "MANAGER_TEAMS",
    "PAUSED",
    "POOL",
]

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY_VALUE: Final = "modelfleet"
COMPONENT: Final = "app.kubernetes.io/component"
POOL: Final = "modelfleet.dev/pool"
"""On Deployments, Services (hence EndpointSlices) and pods of a pool: the pool's name."""
FLAVOR: Final = "modelfleet.dev/flavor"
ACCELERATOR_CLASS: Final = "modelfleet.dev/accelerator-class"
"""On nodes: the class they belong to; model-server pods select it."""
PAUSED: Final = "modelfleet.dev/paused"
GATEWAY_SELECTOR: Final = f"{COMPONENT}=gateway,app.kubernetes.io/part-of=modelfleet"

MANAGER_CHILDREN: Final = "modelfleet"
MANAGER_STATUS: Final = "modelfleet-status"
MANAGER_NODES: Final = "modelfleet-nodes"
MANAGER_TEAMS: Final = "modelfleet-teams"
MANAGER_ROUTER_PREFIX: Final = "modelfleet-router-"
