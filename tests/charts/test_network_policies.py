"""Who may connect to whom: the policies of the chart, weighed against the labels that the product's own pods carry.

The lab's network does not enforce policies, so their meaning is worked out here, by the rules of the API: a pod that some policy selects is closed but for
what the policies that select it let in (or out). Traffic between a node and its own pods is never subject to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import yaml
from tests.charts.test_chart import NAMESPACE, container, objects, pod_template
from tests.support.apiserver import ApiServer
from tests.support.builders import a_class, a_pool

from modelfleet.core.render.deployment import deployment
from modelfleet.core.render.labels import POOL
from modelfleet.core.world import Defaults

pytestmark = pytest.mark.real

TENANT = "shop"
VALUES = {"networkPolicies": {"modelNamespaces": [TENANT]}}
PUBLIC, PRIVATE, METADATA = "93.184.215.14", "10.96.0.1", "169.254.169.254"


@cache
def _rendered(values: str) -> list[dict[str, Any]]:
    return objects(json.loads(values))


def rendered(values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return _rendered(json.dumps(values or VALUES, sort_keys=True))


@dataclass(frozen=True)
class Pod:
    """A pod as policies see it."""

    namespace: str
    labels: dict[str, str]
    address: str = "10.244.1.9"


def ours(component: str, values: dict[str, Any] | None = None) -> Pod:
    return Pod(NAMESPACE, pod_template(rendered(values), f"modelfleet-{component}")["metadata"]["labels"])


def a_model_server(namespace: str = TENANT) -> Pod:
    pool = a_pool("coder", namespace).on("h100", "h100").build()
    engine, flavor = pool.spec.engine, pool.spec.flavors[0]
    assert engine is not None
    made = deployment(pool, engine, flavor, a_class("h100"), replicas=1, defaults=Defaults())
    return Pod(namespace, made["spec"]["template"]["metadata"]["labels"])


ANYONE = Pod("elsewhere", {"app": "shell"})
NEIGHBOUR = Pod(NAMESPACE, {"app": "shell"})
TENANTS_OWN = Pod(TENANT, {"app": "shell"})
PROMETHEUS = Pod("monitoring", {"app.kubernetes.io/name": "prometheus"})
OUTSIDE = PUBLIC


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "Exists", "teach this test more before the chart uses more"
        if expression["key"] not in labels:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def meets(peer: dict[str, Any], own_namespace: str, other: Pod | str) -> bool:
    if "ipBlock" in peer:
        block, address = peer["ipBlock"], ip_address(other if isinstance(other, str) else other.address)
        return address in ip_network(block["cidr"]) and not any(address in ip_network(e) for e in block.get("except", []))
    if isinstance(other, str):
        return False
    if "namespaceSelector" in peer:
        in_namespace = matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace})
    else:
        in_namespace = other.namespace == own_namespace
    return in_namespace and matches(peer.get("podSelector", {}), other.labels)


def may(policies: Iterable[dict[str, Any]], direction: str, pod: Pod, other: Pod | str, port: int, protocol: str = "TCP") -> bool:
    """Whether `pod` may be reached by (`ingress`), or reach (`egress`), the other one on a port."""
    selecting = [
        p for p in policies
        if p["metadata"]["namespace"] == pod.namespace
        and matches(p["spec"]["podSelector"], pod.labels)
        and direction.capitalize() in p["spec"]["policyTypes"]
    ]  # fmt: skip
    if not selecting:
        return True
    for rule in (rule for p in selecting for rule in p["spec"].get(direction) or []):
        peers = rule.get("from" if direction == "ingress" else "to")
        ports = rule.get("ports")
        if (peers is None or any(meets(peer, pod.namespace, other) for peer in peers)) and (
            ports is None or any(p["port"] == port and p["protocol"] == protocol for p in ports)
        ):
            return True
    return False


def policies(values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return [o for o in rendered(values) if o["kind"] == "NetworkPolicy"]


def port_of(component: str, container_name: str, name: str) -> int:
    ports = container(rendered(), f"modelfleet-{component}", container_name)["ports"]
    return next(int(p["containerPort"]) for p in ports if p["name"] == name)


def test_each_of_our_pods_and_model_servers_is_selected_by_exactly_one_policy() -> None:
    for pod in (ours("operator"), ours("gateway"), ours("teams"), a_model_server()):
        selecting = [p["metadata"]["name"] for p in policies() if p["metadata"]["namespace"] == pod.namespace and matches(p["spec"]["podSelector"], pod.labels)]
        assert len(selecting) == 1, (pod, selecting)
    for pod in (NEIGHBOUR, TENANTS_OWN, a_model_server("elsewhere")):
        assert not [p for p in policies() if p["metadata"]["namespace"] == pod.namespace and matches(p["spec"]["podSelector"], pod.labels)], pod
    assert POOL in a_model_server().labels


def test_the_gateway_is_open_to_pods_and_its_router_to_operator_and_monitoring() -> None:
    api, router = port_of("gateway", "envoy", "http"), port_of("gateway", "router", "http-router")
    allowed, gateway = policies(), ours("gateway")
    for client in (ANYONE, NEIGHBOUR, TENANTS_OWN, PROMETHEUS, ours("teams")):
        assert may(allowed, "ingress", gateway, client, api)
    assert not may(allowed, "ingress", gateway, OUTSIDE, api)
    for reader in (ours("operator"), PROMETHEUS):
        assert may(allowed, "ingress", gateway, reader, router)
    for other in (ANYONE, NEIGHBOUR, TENANTS_OWN, ours("teams"), a_model_server(), OUTSIDE):
        assert not may(allowed, "ingress", gateway, other, router)
    for target in (PUBLIC, PRIVATE, a_model_server()):
        assert may(allowed, "egress", gateway, target, 8443), "endpoints may be anywhere"


@pytest.mark.parametrize("kind", ["NodePort", "LoadBalancer"])
def test_a_gateway_that_faces_the_outside_is_open_to_it(kind: str) -> None:
    values = {**VALUES, "gateway": {"service": {"type": kind}}}
    assert may(policies(values), "ingress", ours("gateway"), OUTSIDE, 8080)
    assert not may(policies(values), "ingress", ours("gateway"), OUTSIDE, 8081)


def test_clients_can_be_narrowed() -> None:
    shops = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": TENANT}}}
    narrowed = policies({"networkPolicies": {"clients": [shops]}})
    assert may(narrowed, "ingress", ours("gateway"), TENANTS_OWN, 8080)
    assert not may(narrowed, "ingress", ours("gateway"), ANYONE, 8080)


def test_the_operator_gives_metrics_to_monitoring_alone() -> None:
    port = port_of("operator", "operator", "http-metrics")
    assert may(policies(), "ingress", ours("operator"), PROMETHEUS, port)
    for other in (ANYONE, NEIGHBOUR, ours("gateway"), OUTSIDE):
        assert not may(policies(), "ingress", ours("operator"), other, port)
    closed = policies({"networkPolicies": {"monitoring": []}})
    for component in ("operator", "teams"):
        assert not may(closed, "ingress", ours(component), PROMETHEUS, port_of(component, component, "http" if component == "teams" else "http-metrics"))
    assert may(policies(), "egress", ours("operator"), PRIVATE, 6443)


def test_teams_hear_the_gateway_and_call_it_the_api_server_and_dns_and_no_more() -> None:
    port, teams = port_of("teams", "teams", "http"), ours("teams")
    for caller in (ours("gateway"), PROMETHEUS):
        assert may(policies(), "ingress", teams, caller, port)
    for other in (ANYONE, NEIGHBOUR, TENANTS_OWN, ours("operator"), a_model_server(), OUTSIDE):
        assert not may(policies(), "ingress", teams, other, port)
    assert may(policies(), "egress", teams, ours("gateway"), port_of("gateway", "envoy", "http"))
    assert not may(policies(), "egress", teams, ours("gateway"), port_of("gateway", "router", "http-router"))
    for port in (443, 6443):
        assert may(policies(), "egress", teams, PRIVATE, port), "the API server, where the Service's address leads"
    for protocol in ("UDP", "TCP"):
        assert may(policies(), "egress", teams, "169.254.20.10", 53, protocol), "a resolver on the node"
    for target in (a_model_server(), ANYONE, METADATA, PUBLIC):
        assert not may(policies(), "egress", teams, target, 80)
    narrow = policies({"networkPolicies": {"apiServer": {"cidrs": ["192.0.2.0/28"], "ports": [6443]}}})
    assert may(narrow, "egress", teams, "192.0.2.3", 6443)
    assert not may(narrow, "egress", teams, PUBLIC, 443)


def test_model_servers_hear_the_gateway_alone_and_may_fetch_models_from_outside() -> None:
    server = a_model_server()
    for port in (8080, 8000, 9000):
        assert may(policies(), "ingress", server, ours("gateway"), port)
        for other in (ANYONE, NEIGHBOUR, TENANTS_OWN, ours("operator"), ours("teams"), a_model_server(), PROMETHEUS, OUTSIDE):
            assert not may(policies(), "ingress", server, other, port)
    masked = Pod("elsewhere", ours("gateway").labels)
    assert not may(policies(), "ingress", server, masked, 8080), "the labels of a gateway in a tenant's namespace open nothing"
    assert may(policies(), "egress", server, PUBLIC, 443)
    assert may(policies(), "egress", server, PRIVATE, 53, "UDP")
    for target in (PRIVATE, METADATA, "172.20.1.1", "192.168.0.9", "100.64.1.1", "fd00::1", "fe80::1"):
        assert not may(policies(), "egress", server, target, 443)
    shut = policies({"networkPolicies": {"modelNamespaces": [TENANT], "modelServers": {"egress": []}}})
    assert not may(shut, "egress", server, PUBLIC, 443)
    assert not may(shut, "egress", server, PRIVATE, 53, "UDP")
    seen = policies(
        {
            "networkPolicies": {
                "modelNamespaces": [TENANT],
                "modelServers": {"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]},
            }
        }
    )
    assert may(seen, "ingress", server, PROMETHEUS, 8080)


def test_they_can_be_left_out() -> None:
    assert policies({"networkPolicies": {"enabled": False}}) == []
    assert {p["metadata"]["name"] for p in policies({"teams": {"enabled": False}})} == {"modelfleet-gateway", "modelfleet-operator"}


def test_the_api_server_keeps_every_policy_as_it_was_rendered(apiserver: ApiServer) -> None:
    for name in (NAMESPACE, TENANT):
        apiserver.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
    made = policies()
    apiserver.apply(yaml.safe_dump_all(made))
    try:
        for policy in made:
            kept = apiserver.get("networkpolicy", policy["metadata"]["name"], "-n", policy["metadata"]["namespace"])["spec"]
            assert kept == {k: v for k, v in policy["spec"].items() if v != []}
    finally:
        apiserver.kubectl("delete", "networkpolicy", "--all", "-n", NAMESPACE)
        apiserver.kubectl("delete", "networkpolicy", "--all", "-n", TENANT)
