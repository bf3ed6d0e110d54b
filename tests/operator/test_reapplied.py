"""A GitOps controller that applies the same manifests again and again costs no write of ours, and health does not flap."""

from __future__ import annotations

import asyncio
from typing import Any

import yaml
from tests.operator.running import GPU, eventually, is_work, resting, told
from tests.policies.judges import ArgoCD, kstatus
from tests.support.apiserver import CHECKOUT

from modelfleet.kube.resources import OURS, PODS

ARGO = ArgoCD(CHECKOUT / "policies" / "gitops" / "argocd-health.yaml")
ROUNDS, PAUSE = 10, 0.5
FLUX = "kustomize-controller"


def manifests(fleet: Any) -> list[dict[str, Any]]:
    policy = {
        "apiVersion": "modelfleet.dev/v1alpha1", "kind": "RoutingPolicy", "metadata": {"namespace": fleet.namespace, "name": "assistant"},
        "spec": {"entrypoints": [{"name": "auto"}], "candidates": [{"name": "small", "poolRef": {"name": "small"}}], "default": {"chain": ["small"]}},
    }  # fmt: skip
    team = {
        "apiVersion": "modelfleet.dev/v1alpha1", "kind": "AgentTeam", "metadata": {"namespace": fleet.namespace, "name": "readers"},
        "spec": {
            "roles": [{"name": "boss", "modelFrom": {"modelPoolRef": {"name": "small"}}, "sampling": {"maxTokens": 64}}],
            "strategy": {"chain": {"steps": [{"name": "answer", "role": "boss"}]}},
            "budget": {"perRun": {"cost": "0.01", "wallClock": "60s"}},
        },
    }  # fmt: skip
    return [fleet.pool("small"), fleet.pool("boss", replicas=0), policy, team]


async def test_two_controllers_apply_the_same_again_and_again(fleet, server, proxy, start, tmp_path):
    async def apply_by_kubectl() -> None:
        await asyncio.to_thread(server.kubectl, "apply", "-f", "-", input=yaml.safe_dump_all(manifests(fleet)), check=True)

    async def apply_by_flux() -> None:
        resources = {r.kind: r for r in OURS}
        for manifest in manifests(fleet):
            await fleet.client.apply(resources[manifest["kind"]], fleet.namespace, manifest["metadata"]["name"], manifest, FLUX)

    def objects() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = server.get("modelpools,routingpolicies,agentteams,deployments,services", "-n", fleet.namespace)["items"]
        return found

    def health() -> dict[str, tuple[str, str]]:
        ours = [o for o in objects() if o["apiVersion"].startswith("modelfleet.dev/")] + server.get("acceleratorclasses")["items"]
        return {f"{o['kind']}/{o['metadata']['name']}": (kstatus(o), ARGO.health(o)[0]) for o in ours}

    await fleet.a_class()
    await fleet.a_node()
    await apply_by_kubectl()
    await apply_by_flux()
    await a_pod_that_serves(fleet)
    operator = start(proxy.kubeconfig(tmp_path), PACE_RESYNC="0.5")
    await operator.leads()
    well = ("Current", "Healthy")
    settled = {"ModelPool/small": well, "ModelPool/boss": well, "AcceleratorClass/gpu": well, "RoutingPolicy/assistant": ("InProgress", "Progressing")}
    await eventually(lambda: settled.items() <= health().items(), lambda: f"{health()}\n{operator.story()}")
    await eventually(lambda: resting(operator, proxy), operator.story)

    proxy.reset()
    cycles = await operator.metric("modelfleet_operator_cycles_total")
    versions, seen = {o["metadata"]["uid"]: o["metadata"]["resourceVersion"] for o in objects()}, [health()]
    for number in range(ROUNDS):
        await (apply_by_flux() if number % 2 else apply_by_kubectl())
        seen.append(health())
        await asyncio.sleep(PAUSE)
    assert told([w for w in proxy.written() if is_work(w)]) == []
    assert {o["metadata"]["uid"]: o["metadata"]["resourceVersion"] for o in objects()} == versions
    assert [h for h in seen if h != seen[0]] == []
    assert await operator.metric("modelfleet_operator_cycles_total") >= cycles + 5, "it looked, and found nothing to do"


async def a_pod_that_serves(fleet: Any, pool: str = "small") -> None:
    """As the Deployment controller, the scheduler and the kubelet would bring it about."""
    labels = {"modelfleet.dev/pool": pool, "modelfleet.dev/flavor": "card", "app.kubernetes.io/managed-by": "modelfleet"}
    spec = {"nodeName": "node-1", "containers": [{"name": "c", "image": "i", "resources": {"limits": {GPU: "1"}}}]}
    await fleet.client.create(PODS, fleet.namespace, {"metadata": {"name": f"{pool}-0", "labels": labels}, "spec": spec})
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    await fleet.client.merge_patch(PODS, fleet.namespace, f"{pool}-0", {"status": status}, subresource="status")
