"""Promise: a full class is skipped at once, pods that will not schedule give way after pendingTimeout, and each flavor says why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from e2e.cluster import wait_until
from e2e.fleet import DEMO, SYSTEM, Fleet
from e2e.lab.provider import LIMIT_PER_MINUTE

pytestmark = pytest.mark.lab


def a_pool(fleet: Fleet, name: str, *flavors: dict[str, Any]) -> dict[str, Any]:
    """A pool of the example's model on other flavors."""
    spec = fleet.pool("small")["spec"] | {"flavors": list(flavors), "model": {"name": name, "source": "image:///models/smollm2-135m-instruct.gguf"}}
    spec["placement"] = {"policy": "Ordered", "pendingTimeout": "25s", "migrateBack": {"after": "5m"}}
    return {"apiVersion": "modelfleet.dev/v1alpha1", "kind": "ModelPool", "metadata": {"name": name, "namespace": DEMO}, "spec": spec}


@contextmanager
def applied(fleet: Fleet, pool: dict[str, Any]) -> Iterator[str]:
    """The pool, for as long as the block runs; afterwards it and its children are gone."""
    name = pool["metadata"]["name"]
    fleet.apply(pool)
    try:
        yield name
    finally:
        fleet.cluster.kubectl("delete", "modelpool", name, "-n", DEMO, "--wait")
        selector = f"modelfleet.dev/pool={name}"
        wait_until(lambda: not fleet.cluster.get("deployments,services,pods", namespace=DEMO, selector=selector)["items"], 270, f"the children of {name} to go")


def seen(fleet: Fleet, pool: str) -> str:
    """The pool's status and its pods, for a failure's message."""
    return f"{fleet.pool(pool).get('status')} {fleet.cluster.kubectl('get', 'pods', '-n', DEMO, '-o', 'wide')}"


CPU = {"name": "cpu", "acceleratorClass": "cpu", "engine": {"resources": {"requests": {"cpu": "100m", "memory": "300Mi"}}}}


def test_a_full_class_is_skipped_at_once_and_the_reason_names_the_devices(fleet: Fleet) -> None:
    with applied(fleet, a_pool(fleet, "second", {"name": "h100", "acceleratorClass": "nvidia-h100-80gb", "devices": 1}, CPU)) as name:
        wait_until(lambda: fleet.flavor(name, "cpu").get("ready") == 1, 450, "the cpu flavor to serve", explain=lambda: seen(fleet, name))
        h100 = fleet.flavor(name, "h100")
        assert (h100["reason"], h100["desired"]) == ("NoFreeDevice", 0)
        assert "0 of 1 devices free" in h100["message"]
        assert fleet.pods(name, "h100") == []
        assert fleet.flavor("boss", "h100")["ready"] == 1


def test_pods_that_do_not_schedule_give_way_after_the_pending_timeout(fleet: Fleet) -> None:
    hungry = {"resources": {"requests": {"cpu": "100m", "memory": "900Gi"}, "limits": {"memory": "900Gi"}}}
    with applied(fleet, a_pool(fleet, "hungry", {"name": "l4", "acceleratorClass": "nvidia-l4", "devices": 1, "engine": hungry}, CPU)) as name:
        (pod,) = wait_until(lambda: fleet.pods(name, "l4"), 180, "a pod on the first flavor")
        assert pod["status"]["phase"] == "Pending"
        wait_until(lambda: fleet.flavor(name, "cpu").get("ready") == 1, 450, "the cpu flavor to serve", explain=lambda: seen(fleet, name))
        l4 = fleet.flavor(name, "l4")
        assert l4["reason"] == "PendingTimeout"
        assert "memory" in l4["message"]
        assert l4["retryAfter"]
        wait_until(lambda: not fleet.pods(name, "l4"), 180, "the stuck pod to be given up")


def test_a_rate_limited_endpoint_is_left_for_the_next_candidate(fleet: Fleet) -> None:
    from e2e.demo import LONG
    from e2e.test_faults import boss_without_devices

    provider = fleet.cluster.lab.provider if fleet.cluster.lab else None
    assert provider is not None
    with boss_without_devices(fleet):
        provider.configure(limit=0)
        try:
            answer = fleet.ask(LONG, max_tokens=8)
            assert answer.pool == f"{DEMO}/small"
            assert answer.attempts > 1
        finally:
            provider.configure(limit=LIMIT_PER_MINUTE)


def test_no_key_is_in_any_log_status_or_event(fleet: Fleet) -> None:
    assert fleet.cluster.lab is not None
    key = fleet.cluster.lab.provider.key
    kubectl = fleet.cluster.kubectl
    told = [kubectl("get", "modelpools,routingpolicies,acceleratorclasses,events,deployments,services", "-A", "-o", "yaml", "--show-managed-fields")]
    told += [
        kubectl("logs", "-n", SYSTEM, "-l", f"app.kubernetes.io/component={component}", "--all-containers", "--tail=-1", "--prefix")
        for component in ("operator", "gateway")
    ]
    told += [str(sample) for sample in fleet.router_metrics()]
    assert all(told)
    assert not [text[:200] for text in told if key in text]
