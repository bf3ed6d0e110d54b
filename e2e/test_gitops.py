"""Promise: whoever applies the same manifests again, once or every ten seconds, causes no write of ours, no flapping, and sees nothing of ours in a diff."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.policies.judges import ArgoCD, kstatus

from e2e.cluster import ROOT, wait_until
from e2e.fleet import DEMO, SYSTEM, Fleet
from modelfleet.kube.client import Client
from modelfleet.kube.resources import OURS

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]

ARGO = ArgoCD(ROOT / "policies" / "gitops" / "argocd-health.yaml")
KINDS = "modelpools,routingpolicies,agentteams"
FLUX = "kustomize-controller"
EVERY = 10.0
WELL = ("Current", "Healthy")


def test_the_same_manifests_applied_twice_cause_no_write(fleet: Fleet) -> None:
    while True:
        before, stirred = at_rest(fleet), by_themselves(fleet)
        fleet.apply(*fleet.example())
        time.sleep(8)
        after = versions(fleet)
        if by_themselves(fleet) == stirred:
            break
    assert after == before


def test_nothing_the_operator_owns_appears_in_the_users_diff(fleet: Fleet) -> None:
    done = fleet.cluster.run(fleet.cluster.kubectl_bin, "diff", "-f", "-", stdin=yaml.safe_dump_all(fleet.example()), check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("seconds", [40.0, pytest.param(300.0, marks=pytest.mark.faults)])
def test_two_controllers_that_apply_every_ten_seconds_cause_no_write_and_no_flapping(fleet: Fleet, seconds: float) -> None:
    """One applies as `kubectl apply` does, the other as Flux: server-side, as a manager of its own."""
    try:
        fleet.apply(*fleet.example())
        asyncio.run(apply_by_flux(fleet))
        while True:
            fleet.settle()
            before, stirred = at_rest(fleet), by_themselves(fleet)
            seen = both_apply(fleet, seconds)
            after = versions(fleet)
            if by_themselves(fleet) == stirred:
                break
        assert set(seen[0].values()) == {WELL}, seen[0]
        assert after == before
        assert [h for h in seen if h != seen[0]] == []
    finally:
        asyncio.run(apply_by_flux(fleet, release=True))


def both_apply(fleet: Fleet, seconds: float) -> list[dict[str, tuple[str, str]]]:
    """Both controllers at work for so long; the health of every object, looked at all the while."""
    seen, end = [health(fleet)], time.monotonic() + seconds
    while time.monotonic() < end:
        fleet.apply(*fleet.example())
        asyncio.run(apply_by_flux(fleet))
        until = time.monotonic() + EVERY
        while time.monotonic() < until:
            seen.append(health(fleet))
            time.sleep(2)
    return seen


def at_rest(fleet: Fleet) -> dict[str, Any]:
    """The versions, once they stand still: what an earlier test stirred has settled."""
    seen = [versions(fleet)]

    def still() -> bool:
        seen.append(versions(fleet))
        return len(seen) > 2 and seen[-1] == seen[-2] == seen[-3]

    wait_until(still, 180, "the objects to stand still", every=3.0)
    return seen[-1]


def by_themselves(fleet: Fleet) -> dict[str, Any]:
    """What moves statuses without anybody's apply: pods that start, die, or miss a probe on a busy machine. Where it moved, the look is taken again."""
    found = {}
    for namespace in (DEMO, SYSTEM):
        for pod in fleet.cluster.get("pods", namespace=namespace)["items"]:
            ready = [c.get("lastTransitionTime") for c in pod["status"].get("conditions", ()) if c["type"] == "Ready"]
            found[pod["metadata"]["uid"]] = (ready, [c["restartCount"] for c in pod["status"].get("containerStatuses", ())])
    return found


def versions(fleet: Fleet) -> dict[str, Any]:
    lists = fleet.cluster.get(f"{KINDS},deployments,services", namespace=DEMO)["items"]
    return {f"{o['kind']}/{o['metadata']['name']}": _version(o) for o in lists}


def _version(obj: dict[str, Any]) -> Any:
    """What moves with any write. A pool's status follows its traffic, so for a pool: who last wrote anything else, and when."""
    metadata = obj["metadata"]
    if obj["kind"] != "ModelPool":
        return metadata["resourceVersion"]
    return metadata["generation"], sorted((f["manager"], f.get("time", "")) for f in metadata["managedFields"] if f.get("subresource") != "status")


def health(fleet: Fleet) -> dict[str, tuple[str, str]]:
    """What Flux and Argo CD say of each object of the example."""
    return {f"{o['kind']}/{o['metadata']['name']}": (kstatus(o), ARGO.health(o)[0]) for o in fleet.cluster.get(KINDS, namespace=DEMO)["items"]}


async def apply_by_flux(fleet: Fleet, *, release: bool = False) -> None:
    """Server-side apply of our kinds of the example. ``release``: own nothing any more, so that later tests find the objects as they were."""
    resources = {r.kind: r for r in OURS}
    client = await Client.connect("gitops-test", Path(fleet.cluster.kubeconfig or ""))
    try:
        for manifest in fleet.example():
            if manifest["kind"] in resources:
                body = {} if release else manifest
                await client.apply(resources[manifest["kind"]], DEMO, manifest["metadata"]["name"], body, FLUX)
    finally:
        await client.close()
