"""The Deployment of a pod flavor.

Every pod flavor has one, also at 0 replicas, so that drift and order stay simple. Rendered exactly as the API server
stores it (canonical quantities, no empty fields): "what we want is a subset of what it holds" then says whether anything
must be written. Pods run under the restricted profile; a leaving pod sleeps for ``drain.timeout`` before it is told to stop,
so that its streams end while no new request reaches it (docs/adr/0003-a-leaving-replica-sleeps.md).
"""

from __future__ import annotations

from math import ceil
from typing import Any, Final

from modelfleet.api.v1alpha1 import AcceleratorClass, ModelPool
from modelfleet.api.v1alpha1.acceleratorclass import Toleration
from modelfleet.api.v1alpha1.common import API_VERSION, parse_duration
from modelfleet.api.v1alpha1.modelpool import Engine, Flavor
from modelfleet.core.plan import Manifest
from modelfleet.core.world import Defaults

from .engine import Server, server_of
from .labels import ACCELERATOR_CLASS, FLAVOR, MANAGED_BY, MANAGED_BY_VALUE, POOL
from .naming import child_name
from .quantity import canonical_quantity

__all__ = ["child_labels", "child_metadata", "deployment", "selector_labels"]

USER: Final = 10001
GRACE_AFTER_DRAIN: Final = 30
"""Seconds an engine has to stop after its drain; the default grace of Kubernetes."""
PROBE_SECONDS: Final = 5
"""A server that is busy with its model answers late and is still the best place for its requests; a crash is seen at once without probes."""
START_PROBE_SECONDS: Final = 2
START_PROBES: Final = 1800
"""An hour: a large model may have to be fetched first. Whether a start takes too long is the planner's question, not the kubelet's."""


def deployment(
    pool: ModelPool, engine: Engine, flavor: Flavor, accelerator: AcceleratorClass, *, replicas: int, defaults: Defaults, in_place: bool = False
) -> Manifest:
    """The Deployment of ``flavor`` at so many replicas. ``in_place``: a rollout stops a replica before it starts another, for want of a free device."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": child_metadata(pool, flavor.name),
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": START_PROBE_SECONDS * START_PROBES + 600,
            "selector": {"matchLabels": selector_labels(pool.metadata.name, flavor.name)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1} if in_place else {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": child_labels(pool.metadata.name, flavor.name)},
                "spec": _pod_spec(pool, server_of(pool, engine, flavor, defaults.images), flavor, accelerator, defaults),
            },
        },
    }


def selector_labels(pool: str, flavor: str) -> dict[str, str]:
    """What a flavor's pods are found by; immutable, hence only what never changes."""
    return {POOL: pool, FLAVOR: flavor}


def child_labels(pool: str, flavor: str) -> dict[str, str]:
    """Labels of every child and pod of a flavor."""
    return {MANAGED_BY: MANAGED_BY_VALUE, **selector_labels(pool, flavor)}


def child_metadata(pool: ModelPool, flavor: str) -> dict[str, Any]:
    """Name, labels and owner of a child."""
    return {
        "name": child_name(pool.metadata.name, flavor),
        "namespace": pool.metadata.namespace,
        "labels": child_labels(pool.metadata.name, flavor),
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": pool.KIND,
                "name": pool.metadata.name,
                "uid": pool.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            },
        ],
    }


def _pod_spec(pool: ModelPool, server: Server, flavor: Flavor, accelerator: AcceleratorClass, defaults: Defaults) -> dict[str, Any]:
    drain = ceil(parse_duration(pool.spec.drain.timeout))
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": drain + GRACE_AFTER_DRAIN,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "nodeSelector": _node_selector(accelerator, defaults),
        "containers": [_container(server, flavor, accelerator, drain, defaults.image_pull_policy)],
        "volumes": [{"name": "tmp", "emptyDir": {}}, *server.volumes],
    }
    if accelerator.spec.tolerations:
        spec["tolerations"] = [_toleration(t) for t in accelerator.spec.tolerations]
    return spec


def _container(server: Server, flavor: Flavor, accelerator: AcceleratorClass, drain: int, pull_policy: str) -> dict[str, Any]:
    probe = {"httpGet": {"path": server.health_path, "port": "http", "scheme": "HTTP"}, "timeoutSeconds": PROBE_SECONDS}
    container: dict[str, Any] = {
        "name": "server",
        "image": server.image,
        "imagePullPolicy": pull_policy,
        "env": [{"name": name, "value": value} if value else {"name": name} for name, value in server.env],
        "ports": [{"name": "http", "containerPort": server.port, "protocol": "TCP"}],
        "startupProbe": {**probe, "periodSeconds": START_PROBE_SECONDS, "failureThreshold": START_PROBES},
        "readinessProbe": {**probe, "periodSeconds": PROBE_SECONDS, "failureThreshold": 3},
        "resources": _resources(server, flavor, accelerator),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *server.mounts],  # noqa: S108 - an emptyDir
    }
    if server.args:
        container["args"] = list(server.args)
    if drain:
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": drain}}}
    return container


def _resources(server: Server, flavor: Flavor, accelerator: AcceleratorClass) -> dict[str, Any]:
    resource, devices = accelerator.spec.nodes[0].resource, canonical_quantity(str(flavor.devices or 1))
    requests, limits = dict(server.requests), dict(server.limits)
    if resource == "cpu":
        requests.setdefault("cpu", devices)
    else:
        requests[resource] = limits[resource] = devices
    return {"requests": requests, "limits": limits} if limits else {"requests": requests}


def _node_selector(accelerator: AcceleratorClass, defaults: Defaults) -> dict[str, str]:
    exact = accelerator.spec.nodes[0].match_labels
    if not defaults.label_nodes and exact:
        return dict(sorted(exact.items()))
    return {ACCELERATOR_CLASS: accelerator.metadata.name}


def _toleration(toleration: Toleration) -> dict[str, Any]:
    return {k: v for k, v in toleration.model_dump(by_alias=True, exclude_none=True).items() if v != ""}
