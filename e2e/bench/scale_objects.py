"""The fleet of `make bench-scale`: pools of two flavors, classes, nodes, and pods that say they are ready. Plain objects; nothing of it runs."""

from __future__ import annotations

from typing import Any

NAMESPACES = tuple(f"scale-{n}" for n in range(10))
GPU = "example.com/gpu"
CARDS = tuple(f"card-{n}" for n in range(4))
PER_NODE = 16
NODES = 200


def namespace(name: str) -> dict[str, Any]:
    """A namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def accelerator_class(card: str) -> dict[str, Any]:
    """The class of the nodes that carry the card."""
    spec = {"vendor": "Any", "device": card, "nodes": [{"resource": GPU, "matchLabels": {"example.com/card": card}}], "price": {"perDeviceHour": "1.50"}}
    return {"metadata": {"name": card}, "spec": spec}


def node(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A node that has its label already, and what is patched into it: admission gives every new node a taint that no controller takes away here."""
    amounts = {"cpu": "128", "memory": "1Ti", "pods": "250", GPU: str(PER_NODE)}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ok"}
    card = CARDS[number % len(CARDS)]
    metadata = {"name": f"node-{number:03}", "labels": {"example.com/card": card, "modelfleet.dev/accelerator-class": card}}
    made = {"metadata": metadata, "status": {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}}
    return made, {"spec": {"taints": None}}


def pool_name(number: int) -> str:
    """The names of pools sort as their numbers."""
    return f"pool-{number:04}"


def pool_namespace(number: int) -> str:
    """Pools are spread evenly."""
    return NAMESPACES[number % len(NAMESPACES)]


def pool(number: int) -> dict[str, Any]:
    """A pool of one replica on the first of two cards."""
    cards = CARDS[number % len(CARDS)], CARDS[(number + 1) % len(CARDS)]
    flavors = [
        {"name": name, "acceleratorClass": card, "devices": 1, "capacity": {"tokensPerSecond": rate, "concurrency": 8}}
        for name, card, rate in zip(("first", "second"), cards, (1000, 500), strict=True)
    ]
    spec = {
        "model": {"name": f"model-{number}", "source": "hf://org/model"},
        "engine": {"type": "VLLM", "resources": {"requests": {"cpu": "1", "memory": "8Gi"}}},
        "flavors": flavors,
        "replicas": 1,
        "scaling": {"mode": "Manual", "min": 0, "max": 8},
    }
    return {"metadata": {"name": pool_name(number), "namespace": pool_namespace(number)}, "spec": spec}


def change(seconds: int) -> dict[str, Any]:
    """The change that is followed: it alters both Deployments of the pool and no placement."""
    return {"spec": {"drain": {"timeout": f"{seconds}s"}}}


def ready_pod(deployment: dict[str, Any], number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A pod of a Deployment on a node of its card, and the status that makes it ready."""
    metadata, template = deployment["metadata"], deployment["spec"]["template"]
    card = template["spec"]["nodeSelector"]["modelfleet.dev/accelerator-class"]
    of_card = NODES // len(CARDS)
    host = CARDS.index(card) + len(CARDS) * (number % of_card)
    container = {"name": "server", "image": "none", "resources": template["spec"]["containers"][0]["resources"]}
    made = {
        "metadata": {"name": f"{metadata['name']}-0", "namespace": metadata["namespace"], "labels": template["metadata"]["labels"]},
        "spec": {"nodeName": f"node-{host:03}", "containers": [container], "terminationGracePeriodSeconds": 0},
    }
    return made, {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
