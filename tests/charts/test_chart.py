"""The chart: what it renders, refuses and grants, on the pinned Helm and a real API server."""

from __future__ import annotations

import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.lab.binaries import binary, ensure_binaries
from e2e.lab.versions import KUBERNETES
from tests.support.apiserver import CHECKOUT, ApiServer

from modelfleet.core.render.labels import GATEWAY_SELECTOR
from modelfleet.core.routing.bootstrap import bootstrap_text
from modelfleet.core.routing.egress import egress
from modelfleet.router.settings import read_settings

CHART = CHECKOUT / "charts" / "modelfleet"
NAMESPACE = "modelfleet-system"
DIGEST = "sha256:" + "ab" * 32
OVERRIDES: dict[str, Any] = {
    "image": {"repository": "localhost/modelfleet", "tagOverride": "lab"},
    "engines": {"LlamaCpp": "localhost/engine:1"},
    "operator": {"replicas": 2, "labelNodes": False},
    "gateway": {
        "replicas": 2,
        "secretNamespaces": ["apps"],
        "envoy": {"image": {"digest": DIGEST}},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "x", "operator": "Exists"}],
    },
    "teams": {"journal": {"persistence": {"enabled": True, "size": "5Gi", "storageClass": "fast"}}, "gatewayURL": "http://[fd00::1]:80"},
    "grants": {"existingSecret": "my-keys"},
    "networkPolicies": {"modelNamespaces": ["apps"], "modelServers": {"from": [{"podSelector": {}}], "egress": []}, "monitoring": []},
    "accelerators": {"exclude": ["nvidia-k80"], "prices": {"nvidia-l4": "0.45"}},
    "imagePullSecrets": [{"name": "pull"}],
}


def helm(*argv: str | Path, values: dict[str, Any] | None = None, kubeconfig: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    ensure_binaries(["helm"])
    env = {**os.environ, "KUBECONFIG": str(kubeconfig or "/dev/null")}
    given = ("-f", "-") if values is not None else ()
    done = subprocess.run([str(binary("helm")), *map(str, argv), *given], input=json.dumps(values), capture_output=True, text=True, env=env, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def render(values: dict[str, Any] | None = None, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    return helm("template", "modelfleet", CHART, "-n", NAMESPACE, "--kube-version", KUBERNETES, values=values or {}, check=check)


def objects(values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return [o for o in yaml.safe_load_all(render(values).stdout) if o]


def pick(rendered: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    return next(o for o in rendered if o["kind"] == kind and o["metadata"]["name"] == name)


def pod_template(rendered: list[dict[str, Any]], name: str) -> dict[str, Any]:
    template: dict[str, Any] = pick(rendered, "Deployment", name)["spec"]["template"]
    return template


def container(rendered: list[dict[str, Any]], deployment: str, name: str) -> dict[str, Any]:
    return next(c for c in pod_template(rendered, deployment)["spec"]["containers"] if c["name"] == name)


@pytest.mark.parametrize("chart", ["modelfleet", "modelfleet-crds"])
def test_charts_lint(chart: str) -> None:
    helm("lint", "--strict", CHECKOUT / "charts" / chart)


@pytest.mark.parametrize("values", [{}, OVERRIDES], ids=["defaults", "overrides"])
def test_everything_is_accepted_by_the_api_server_in_a_restricted_namespace(apiserver_with_crds: ApiServer, values: dict[str, Any]) -> None:
    namespace = f"chart-{'overrides' if values else 'defaults'}"
    for name in {namespace, *values.get("gateway", {}).get("secretNamespaces", [])}:
        labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        apiserver_with_crds.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}))
    rendered = [{**o, "metadata": {**o["metadata"], "namespace": namespace}} if o["metadata"].get("namespace") == NAMESPACE else o for o in objects(values)]
    done = apiserver_with_crds.kubectl("apply", "--dry-run=server", "-f", "-", input=yaml.safe_dump_all(rendered))
    assert done.returncode == 0, done.stderr
    assert "would violate" not in done.stderr
    assert "nknown field" not in done.stderr
    for deployment in ("modelfleet-operator", "modelfleet-gateway", "modelfleet-teams"):  # Deployments are only warned about; pods are refused
        template = pod_template(rendered, deployment)
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": "probe", "namespace": namespace}, "spec": template["spec"]}
        refused = apiserver_with_crds.kubectl("create", "--dry-run=server", "-f", "-", input=yaml.safe_dump(pod))
        assert refused.returncode == 0, refused.stderr


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"opreator": {}}, "opreator"),
        ({"operator": {"replicas": 3}}, "replicas"),
        ({"operator": {"replica": 1}}, "replica"),
        ({"image": {"digest": "sha256:short"}}, "digest"),
        ({"image": {"repository": ""}}, "repository"),
        ({"engines": {"llamacpp": "x"}}, "llamacpp"),
        ({"gateway": {"secretNamespaces": ["Apps"]}}, "secretNamespaces"),
        ({"gateway": {"drainSeconds": 0}}, "drainSeconds"),
        ({"endpoints": {"allow": ["http://x"]}}, "allow"),
        ({"endpoints": {"allow": ["a,b"]}}, "allow"),
        ({"endpoints": {"allow": "10.0.0.0/8"}}, "allow"),
        ({"endpoints": {"allows": []}}, "allows"),
        ({"gateway": {"service": {"type": "ExternalName"}}}, "type"),
        ({"teams": {"replicas": 2}}, "replicas"),
        ({"teams": {"gatewayURL": "gateway"}}, "gatewayURL"),
        ({"teams": {"gatewayURL": "http://x/v1"}}, "gatewayURL"),
        ({"teams": {"journal": {"persistence": {"size": "big"}}}}, "size"),
        ({"grants": {"existingSecret": "My_Keys"}}, "existingSecret"),
        ({"grants": {"keys": ["x"]}}, "keys"),
        ({"networkPolicies": {"clients": []}}, "clients"),
        ({"networkPolicies": {"clients": [{"podselector": {}}]}}, "podselector"),
        ({"networkPolicies": {"monitoring": [{}]}}, "monitoring"),
        ({"networkPolicies": {"apiServer": {"cidrs": ["10.0.0.1"]}}}, "cidrs"),
        ({"networkPolicies": {"modelNamespaces": ["Apps"]}}, "modelNamespaces"),
        ({"accelerators": {"prices": {"nvidia-l4": 0.45}}}, "prices"),
        ({"accelerators": {"prices": {"nvidia-l4": "cheap"}}}, "prices"),
    ],
)
def test_bad_values_are_refused_by_the_schema(values: dict[str, Any], named: str) -> None:
    done = render(values, check=False)
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr
    assert named in done.stderr


@pytest.mark.parametrize("values", [{"exclude": ["nvidia-l5"]}, {"prices": {"nvidia-l5": "1"}}])
def test_a_class_that_is_not_in_the_catalogue_is_refused(values: dict[str, Any]) -> None:
    done = render({"accelerators": values}, check=False)
    assert done.returncode != 0
    assert 'no class "nvidia-l5" in the catalogue' in done.stderr


def test_images_follow_override_then_digest_then_tag() -> None:
    plain, changed = objects(), objects(OVERRIDES)
    assert container(plain, "modelfleet-gateway", "envoy")["image"] == "docker.io/envoyproxy/envoy:v1.40.0"
    assert container(plain, "modelfleet-operator", "operator")["image"] == "ghcr.io/modelfleet/modelfleet:0.1.0"
    assert container(changed, "modelfleet-gateway", "envoy")["image"] == f"docker.io/envoyproxy/envoy@{DIGEST}"
    assert container(changed, "modelfleet-gateway", "router")["image"] == "localhost/modelfleet:lab"
    both = objects({"image": {"digest": DIGEST, "tagOverride": "lab"}})
    assert container(both, "modelfleet-operator", "operator")["image"] == "ghcr.io/modelfleet/modelfleet:lab"


def test_only_the_router_of_a_gateway_pod_has_a_token() -> None:
    spec = pod_template(objects(), "modelfleet-gateway")["spec"]
    assert spec["automountServiceAccountToken"] is False
    holders = [c["name"] for c in spec["containers"] if any("serviceaccount" in m["mountPath"] for m in c["volumeMounts"])]
    assert holders == ["router"]


def test_the_operator_finds_the_gateway_by_its_labels() -> None:
    labels = pod_template(objects(), "modelfleet-gateway")["metadata"]["labels"]
    wanted = dict(part.split("=") for part in GATEWAY_SELECTOR.split(","))
    assert wanted.items() <= labels.items()
    assert not wanted.items() <= pod_template(objects(), "modelfleet-operator")["metadata"]["labels"].items()


def test_two_replicas_get_a_disruption_budget_and_one_gets_none() -> None:
    one = {"gateway": {"replicas": 1}}
    assert [o for o in objects(one) if o["kind"] == "PodDisruptionBudget"] == []
    assert sorted(o["metadata"]["name"] for o in objects(OVERRIDES) if o["kind"] == "PodDisruptionBudget") == ["modelfleet-gateway", "modelfleet-operator"]


def test_grace_periods_leave_room_for_the_drain() -> None:
    spec = pod_template(objects({"gateway": {"drainSeconds": 40}}), "modelfleet-gateway")["spec"]
    envoy, router = spec["containers"]
    assert envoy["lifecycle"]["preStop"]["sleep"]["seconds"] == 40
    told = next(int(e["value"]) for e in router["env"] if e["name"] == "MODELFLEET_DRAIN_SECONDS")
    assert 40 < told < spec["terminationGracePeriodSeconds"]
    assert pod_template(objects(), "modelfleet-operator")["spec"]["terminationGracePeriodSeconds"] == 30


def test_the_router_reads_which_endpoints_the_platform_allows() -> None:
    for allow in ([], ["llm.corp.example", "10.20.0.0/16", "fd00::/8", "192.0.2.7", "fd00::1"]):
        env = container(objects({"endpoints": {"allow": allow}}), "modelfleet-gateway", "router")["env"]
        value = {e["name"]: e.get("value", "") for e in env}["MODELFLEET_ENDPOINTS_ALLOW"]
        assert read_settings({"MODELFLEET_ENDPOINTS_ALLOW": value}).egress == egress(allow)


def test_classes_can_be_priced_left_out_and_not_installed() -> None:
    changed = objects(OVERRIDES)
    assert pick(changed, "AcceleratorClass", "nvidia-l4")["spec"]["price"]["perDeviceHour"] == "0.45"
    assert pick(changed, "AcceleratorClass", "nvidia-h100-80gb")["spec"]["price"]["perDeviceHour"] == "6.88"
    named = {o["metadata"]["name"] for o in changed if o["kind"] == "AcceleratorClass"}
    assert "nvidia-k80" not in named
    assert "cpu" in named
    assert not [o for o in objects({"accelerators": {"install": False}}) if o["kind"] == "AcceleratorClass"]


def test_copies_in_the_chart_equal_their_sources() -> None:
    cure = "run: make chart"
    sources = {f.name: f.read_text() for f in (CHECKOUT / "policies" / "accelerators").glob("*.yaml")}
    copies = {f.name: f.read_text() for f in (CHART / "files" / "accelerators").glob("*.yaml")}
    assert copies == sources, cure
    assert (CHART / "files" / "envoy.yaml").read_text() == bootstrap_text("modelfleet-gateway"), cure


def test_every_verb_has_a_reason_and_every_reason_a_verb() -> None:
    rendered = objects({"gateway": {"secretNamespaces": ["apps"]}})
    roles = {
        "operator (ClusterRole)": pick(rendered, "ClusterRole", "modelfleet-operator"),
        "operator (Role in its own namespace)": pick(rendered, "Role", "modelfleet-operator"),
        "gateway (ClusterRole)": pick(rendered, "ClusterRole", "modelfleet-gateway"),
        "secret-reader (ClusterRole, bound by the owner of a namespace)": pick(rendered, "ClusterRole", "modelfleet-secret-reader"),
        "teams (ClusterRole)": pick(rendered, "ClusterRole", "modelfleet-teams"),
        "gateway-secrets (Role in each namespace of gateway.secretNamespaces)": pick(rendered, "Role", "modelfleet-gateway-secrets"),
    }
    assert sorted(o["metadata"]["name"] for o in rendered if o["kind"] in ("Role", "ClusterRole")) == sorted(r["metadata"]["name"] for r in roles.values())
    granted: dict[str, dict[str, set[str]]] = {}
    for name, role in roles.items():
        verbs: dict[str, set[str]] = defaultdict(set)
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                verbs[f"{group}/{','.join(rule['resources'])}"] |= set(rule["verbs"])
        granted[name] = dict(verbs)
    table = yaml.safe_load((Path(__file__).parent / "rbac.yaml").read_text())
    assert granted == {name: {what: set(verbs) for what, verbs in rules.items()} for name, rules in table.items()}
    assert all(reason for rules in table.values() for verbs in rules.values() for reason in verbs.values())
    assert not [v for rules in granted.values() for verbs in rules.values() for v in verbs if v in ("*", "escalate", "bind", "impersonate")]


def test_nodes_are_not_writable_when_labelling_is_off() -> None:
    rules = pick(objects({"operator": {"labelNodes": False}}), "ClusterRole", "modelfleet-operator")["rules"]
    assert next(r for r in rules if r["resources"] == ["nodes"])["verbs"] == ["list", "watch"]


@pytest.fixture
def installed(apiserver_with_crds: ApiServer) -> Iterator[ApiServer]:
    for name in (NAMESPACE, "apps", "elsewhere"):
        apiserver_with_crds.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
    install(apiserver_with_crds, {"gateway": {"secretNamespaces": ["apps"]}})
    yield apiserver_with_crds
    helm("uninstall", "modelfleet", "-n", NAMESPACE, "--ignore-not-found", kubeconfig=apiserver_with_crds.kubeconfig)


def install(server: ApiServer, values: dict[str, Any]) -> None:
    helm("upgrade", "--install", "modelfleet", CHART, "-n", NAMESPACE, values=values, kubeconfig=server.kubeconfig)


def test_install_grants_what_is_needed_and_no_more(installed: ApiServer) -> None:
    def may(account: str, verb: str, what: str, *where: str) -> bool:
        user = f"system:serviceaccount:{NAMESPACE}:modelfleet-{account}"
        return installed.kubectl("auth", "can-i", verb, what, f"--as={user}", *where).stdout.strip() == "yes"

    everywhere = "--all-namespaces"
    assert may("operator", "patch", "modelpools.modelfleet.dev", "--subresource=status", everywhere)
    assert may("operator", "patch", "deployments.apps", everywhere)
    assert may("operator", "update", "leases.coordination.k8s.io/modelfleet-operator", "-n", NAMESPACE)
    assert not may("operator", "update", "leases.coordination.k8s.io/another", "-n", NAMESPACE)
    assert not may("operator", "patch", "modelpools.modelfleet.dev", everywhere)
    assert not may("operator", "list", "secrets", everywhere)
    assert not may("operator", "create", "pods", everywhere)
    assert may("gateway", "watch", "secrets", "-n", "apps")
    assert not may("gateway", "list", "secrets", "-n", "elsewhere")
    assert not may("gateway", "list", "secrets", "-n", NAMESPACE)
    assert may("teams", "patch", "agentteams.modelfleet.dev", "--subresource=status", everywhere)
    assert not may("teams", "patch", "agentteams.modelfleet.dev", everywhere)
    assert not may("teams", "list", "secrets", "-n", NAMESPACE)
    assert not may("teams", "list", "pods", everywhere)
    assert may("gateway", "patch", "routingpolicies.modelfleet.dev", "--subresource=status", everywhere)
    assert not may("gateway", "patch", "modelpools.modelfleet.dev", "--subresource=status", everywhere)
    assert not may("gateway", "list", "pods", everywhere)


def test_upgrade_changes_prices_and_uninstall_leaves_nothing(installed: ApiServer) -> None:
    assert installed.get("acceleratorclass", "nvidia-l4")["spec"]["price"]["perDeviceHour"] == "0.8048"
    install(installed, {"accelerators": {"prices": {"nvidia-l4": "0.45"}}})
    assert installed.get("acceleratorclass", "nvidia-l4")["spec"]["price"]["perDeviceHour"] == "0.45"
    helm("uninstall", "modelfleet", "-n", NAMESPACE, kubeconfig=installed.kubeconfig)
    kinds = (
        "deployments,services,configmaps,secrets,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,networkpolicies,leases,acceleratorclasses"
    )
    assert installed.get(kinds, "-l", "app.kubernetes.io/part-of=modelfleet", "--all-namespaces")["items"] == []
