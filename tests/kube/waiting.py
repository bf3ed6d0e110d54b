"""Waiting for something to become true, and objects that several tests of this room use."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable
from typing import Any

from tests.support.apiserver import ApiServer

from modelfleet.core.render.labels import FLAVOR, MANAGED_BY, MANAGED_BY_VALUE, POOL


async def eventually(condition: Callable[[], Any], what: str, seconds: float = 90.0) -> None:
    """Wait until the condition holds; the test fails with `what` when it does not in time."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"never happened: {what}") from None


def compact(server: ApiServer, revision: str) -> None:
    """Throw away etcd's history before `revision`, through its HTTP gateway."""
    port = server._plane._settings().etcd_port
    body = json.dumps({"revision": revision, "physical": True}).encode()
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/v3/kv/compaction", body), timeout=60).read()


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def pool(namespace: str, name: str = "small", flavors: int = 1) -> dict[str, Any]:
    return {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "ModelPool",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "model": {"name": "m", "source": "hf://a/b"},
            "engine": {"type": "LlamaCpp"},
            "flavors": [{"name": f"f{i}", "acceleratorClass": "cpu"} for i in range(flavors)],
        },
    }


def policy(namespace: str, name: str = "assistant") -> dict[str, Any]:
    return {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "RoutingPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"entrypoints": [{"name": "auto"}], "candidates": [{"name": "small", "poolRef": {"name": "small"}}], "default": {"chain": ["small"]}},
    }


def team(namespace: str, name: str = "writers") -> dict[str, Any]:
    """A chain of two steps on the pool `small`."""
    roles = [{"name": "writer", "modelFrom": {"modelPoolRef": {"name": "small"}}, "sampling": {"maxTokens": 100}}]
    steps = [{"name": "draft", "role": "writer"}, {"name": "final", "role": "writer", "input": "${steps.draft.output}"}]
    return {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "AgentTeam",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"roles": roles, "strategy": {"chain": {"steps": steps}}, "budget": {"perRun": {"tokens": 20000, "wallClock": "2m"}}},
    }


def children(owner: dict[str, Any], flavor: str = "cpu") -> tuple[dict[str, Any], dict[str, Any]]:
    """A Deployment and a Service like those that the renderer makes."""
    metadata = owner["metadata"]
    labels = {POOL: metadata["name"], FLAVOR: flavor, MANAGED_BY: MANAGED_BY_VALUE}
    owners = [
        {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    meta = {"name": f"{metadata['name']}-{flavor}", "namespace": metadata["namespace"], "labels": labels, "ownerReferences": owners}
    container = {
        "name": "server",
        "image": "example/server:1",
        "args": ["--port", "8080"],
        "env": [{"name": "A", "value": "1"}, {"name": "EMPTY", "value": ""}],
        "ports": [{"name": "http", "containerPort": 8080}],
        "resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}},
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 2},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "models", "mountPath": "/models"}, {"name": "models", "mountPath": "/cache"}],
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {POOL: metadata["name"], FLAVOR: flavor}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "containers": [container],
                    "volumes": [{"name": "models", "emptyDir": {}}],
                    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
                    "automountServiceAccountToken": False,
                },
            },
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {"clusterIP": "None", "selector": {POOL: metadata["name"], FLAVOR: flavor}, "ports": [{"name": "http", "port": 8080, "targetPort": "http"}]},
    }
    return deployment, service
