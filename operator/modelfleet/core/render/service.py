"""The Service of a pod flavor: headless, there so that the cluster keeps EndpointSlices with the flavor's labels, which routers read."""

from __future__ import annotations

from modelfleet.api.v1alpha1 import ModelPool
from modelfleet.api.v1alpha1.modelpool import Engine, Flavor
from modelfleet.core.plan import Manifest

from .deployment import child_metadata, selector_labels
from .engine import DEFAULT_PORTS

__all__ = ["service"]


def service(pool: ModelPool, engine: Engine, flavor: Flavor) -> Manifest:
    """The Service of ``flavor``; addresses that are not ready are not published, which is the default."""
    port = engine.port or DEFAULT_PORTS[engine.type]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(pool, flavor.name),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "selector": selector_labels(pool.metadata.name, flavor.name),
            "ports": [{"name": "http", "port": port, "targetPort": "http", "protocol": "TCP"}],
        },
    }
