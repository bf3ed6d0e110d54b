"""The API server's door, over HTTP: create, update and read our kinds, and what it says when it refuses."""

from __future__ import annotations

import copy
import ssl
from typing import Any

import httpx
from tests.support.apiserver import ApiServer

from modelfleet.api.v1alpha1 import API_VERSION, KINDS, Kind

POOL: dict[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": "ModelPool",
    "metadata": {"name": "boss", "namespace": "default"},
    "spec": {
        "model": {"name": "boss", "source": "image:///models/boss.gguf"},
        "engine": {"type": "LlamaCpp"},
        "flavors": [
            {"name": "h100", "acceleratorClass": "nvidia-h100-80gb", "devices": 1},
            {
                "name": "burst",
                "endpoint": {"url": "https://api.example.com/v1", "model": "boss", "price": {"inputPerMillion": "0.20", "outputPerMillion": "0.40"}},
            },
        ],
    },
}
CLASS: dict[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": "AcceleratorClass",
    "metadata": {"name": "nvidia-h100-80gb"},
    "spec": {"vendor": "NVIDIA", "device": "H100-SXM-80GB", "nodes": [{"resource": "nvidia.com/gpu"}], "price": {"perDeviceHour": "6.88"}},
}
POLICY: dict[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": "RoutingPolicy",
    "metadata": {"name": "assistant", "namespace": "default"},
    "spec": {
        "entrypoints": [{"name": "auto"}],
        "candidates": [{"name": "small", "poolRef": {"name": "small"}}, {"name": "boss", "poolRef": {"name": "boss"}}],
        "default": {"chain": ["boss"]},
        "rules": [{"name": "short", "match": {"inputTokens": {"max": 500}}, "candidates": ["small", "boss"]}],
    },
}
TEAM: dict[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": "AgentTeam",
    "metadata": {"name": "readers", "namespace": "default"},
    "spec": {
        "description": "Reads long contracts and answers questions",
        "roles": [
            {
                "name": "boss",
                "modelFrom": {"routingPolicyRef": {"name": "assistant"}},
                "instructions": "Answer from the findings only. Cite the clause.",
                "sampling": {"temperature": "0.2", "topP": "1", "maxTokens": 1200},
            },
            {
                "name": "reader",
                "modelFrom": {"modelPoolRef": {"name": "small"}},
                "sampling": {"temperature": "0", "maxTokens": 200},
                "maxConcurrent": 64,
                "outputSchema": {
                    "type": "object",
                    "required": ["relevant", "finding"],
                    "properties": {"relevant": {"type": "boolean"}, "finding": {"type": "string", "maxLength": 600}},
                },
            },
        ],
        "strategy": {
            "mapReduce": {
                "plan": {"role": "boss", "maxTasks": 2},
                "split": {"by": "Chunk", "tokens": 800, "overlap": 80, "maxItems": 200},
                "map": {"role": "reader", "dropWhen": {"field": "relevant", "oneOf": ["false"]}},
                "reduce": {"role": "boss", "fanIn": 32},
                "minSuccessful": "80%",
                "onBranchFailure": "Continue",
            },
        },
        "budget": {"perRun": {"cost": "0.50", "wallClock": "120s", "tokens": 600000, "modelCalls": 600}},
    },
}
"""A mapReduce, as in the documentation."""
CHAIN: dict[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": "AgentTeam",
    "metadata": {"name": "writers", "namespace": "default"},
    "spec": {
        "roles": [
            {
                "name": "clerk",
                "modelFrom": {"modelPoolRef": {"name": "small"}},
                "sampling": {"maxTokens": 20},
                "outputSchema": {"type": "object", "required": ["kind"], "properties": {"kind": {"enum": ["simple", "hard"]}}},
            },
            {"name": "writer", "modelFrom": {"modelPoolRef": {"name": "boss"}}, "sampling": {"maxTokens": 800}, "retries": {"max": 1}},
            {
                "name": "critic",
                "modelFrom": {"modelPoolRef": {"name": "small"}},
                "sampling": {"maxTokens": 100},
                "outputSchema": {
                    "type": "object",
                    "required": ["accept", "remarks"],
                    "properties": {"accept": {"type": "boolean"}, "remarks": {"type": "string"}},
                },
            },
        ],
        "strategy": {
            "chain": {
                "steps": [
                    {"name": "triage", "role": "clerk"},
                    {"name": "outline", "role": "writer", "when": {"step": "triage", "field": "kind", "oneOf": ["hard"]}, "onFailure": "Skip"},
                    {"name": "draft", "role": "writer", "input": "${input}\n\n${steps.outline.output}"},
                    {"name": "review", "role": "critic", "input": "${input}\n\n${steps.draft.output}"},
                    {"name": "final", "role": "writer", "input": "${steps.draft.output}\n\n${steps.review.output.remarks}"},
                ],
                "repeat": {"from": "draft", "to": "review", "until": {"step": "review", "field": "accept", "oneOf": ["true"]}, "maxIterations": 2},
            },
        },
        "budget": {"perRun": {"tokens": 20000, "wallClock": "5m"}, "onExhausted": "Fail"},
        "journal": {"content": "None"},
    },
}
"""A chain, as in the documentation."""
BASES = {"ModelPool": POOL, "AcceleratorClass": CLASS, "RoutingPolicy": POLICY, "AgentTeam": TEAM}


def but(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy of the object with fields set by path (`spec__flavors`, `spec__flavors__0__devices`); None removes one."""
    made = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, last = path.split("__")
        node: Any = made
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if value is None:
            node.pop(last, None)
        elif isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
    return made


class Door:
    """Speaks to one API server; answers are (HTTP status, body)."""

    def __init__(self, server: ApiServer) -> None:
        context = ssl.create_default_context(cafile=str(server.ca_file))
        self._client = httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.token}"}, verify=context, timeout=30)

    def close(self) -> None:
        self._client.close()

    def create(self, obj: dict[str, Any], *, dry_run: bool = True) -> tuple[int, dict[str, Any]]:
        answer = self._client.post(self._folder(obj), json=obj, params={"dryRun": "All"} if dry_run else {})
        return answer.status_code, answer.json()

    def update(self, obj: dict[str, Any], *, part: str = "", dry_run: bool = False) -> tuple[int, dict[str, Any]]:
        path = f"{self._folder(obj)}/{obj['metadata']['name']}{part}"
        current = self._client.get(path).json()
        body = {**obj, "metadata": {**obj["metadata"], "resourceVersion": current["metadata"]["resourceVersion"]}}
        answer = self._client.put(path, json=body, params={"dryRun": "All"} if dry_run else {})
        return answer.status_code, answer.json()

    def delete(self, obj: dict[str, Any]) -> None:
        self._client.delete(f"{self._folder(obj)}/{obj['metadata']['name']}")

    @staticmethod
    def _folder(obj: dict[str, Any]) -> str:
        kind = kind_of(obj["kind"])
        namespace = f"/namespaces/{obj['metadata']['namespace']}" if kind.SCOPE == "Namespaced" else ""
        return f"/apis/{API_VERSION}{namespace}/{kind.PLURAL}"


def kind_of(name: str) -> type[Kind]:
    return next(kind for kind in KINDS if name == kind.KIND)
