"""Raw objects become the records that decisions read."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from modelfleet.core.render.labels import FLAVOR, MANAGED_BY, MANAGED_BY_VALUE, POOL
from modelfleet.core.routing.ir import Address
from modelfleet.kube.records import endpoints_of, node_of, parse_quantity, pod_of, requests_of, workload_of

OURS = {MANAGED_BY: MANAGED_BY_VALUE, POOL: "small", FLAVOR: "l4"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", "0"),
        ("100m", "0.1"),
        ("2", "2"),
        ("4Gi", str(4 * 2**30)),
        ("1.5k", "1500"),
        ("2e3", "2000"),
        ("1E", str(10**18)),
        ("500n", "5e-7"),
        ("3E2", "300"),
    ],
)
def test_quantities(text: str, value: str) -> None:
    assert parse_quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "Gi", "x", "1 Gi Gi", "NaN", "Infinity"])
def test_what_is_no_quantity_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        parse_quantity(text)


def container(cpu: str = "", gpu: int = 0, **more: str) -> dict:
    requests = ({"cpu": cpu} if cpu else {}) | ({"nvidia.com/gpu": str(gpu)} if gpu else {})
    return {"name": "c", "resources": {"requests": requests}, **more}


def test_requests_are_counted_as_the_scheduler_counts_them() -> None:
    spec = {
        "containers": [container("500m", 1), container("250m")],
        "initContainers": [container("100m", restartPolicy="Always"), container("2"), container("50m", restartPolicy="Always"), container("900m", 2)],
        "overhead": {"cpu": "10m"},
    }
    # at rest 500 + 250 + 100 + 50; while starting 2000 beside the first sidecar, or 900 beside both
    assert requests_of(spec) == {"cpu": 2100 + 10, "nvidia.com/gpu": 2}
    assert requests_of({"containers": [container("1m"), container()]}) == {"cpu": 1}
    assert requests_of({"containers": [container("1")], "resources": {"requests": {"cpu": "3"}}}) == {"cpu": 3000}


def test_a_node() -> None:
    raw = {
        "metadata": {"name": "n", "labels": {"a": "b"}},
        "spec": {"unschedulable": True},
        "status": {
            "capacity": {"cpu": "8", "memory": "16Gi", "nvidia.com/gpu": "2"},
            "allocatable": {"cpu": "7900m", "nvidia.com/gpu": "2"},
            "conditions": [{"type": "Ready", "status": "Unknown"}],
        },
    }
    node = node_of(raw)
    assert node.capacity == {"cpu": 8000, "memory": 16 * 2**30, "nvidia.com/gpu": 2}
    assert node.allocatable == {"cpu": 7900, "nvidia.com/gpu": 2}
    assert (node.ready, node.schedulable) == (False, False)
    assert node_of({"metadata": {"name": "bare"}}).capacity == {}


def test_a_pod_that_finds_no_place() -> None:
    pod = pod_of(
        {
            "metadata": {"namespace": "a", "name": "p", "uid": "u", "labels": OURS, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [container(gpu=1)]},
            "status": {
                "phase": "Pending",
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes", "lastTransitionTime": "2026-01-01T00:00:05Z"}
                ],
            },
        }
    )
    assert (pod.pool, pod.flavor, pod.node, pod.holds_devices) == ("small", "l4", None, False)
    assert pod.unschedulable_since == datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC)
    assert pod.unschedulable_message == "0/3 nodes"


def test_a_pod_that_crashes_and_a_pod_of_others() -> None:
    waiting = {"restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    pod = pod_of(
        {
            "metadata": {"namespace": "a", "name": "p", "labels": {POOL: "small"}},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "containerStatuses": [waiting], "conditions": [{"type": "Ready", "status": "True"}]},
        }
    )
    assert (pod.pool, pod.waiting_reason, pod.restarts, pod.ready, pod.holds_devices) == (None, "CrashLoopBackOff", 4, True, True)


def test_a_workload_and_why_it_gets_no_pods() -> None:
    raw = {
        "metadata": {"namespace": "a", "name": "small-l4", "labels": OURS},
        "spec": {"replicas": 0},
        "status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]},
    }
    workload = workload_of(raw)
    assert workload is not None
    assert (workload.pool, workload.flavor, workload.replicas, workload.failure) == ("small", "l4", 0, "exceeded quota")
    assert workload_of({"metadata": {"name": "x"}}) is None


def test_ready_endpoints_only() -> None:
    raw = {
        "metadata": {"namespace": "a", "name": "s", "labels": OURS},
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [
            {"addresses": ["10.0.0.2"], "conditions": {"ready": True}},
            {"addresses": ["10.0.0.1"]},
            {"addresses": ["10.0.0.3"], "conditions": {"ready": False}},
        ],
    }
    found = endpoints_of(raw)
    assert found is not None
    assert found.pool == "a/small"
    assert found.addresses == (Address("10.0.0.1", 8080, "l4"), Address("10.0.0.2", 8080, "l4"))
    assert endpoints_of({"metadata": {"name": "x"}}) is None


def test_revisions_and_how_a_deployment_replaces() -> None:
    labels = OURS | {"pod-template-hash": "5d4f"}
    assert pod_of({"metadata": {"name": "p", "labels": labels}}).revision == "5d4f"
    assert pod_of({"metadata": {"name": "p", "labels": {"pod-template-hash": "5d4f"}}}).revision == ""
    for surge, in_place in ((0, True), ("0%", True), (1, False), ("25%", False), (None, False)):
        rolling = {} if surge is None else {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": 1}}
        workload = workload_of({"metadata": {"name": "d", "labels": OURS}, "spec": {"replicas": 1, "strategy": {"type": "RollingUpdate", **rolling}}})
        assert workload is not None
        assert workload.in_place is in_place
