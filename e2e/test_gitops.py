"""Promise: whoever applies the same manifests again, once or every ten seconds, causes no write of ours, no flapping, and sees nothing of ours in a diff."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.policies.judges import ArgoCD, kstatus

from e2e.cluster import ROOT
from e2e.fleet import DEMO, Fleet
from modelfleet.kube.client import Client
from modelfleet.kube.resources import OURS

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

ARGO = ArgoCD(ROOT / "policies" / "gitops" / "argocd-health.yaml")
KINDS = "modelpools,routingpolicies,agentteams"
FLUX = "kustomize-controller"
EVERY = 10.0
WELL = ("Current", "Healthy")


def test_the_same_manifests_applied_twice_cause_no_write(fleet: Fleet) -> None:
    time.sleep(3)
    before = versions(fleet)
    fleet.apply(*fleet.example())
    time.sleep(8)
    assert versions(fleet) == before


def test_nothing_the_operator_owns_appears_in_the_users_diff(fleet: Fleet) -> None:
    done = fleet.cluster.run(fleet.cluster.kubectl_bin, "diff", "-f", "-", stdin=yaml.safe_dump_all(fleet.example()), check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("seconds", [40.0, pytest.param(300.0, marks=pytest.mark.faults)])
def test_two_controllers_that_apply_every_ten_seconds_cause_no_write_and_no_flapping(fleet: Fleet, seconds: float) -> None:
    """One applies as `kubectl apply` does, the other as Flux: server-side, as a manager of its own."""
    try:
        fleet.apply(*fleet.example())
        asyncio.run(apply_by_flux(fleet))
        time.sleep(3)
        before, seen = versions(fleet), [health(fleet)]
        assert set(seen[0].values()) == {WELL}, seen[0]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            fleet.apply(*fleet.example())
            asyncio.run(apply_by_flux(fleet))
            until = time.monotonic() + EVERY
            while time.monotonic() < until:
                seen.append(health(fleet))
                time.sleep(2)
        assert versions(fleet) == before
        assert [h for h in seen if h != seen[0]] == []
    finally:
        asyncio.run(apply_by_flux(fleet, release=True))


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
